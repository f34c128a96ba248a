"""The analysis: sentences computed from `metrics.json`, in plain English."""

import statistics

import numpy as np
from numpy.typing import NDArray

from thaw.report.figures import mean_curve
from thaw.report.ranking import DOUBT, certainty, choice, costs, leads, mean_accuracies, pairs, ranking, seeds
from thaw.run.metrics import Metrics
from thaw.text import count, fitted, listed, named, parameters, percent, points, seconds, short

NEAR = 0.01
"""A difference in training accuracy of less than a point is called none."""
OVERFIT = 0.05
"""Training accuracy this far above test accuracy is called overfitting."""


def confusion(metrics: Metrics, arm: str) -> NDArray[np.int64]:
    """Sum the confusion matrices of an arm's trials on the test images, (classes, classes)."""
    total = np.zeros((len(metrics.classes),) * 2, np.int64)
    for trial in metrics.arms[arm].trials:
        for true, predicted, images in trial.test.confusion:
            total[true, predicted] += images
    return total


def analysis(metrics: Metrics) -> dict[str, str]:
    """Write, by heading, who wins and how certain that is, which to use, how the arms learn, fail and what they cost.

    Names of arms are in backticks.
    """
    sentences = {
        "Who wins": (ranking, certainty, seeds),
        "Which to use": (choice,),
        "How they learn": (_starts, _fits, _convergence, _overfitting, _edges, _undecided, _stops),
        "Where they fail": (_mistakes, _other_mistakes),
        "What they cost": (_cost, costs),
    }
    told = {heading: " ".join(filter(None, (say(metrics) for say in about))) for heading, about in sentences.items()}
    return {heading: paragraph for heading, paragraph in told.items() if paragraph}


def edges(metrics: Metrics) -> dict[str, list[str]]:
    """Return the arms for which the search chose the `highest` or the `lowest` learning rate that it tried."""
    found = {
        edge: [arm for arm, it in metrics.arms.items() if any(trial.edge == edge for trial in it.trials)]
        for edge in ("highest", "lowest")
    }
    return {edge: arms for edge, arms in found.items() if arms}


def rising(metrics: Metrics) -> dict[str, float]:
    """Return the arms whose training accuracy still rose by a point or more in the last epoch, and by how much.

    One whose validation accuracy has peaked and fallen is none of them.
    """
    curves, peaks = {arm: _training_accuracy(metrics, arm) for arm in metrics.arms}, _peaks(metrics)
    gains = {arm: float(curve[-1] - curve[-2]) for arm, curve in curves.items() if len(curve) > 1}
    return {arm: gain for arm, gain in gains.items() if gain >= NEAR and arm not in peaks}


def _starts(metrics: Metrics) -> str:
    """What pretraining gains, and whether training everything beats training the head."""
    means, arms = mean_accuracies(metrics), metrics.arms
    random = {arm: mean for arm, mean in means.items() if arms[arm].weights == "random"}
    pretrained = {arm: mean for arm, mean in means.items() if arm not in random}
    sentences = []
    if random and pretrained:
        one, other = max(random, key=random.__getitem__), max(pretrained, key=pretrained.__getitem__)
        gap, doubt = pretrained[other] - random[one], _doubt(metrics, one, other)
        if gap > 0:
            told = f"Starting from pretrained weights gains {points(gap)} ({named(other)} against {named(one)})"
        elif gap:
            told = f"Pretrained weights do not help here: {named(one)} is {points(gap)} ahead of {named(other)} without"
        else:
            told = f"Pretrained weights do not help here: {named(one)} is as accurate without as {named(other)}"
        sentences.append(f"{told}{doubt}.")
    heads = [arm for arm in pretrained if arms[arm].train == "head"]
    whole = [arm for arm in pretrained if arms[arm].train == "all"]
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


def _fits(metrics: Metrics) -> str:
    """Which heads were fitted, with no epochs."""
    names = {"linear": "logistic regression", "knn": "nearest neighbours", "prototype": "nearest class means"}
    told = [
        f"{named(arm)} by {names[it.fit.kind]} ({fitted(it.fit.kind, it.fit.value)})"
        for arm, it in metrics.arms.items()
        if it.fit
    ]
    return f"Fitted at once to the features, with no learning rate or epochs: {listed(told)}." if told else ""


def _convergence(metrics: Metrics) -> str:
    curves = {arm: _training_accuracy(metrics, arm) for arm in metrics.arms}
    curves = {arm: curve for arm, curve in curves.items() if len(curve) > 1}
    if all(it.fit for it in metrics.arms.values()):
        return ""
    if not curves:
        return "A single epoch of training says nothing of convergence."
    lengths = sorted({len(curve) for curve in curves.values()})
    epochs = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
    settled: dict[int, list[str]] = {}
    falling: list[str] = []
    for arm, curve in curves.items():
        gain = float(curve[-1] - curve[-2])
        if abs(gain) < NEAR:
            away = np.flatnonzero(np.abs(curve - curve[-1]) >= NEAR)
            settled.setdefault(int(away[-1]) + 2 if len(away) else 1, []).append(named(arm))
        else:
            if gain < 0:
                falling.append(f"{named(arm)} ({points(gain)})")
    peaks = _peaks(metrics)
    sentences = []
    if settled:
        told = listed([f"{listed(arms)} from epoch {epoch}" for epoch, arms in sorted(settled.items())])
        sentences.append(f"Over {epochs} epochs, training accuracy is within a point of its last value for {told}.")
    gaining = [f"{named(arm)} ({points(gain)})" for arm, gain in rising(metrics).items()]
    if gaining:
        sentences.append(f"Still gaining in the last epoch: {listed(gaining)}; more epochs may help.")
    if falling:
        sentences.append(f"Losing in the last epoch: {listed(falling)}; a lower learning rate may be steadier.")
    if peaks:
        told = listed([f"that of {named(arm)} {how}" for arm, how in peaks.items()])
        sentences.append(f"Validation accuracy peaks and falls, beyond chance: {told}; fewer epochs may do better.")
    return " ".join(sentences)


def _peaks(metrics: Metrics) -> dict[str, str]:
    """Which arms' validation accuracy falls after its best epoch, beyond noise, and from where to where.

    The noise is 1.96 standard errors of a difference of two accuracies on as many images, as if these were not the
    same: more than that of the same images, which allows for the peak being the best of several epochs.
    """
    images, found = metrics.splits["validation"], dict[str, str]()
    for arm, it in metrics.arms.items():
        seeds = [[epoch.validation_accuracy for epoch in one.rehearsal or one.epochs] for one in it.trials]
        scored = [[value for value in values if value is not None] for values in seeds]
        curve = mean_curve(scored)
        if not len(curve):
            continue
        peak = int(curve.argmax())
        top, last = float(curve[peak]), float(curve[-1])
        if top - last > 1.96 * ((top * (1 - top) + last * (1 - last)) / images) ** 0.5:
            found[arm] = f"from {percent(top)} after epoch {peak + 1} to {percent(last)}"
    return found


def _overfitting(metrics: Metrics) -> str:
    over = []
    for arm, mean in mean_accuracies(metrics).items():
        fits = [trial.fit.accuracy for trial in metrics.arms[arm].trials if trial.fit]
        curve = np.array([statistics.fmean(fits)]) if fits else _training_accuracy(metrics, arm)
        if len(curve) and curve[-1] - mean > OVERFIT:
            over.append(f"{named(arm)} ({percent(float(curve[-1]))} against {percent(mean)})")
    return f"Training accuracy well above test accuracy is a sign of overfitting: {listed(over)}." if over else ""


def _edges(metrics: Metrics) -> str:
    beyond = {"highest": "higher", "lowest": "lower"}
    return " ".join(
        f"The search chose the {edge} learning rate it tried for {listed([named(arm) for arm in arms])}; "
        f"a still {beyond[edge]} one, not tried, may do better."
        for edge, arms in edges(metrics).items()
    )


def _undecided(metrics: Metrics) -> str:
    """What the searches could not tell."""
    blind = [named(arm) for arm, it in metrics.arms.items() if not all(trial.learned for trial in it.trials)]
    tied = [named(arm) for arm, it in metrics.arms.items() if it.learned and it.tied]
    sentences = []
    if blind:
        sentences.append(
            f"The search decided nothing for {listed(blind)}: no attempt was better than always naming the commonest "
            "class, so its learning rate is a guess; more steps in [search] may help."
        )
    if tied:
        sentences.append(
            f"For {listed(tied)} the validation images cannot tell the chosen learning rate from the next ones, so "
            "that little depends on it."
        )
    return " ".join(sentences)


def _stops(metrics: Metrics) -> str:
    """Which arms did not train to the end, or not in the precision that the study chose, and why."""
    sentences = []
    for arm, it in metrics.arms.items():
        for trial in it.trials:
            which = f"{named(arm)}, seed {trial.seed}," if len(it.trials) > 1 else named(arm)
            if trial.stopped:
                sentences.append(f"{which} stopped early: {trial.stopped}.")
            if trial.precision != metrics.model.precision:
                sentences.append(f"{which} was trained in {trial.precision}, since its loss diverged in bf16.")
    return " ".join(sentences)


def _mistakes(metrics: Metrics) -> str:
    """Which mistakes the best arm makes."""
    best, names = metrics.best, [short(name) for name in metrics.classes]
    matrix = confusion(metrics, best)
    wrong = matrix - np.diag(np.diag(matrix))
    fractions = wrong / np.maximum(matrix.sum(1, keepdims=True), 1)
    if not wrong.any():
        return f"{named(best)} makes no mistake on the test set."

    def told(cell: int) -> str:
        true, predicted = divmod(cell, len(names))
        often = f"{_times(int(wrong[true, predicted]))}, {percent(fractions[true, predicted])} of {names[true]}"
        return f"{names[true]} for {names[predicted]} ({often})"

    ranked = np.argsort(-wrong, axis=None, kind="stable").tolist()
    commonest = [cell for cell in ranked if cell % (len(names) + 1)]  # the others lie on the diagonal
    trials = len(metrics.arms[best].trials)
    made = f"{count(wrong.sum(), 'mistake')} over {trials} seeds" if trials > 1 else count(wrong.sum(), "mistake")
    if len(names) == 2:
        return f"In its {made}, {named(best)} takes {told(commonest[0])} and {told(commonest[1])}."
    hardest = int(fractions.sum(1).argmax())
    return (
        f"In its {made}, {named(best)} most often takes {told(commonest[0])}; "
        f"the hardest class is {names[hardest]}, of which it misses {percent(fractions[hardest].sum())}."
    )


def _other_mistakes(metrics: Metrics) -> str:
    """Which mistake each other arm makes most, and how often the reverse."""
    names = [short(name) for name in metrics.classes]
    told: list[str] = []
    for arm in metrics.arms:
        wrong = confusion(metrics, arm)
        np.fill_diagonal(wrong, 0)
        true, predicted = divmod(int(wrong.argmax()), len(names))
        if arm != metrics.best and wrong.any():
            often = f"{_times(int(wrong[true, predicted]))}, the reverse {_times(int(wrong[predicted, true]))}"
            verb = "" if told else "is to take "
            told.append(f"of {named(arm)} {verb}{names[true]} for {names[predicted]} ({often})")
    return f"The commonest mistake {listed(told)}." if told else ""


def _cost(metrics: Metrics) -> str:
    arms, best = metrics.arms, metrics.best
    spent = {arm: statistics.fmean(trial.seconds.train for trial in it.trials) for arm, it in arms.items()}
    others = [
        f"{named(lead.over)} {parameters(arms[lead.over].parameters.trainable)} in {seconds(spent[lead.over])}"
        for lead in leads(metrics)
    ]
    size = arms[best].parameters
    own = (
        f"{named(best)} trains {parameters(size.trainable)} of the network's {parameters(size.total)} parameters "
        f"in {seconds(spent[best])}"
    )
    once = sum(trial.seconds.prepare for it in arms.values() for trial in it.trials)
    apart = f" Building the networks, and computing once what is frozen, took another {seconds(once)}." if once else ""
    return f"{', '.join([own, listed(others)]) if others else own}.{apart}"


def _training_accuracy(metrics: Metrics, arm: str) -> NDArray[np.float64]:
    """An arm's training accuracy by epoch, (epochs,), the mean over its seeds."""
    return mean_curve([[epoch.accuracy for epoch in trial.epochs] for trial in metrics.arms[arm].trials])


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{count(number)} times")
