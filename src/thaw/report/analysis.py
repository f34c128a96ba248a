"""What the numbers say, in plain English: sentences computed from `metrics.json`."""

import statistics

import numpy as np
from numpy.typing import NDArray

from thaw.report.figures import mean_curve
from thaw.report.ranking import DOUBT, Metrics, certainty, choice, leads, mean_accuracies, pairs, price, seeds, standing
from thaw.text import count, listed, named, parameters, percent, points, seconds, short

NEAR = 0.01
"""A difference in training accuracy of less than a point is called none."""
OVERFIT = 0.05
"""Training accuracy this far above test accuracy is called overfitting."""


def confusion(metrics: Metrics, arm: str) -> NDArray[np.int64]:
    """The confusion matrix of an arm on test, (classes, classes), summed over its seeds."""
    runs = metrics["arms"][arm]["runs"]
    total: NDArray[np.int64] = np.sum([run["test"]["confusion"] for run in runs], axis=0)
    return total


def analysis(metrics: Metrics) -> dict[str, str]:
    """By heading, a paragraph on who won and how surely, which to use, how the arms learned and fail, what they cost.

    Names of arms stand in backticks.
    """
    sentences = {
        "Who wins": (standing, certainty, seeds),
        "Which to use": (choice,),
        "How they learn": (_starts, _convergence, _overfitting, _edges, _stops),
        "Where they fail": (_mistakes, _other_mistakes),
        "What they cost": (_cost, price),
    }
    told = {heading: " ".join(filter(None, (say(metrics) for say in about))) for heading, about in sentences.items()}
    return {heading: paragraph for heading, paragraph in told.items() if paragraph}


def _starts(metrics: Metrics) -> str:
    """What pretraining is worth, and whether training everything beat training the head."""
    means, arms = mean_accuracies(metrics), metrics["arms"]
    random = {arm: mean for arm, mean in means.items() if arms[arm]["weights"] == "random"}
    pretrained = {arm: mean for arm, mean in means.items() if arm not in random}
    sentences = []
    if random and pretrained:
        one, other = max(random, key=random.__getitem__), max(pretrained, key=pretrained.__getitem__)
        gap, doubt = pretrained[other] - random[one], _doubt(metrics, one, other)
        if gap > 0:
            told = f"Starting from pretrained weights is worth {points(gap)} ({named(other)} against {named(one)})"
        elif gap:
            told = f"Pretrained weights do not help here: {named(one)} is {points(gap)} ahead of {named(other)} without"
        else:
            told = f"Pretrained weights do not help here: {named(one)} is as accurate without as {named(other)}"
        sentences.append(f"{told}{doubt}.")
    heads = [arm for arm in pretrained if arms[arm]["train"] == "head"]
    whole = [arm for arm in pretrained if arms[arm]["train"] == "all"]
    if heads and whole:
        gap = means[whole[0]] - means[heads[0]]
        more = f"{points(gap)} {'more' if gap > 0 else 'less'} than" if gap else "the same accuracy as"
        doubt = _doubt(metrics, whole[0], heads[0])
        sentences.append(f"Training every layer ({named(whole[0])}) gives {more} training the head alone{doubt}.")
    return " ".join(sentences)


def _doubt(metrics: Metrics, one: str, other: str) -> str:
    """What to add to a difference of two arms where the test set does not show it."""
    lead = next(lead for lead in pairs(metrics) if {lead.ahead, lead.over} == {one, other})
    return "" if lead.clear or not lead.gap else DOUBT


def _convergence(metrics: Metrics) -> str:
    curves = {arm: _training_accuracy(metrics, arm) for arm in metrics["arms"]}
    curves = {arm: curve for arm, curve in curves.items() if len(curve) > 1}
    if not curves:
        return "A single epoch of training says nothing of convergence."
    lengths = sorted({len(curve) for curve in curves.values()})
    epochs = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
    settled: dict[int, list[str]] = {}
    rising: list[str] = []
    falling: list[str] = []
    for arm, curve in curves.items():
        gain = float(curve[-1] - curve[-2])
        if abs(gain) < NEAR:
            away = np.flatnonzero(np.abs(curve - curve[-1]) >= NEAR)
            settled.setdefault(int(away[-1]) + 2 if len(away) else 1, []).append(named(arm))
        else:
            (rising if gain > 0 else falling).append(f"{named(arm)} ({points(gain)})")
    sentences = []
    if settled:
        told = listed([f"{listed(arms)} from epoch {epoch}" for epoch, arms in sorted(settled.items())])
        sentences.append(f"Over {epochs} epochs, training accuracy is within a point of its last value for {told}.")
    if rising:
        sentences.append(f"Still gaining in the last epoch: {listed(rising)}; more epochs may help.")
    if falling:
        sentences.append(f"Losing in the last epoch: {listed(falling)}; a lower learning rate may be steadier.")
    return " ".join(sentences)


def _overfitting(metrics: Metrics) -> str:
    over = []
    for arm, mean in mean_accuracies(metrics).items():
        curve = _training_accuracy(metrics, arm)
        if len(curve) and curve[-1] - mean > OVERFIT:
            over.append(f"{named(arm)} ({percent(float(curve[-1]))} against {percent(mean)})")
    return f"Training accuracy well above test accuracy is a sign of overfitting: {listed(over)}." if over else ""


def _edges(metrics: Metrics) -> str:
    sentences = []
    for edge, beyond in (("highest", "higher"), ("lowest", "lower")):
        arms = [named(arm) for arm, it in metrics["arms"].items() if any(run["edge"] == edge for run in it["runs"])]
        if arms:
            sentences.append(
                f"The search chose the {edge} learning rate it tried for {listed(arms)}; "
                f"a still {beyond} one, not tried, may do better."
            )
    return " ".join(sentences)


def _stops(metrics: Metrics) -> str:
    """Which arms did not train to the end, or not in the precision that the study chose, and why."""
    sentences = []
    for arm, it in metrics["arms"].items():
        for run in it["runs"]:
            which = f"{named(arm)}, seed {run['seed']}," if len(it["runs"]) > 1 else named(arm)
            if run.get("stopped"):
                sentences.append(f"{which} stopped early: {run['stopped']}.")
            if run.get("precision", metrics["model"]["precision"]) != metrics["model"]["precision"]:
                sentences.append(f"{which} was trained in {run['precision']}, since its loss became infinite in bf16.")
    return " ".join(sentences)


def _mistakes(metrics: Metrics) -> str:
    """Which mistakes the best arm makes."""
    best, names = metrics["best"], [short(name) for name in metrics["classes"]]
    matrix = confusion(metrics, best)
    wrong = matrix - np.diag(np.diag(matrix))
    shares = wrong / np.maximum(matrix.sum(1, keepdims=True), 1)
    if not wrong.any():
        return f"{named(best)} makes no mistake on the test set."

    def told(cell: int) -> str:
        true, predicted = divmod(cell, len(names))
        often = f"{_times(int(wrong[true, predicted]))}, {percent(shares[true, predicted])} of {names[true]}"
        return f"{names[true]} for {names[predicted]} ({often})"

    ranked = np.argsort(-wrong, axis=None, kind="stable").tolist()
    commonest = [cell for cell in ranked if cell % (len(names) + 1)]  # the others lie on the diagonal
    runs = len(metrics["arms"][best]["runs"])
    made = f"{count(wrong.sum(), 'mistake')} over {runs} seeds" if runs > 1 else count(wrong.sum(), "mistake")
    if len(names) == 2:
        return f"In its {made}, {named(best)} takes {told(commonest[0])} and {told(commonest[1])}."
    hardest = int(shares.sum(1).argmax())
    return (
        f"In its {made}, {named(best)} most often takes {told(commonest[0])}; "
        f"the hardest class is {names[hardest]}, of which it misses {percent(shares[hardest].sum())}."
    )


def _other_mistakes(metrics: Metrics) -> str:
    """Which mistake each other arm makes most, and how often the reverse."""
    names = [short(name) for name in metrics["classes"]]
    told: list[str] = []
    for arm in metrics["arms"]:
        wrong = confusion(metrics, arm)
        np.fill_diagonal(wrong, 0)
        true, predicted = divmod(int(wrong.argmax()), len(names))
        if arm != metrics["best"] and wrong.any():
            often = f"{_times(int(wrong[true, predicted]))}, the reverse {_times(int(wrong[predicted, true]))}"
            verb = "" if told else "is to take "
            told.append(f"of {named(arm)} {verb}{names[true]} for {names[predicted]} ({often})")
    return f"The commonest mistake {listed(told)}." if told else ""


def _cost(metrics: Metrics) -> str:
    arms, best = metrics["arms"], metrics["best"]
    spent = {arm: statistics.fmean(run["seconds"]["train"] for run in it["runs"]) for arm, it in arms.items()}
    others = [
        f"{named(lead.over)} {parameters(arms[lead.over]['parameters']['trainable'])} in {seconds(spent[lead.over])}"
        for lead in leads(metrics)
    ]
    size = arms[best]["parameters"]
    own = (
        f"{named(best)} trains {parameters(size['trainable'])} of the network's {parameters(size['total'])} parameters "
        f"in {seconds(spent[best])}"
    )
    once = sum(run["seconds"].get("prepare", 0) for it in arms.values() for run in it["runs"])
    apart = f" Building the networks, and computing once what is frozen, took another {seconds(once)}." if once else ""
    return f"{', '.join([own, listed(others)]) if others else own}.{apart}"


def _training_accuracy(metrics: Metrics, arm: str) -> NDArray[np.float64]:
    """An arm's training accuracy by epoch, (epochs,), the mean over its seeds."""
    return mean_curve([[epoch["accuracy"] for epoch in run["epochs"]] for run in metrics["arms"][arm]["runs"]])


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{count(number)} times")
