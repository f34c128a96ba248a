"""What the numbers say, in plain English: sentences computed from `metrics.json`."""

import math
import statistics
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.report.formats import count, listed, parameters, percent, points, seconds, short

Metrics = dict[str, Any]

Z95 = 1.959964
"""Standard errors on either side that hold 95% of a normal distribution."""
NEAR = 0.01
"""A difference in training accuracy of less than a point is called none."""
OVERFIT = 0.05
"""Training accuracy this far above test accuracy is called overfitting."""


class Lead(NamedTuple):
    """How far the best arm is ahead of another on the test set."""

    over: str
    gap: float
    """Difference of the accuracies, shares of one."""
    images: float
    """The same in test images."""
    errors: float
    """The same in standard errors of a difference between two independent samples of this size."""

    @property
    def level(self) -> bool:
        """Whether the two are right on as many images."""
        return round(self.images) == 0

    @property
    def clear(self) -> bool:
        """Whether the gap is more than chance in the choice of test images would readily explain."""
        return self.errors > Z95


def accuracies(metrics: Metrics) -> dict[str, list[float]]:
    """Test accuracy of each arm, by seed."""
    return {arm: [run["test"]["accuracy"] for run in found["runs"]] for arm, found in metrics["arms"].items()}


def mean_accuracies(metrics: Metrics) -> dict[str, float]:
    """Test accuracy of each arm, the mean over its seeds."""
    return {arm: statistics.fmean(values) for arm, values in accuracies(metrics).items()}


def confusion(metrics: Metrics, arm: str) -> NDArray[np.int64]:
    """The confusion matrix of an arm on test, (classes, classes), summed over its seeds."""
    runs = metrics["arms"][arm]["runs"]
    total: NDArray[np.int64] = np.sum([run["test"]["confusion"] for run in runs], axis=0)
    return total


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """The 95% interval of a share seen in `images` independent trials (Wilson, JASA 22, 1927)."""
    shrink = 1 + Z95**2 / images
    centre = accuracy + Z95**2 / (2 * images)
    reach = Z95 * math.sqrt(accuracy * (1 - accuracy) / images + Z95**2 / (4 * images**2))
    return max(0.0, (centre - reach) / shrink), min(1.0, (centre + reach) / shrink)


def leads(metrics: Metrics) -> list[Lead]:
    """The best arm's lead over each other arm, the closest first."""
    means, images = mean_accuracies(metrics), metrics["splits"]["test"]
    best = means.pop(metrics["best"])
    found = []
    for arm, accuracy in means.items():
        gap, error = best - accuracy, math.sqrt((best * (1 - best) + accuracy * (1 - accuracy)) / images)
        found.append(Lead(arm, gap, gap * images, gap / error if error else 0.0))
    return sorted(found, key=lambda lead: lead.gap)


def verdict(metrics: Metrics) -> str:
    """What stands under the title: how far ahead the best arm is, how sure that is, and how many seeds it rests on."""
    runs = len(metrics["arms"][metrics["best"]]["runs"])
    trained = "One seed." if runs == 1 else f"Mean of {runs} seeds."
    behind = leads(metrics)
    if not behind:
        return f"The only arm of this study. {trained}"
    if behind[0].level:
        return f"Level with {_arm(behind[0].over)}. {trained}"
    sure = "more than sampling noise readily explains" if behind[0].clear else "which is within sampling noise"
    return f"Ahead of {_gap(behind[0])}, {sure}. {trained}"


def analysis(metrics: Metrics) -> dict[str, str]:
    """By heading, a paragraph on who won and how surely, how the arms learned, where they fail and what they cost.

    Names of arms stand in backticks.
    """
    sentences = {
        "Who wins": (_standing, _certainty, _seeds),
        "How they learn": (_starts, _convergence, _overfitting, _edges),
        "Where they fail": (_mistakes, _other_mistakes),
        "What they cost": (_cost, _cheaper),
    }
    return {heading: " ".join(filter(None, (say(metrics) for say in about))) for heading, about in sentences.items()}


def _standing(metrics: Metrics) -> str:
    best, images, behind = metrics["best"], metrics["splits"]["test"], leads(metrics)
    right = (
        f"{_arm(best)} labels {percent(mean_accuracies(metrics)[best])} of the {count(images, 'test image')} correctly"
    )
    if not behind:
        return f"{right}. It is the only arm of this study, so there is nothing to compare it with."
    if behind[0].level:
        level = [_arm(lead.over) for lead in behind if lead.level]
        so_do = "and so does" if len(level) == 1 else "and so do"
        return f"{right}, {so_do} {listed(level)}: the test set does not tell them apart."
    shown = behind if len(behind) <= 3 else [behind[0], behind[-1]]
    return f"{right}, which puts it ahead of {listed([_gap(lead) for lead in shown])}."


def _certainty(metrics: Metrics) -> str:
    images, behind = metrics["splits"]["test"], leads(metrics)
    low, high = wilson(mean_accuracies(metrics)[metrics["best"]], images)
    interval = f"With {count(images, 'test image')}, its 95% Wilson interval is {percent(low)} to {percent(high)}"
    if not behind or behind[0].level:
        return f"{interval}."
    errors = (
        f"counting mistakes of different arms as independent, the lead over {_arm(behind[0].over)} is "
        f"{behind[0].errors:.1f} standard errors"
    )
    if behind[0].clear:
        return f"{interval}; {errors}, more than chance in the choice of test images would readily explain."
    return f"{interval}; {errors}, within sampling noise, so that other test images could well reverse it."


def _seeds(metrics: Metrics) -> str:
    by_arm, best, behind = accuracies(metrics), metrics["best"], leads(metrics)
    runs = len(by_arm[best])
    if runs == 1:
        return "Each arm was trained with one seed, so how much chance in training adds to that was not measured."
    spread = listed([f"{points(statistics.stdev(values))} for {_arm(arm)}" for arm, values in by_arm.items()])
    sentence = f"From seed to seed, accuracy varies by a standard deviation of {spread}"
    if not behind:
        return f"{sentence}."
    ahead = sum(own > other for own, other in zip(by_arm[best], by_arm[behind[0].over], strict=True))
    return f"{sentence}; {_arm(best)} is ahead of {_arm(behind[0].over)} with {ahead} of the {runs} seeds."


def _starts(metrics: Metrics) -> str:
    """What pretraining is worth, and whether training everything beat training the head."""
    means, arms = mean_accuracies(metrics), metrics["arms"]
    random = {arm: mean for arm, mean in means.items() if arms[arm]["weights"] == "random"}
    pretrained = {arm: mean for arm, mean in means.items() if arm not in random}
    sentences = []
    if random and pretrained:
        one, other = max(random, key=random.__getitem__), max(pretrained, key=pretrained.__getitem__)
        gap = pretrained[other] - random[one]
        if gap > 0:
            told = f"Starting from pretrained weights is worth {points(gap)} ({_arm(other)} against {_arm(one)})."
        else:
            told = f"Pretrained weights do not help here: {_arm(one)} is {points(gap)} ahead of {_arm(other)} without."
        sentences.append(told)
    heads = [arm for arm in pretrained if arms[arm]["train"] == "head"]
    whole = [arm for arm in pretrained if arms[arm]["train"] == "all"]
    if heads and whole:
        gap = means[whole[0]] - means[heads[0]]
        more = f"{points(gap)} {'more' if gap > 0 else 'less'} than" if gap else "the same accuracy as"
        sentences.append(f"Training every layer ({_arm(whole[0])}) gives {more} training the head alone.")
    return " ".join(sentences)


def _convergence(metrics: Metrics) -> str:
    curves = {arm: _training_accuracy(metrics, arm) for arm in metrics["arms"]}
    epochs = len(curves[metrics["best"]])
    if epochs == 1:
        return "A single epoch of training says nothing of convergence."
    settled: dict[int, list[str]] = {}
    rising: list[str] = []
    falling: list[str] = []
    for arm, curve in curves.items():
        gain = float(curve[-1] - curve[-2])
        if abs(gain) < NEAR:
            away = np.flatnonzero(np.abs(curve - curve[-1]) >= NEAR)
            settled.setdefault(int(away[-1]) + 2 if len(away) else 1, []).append(_arm(arm))
        else:
            (rising if gain > 0 else falling).append(f"{_arm(arm)} ({points(gain)})")
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
        fitted = float(_training_accuracy(metrics, arm)[-1])
        if fitted - mean > OVERFIT:
            over.append(f"{_arm(arm)} ({percent(fitted)} against {percent(mean)})")
    return f"Training accuracy well above test accuracy is a sign of overfitting: {listed(over)}." if over else ""


def _edges(metrics: Metrics) -> str:
    sentences = []
    for edge, beyond in (("highest", "higher"), ("lowest", "lower")):
        arms = [_arm(arm) for arm, it in metrics["arms"].items() if any(run["edge"] == edge for run in it["runs"])]
        if arms:
            sentences.append(
                f"The search chose the {edge} learning rate of its grid for {listed(arms)}; "
                f"a still {beyond} one, not tried, may do better."
            )
    return " ".join(sentences)


def _mistakes(metrics: Metrics) -> str:
    """Which mistakes the best arm makes."""
    best, names = metrics["best"], [short(name) for name in metrics["classes"]]
    matrix = confusion(metrics, best)
    wrong = matrix - np.diag(np.diag(matrix))
    shares = wrong / np.maximum(matrix.sum(1, keepdims=True), 1)
    if not wrong.any():
        return f"{_arm(best)} makes no mistake on the test set."

    def told(cell: int) -> str:
        true, predicted = divmod(cell, len(names))
        often = f"{_times(int(wrong[true, predicted]))}, {percent(shares[true, predicted])} of {names[true]}"
        return f"{names[true]} for {names[predicted]} ({often})"

    commonest = [int(cell) for cell in np.argsort(-wrong, axis=None, kind="stable")]
    runs = len(metrics["arms"][best]["runs"])
    made = f"{count(wrong.sum(), 'mistake')} over {runs} seeds" if runs > 1 else count(wrong.sum(), "mistake")
    if len(names) == 2:
        return f"In its {made}, {_arm(best)} takes {told(commonest[0])} and {told(commonest[1])}."
    hardest = int(shares.sum(1).argmax())
    return (
        f"In its {made}, {_arm(best)} most often takes {told(commonest[0])}; "
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
            told.append(f"of {_arm(arm)} {verb}{names[true]} for {names[predicted]} ({often})")
    return f"The commonest mistake {listed(told)}." if told else ""


def _cost(metrics: Metrics) -> str:
    arms, best = metrics["arms"], metrics["best"]
    spent = {arm: statistics.fmean(run["seconds"]["train"] for run in it["runs"]) for arm, it in arms.items()}
    others = [
        f"{_arm(lead.over)} {parameters(arms[lead.over]['parameters']['trainable'])} in {seconds(spent[lead.over])}"
        for lead in leads(metrics)
    ]
    size = arms[best]["parameters"]
    own = (
        f"{_arm(best)} trains {parameters(size['trainable'])} of the network's {parameters(size['total'])} parameters "
        f"in {seconds(spent[best])}"
    )
    return f"{own}, {listed(others)}." if others else f"{own}."


def _cheaper(metrics: Metrics) -> str:
    """Whether an arm that trains less is as good, as far as the test set can tell."""
    best, level = metrics["best"], [lead.over for lead in leads(metrics) if not lead.clear]
    trained = {arm: metrics["arms"][arm]["parameters"]["trainable"] for arm in [best, *level]}
    cheapest = min(trained, key=trained.__getitem__)
    if trained[cheapest] == trained[best]:
        return ""
    return (
        f"The test set does not clearly separate {_arm(cheapest)}, which trains fewer parameters, from {_arm(best)}: "
        f"where cost counts, use {_arm(cheapest)}."
    )


def _training_accuracy(metrics: Metrics, arm: str) -> NDArray[np.float64]:
    """An arm's training accuracy by epoch, (epochs,), the mean over its seeds."""
    runs = metrics["arms"][arm]["runs"]
    mean: NDArray[np.float64] = np.mean([[epoch["accuracy"] for epoch in run["epochs"]] for run in runs], axis=0)
    return mean


def _arm(name: str) -> str:
    return f"`{name}`"


def _gap(lead: Lead) -> str:
    return f"{_arm(lead.over)} by {points(lead.gap)} ({count(lead.images, 'image')})"


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{count(number)} times")
