"""Scores on further test sets: other pictures, and how far an arm falls there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaw.recipe import Metric
from thaw.record import Record
from thaw.scoring.baselines import Baselines, baselines
from thaw.scoring.calibration import ReliabilityBin, error_by_chance, reliability
from thaw.scoring.comparison import Comparison, compare
from thaw.scoring.contributions import contributions
from thaw.scoring.curves import Curves, trace_curves
from thaw.scoring.intervals import ClassScores, ScoreIntervals, all_intervals, class_scores
from thaw.scoring.measure import measure
from thaw.scoring.metrics import Scores, score
from thaw.scoring.statistics import Codes, Interval

Logits = Sequence[NDArray[np.float32]]
"""For each seed (n, classes)."""


@dataclass(frozen=True)
class Shift:
    """A further test set, as far as its scores depend on it."""

    kind: Literal["source", "corruption"]
    """Images of another source, or the test images corrupted."""
    origin: str
    """The source, for people."""
    classes: Sequence[str]
    """The names of the classes."""
    labels: Codes
    """(n,) indices of classes."""
    groups: Codes | None
    """(n,) codes from 0 with none left out, where images of a group are alike."""
    metric: Metric
    """What arms are compared by."""
    temperatures: Mapping[str, float | None]
    """What divides the logits of each arm."""
    training: Codes | None
    """(classes,) training images of each class; None where they are not known."""


class Own(Record):
    """A metric on the study's own test set."""

    value: float
    """The mean over the seeds; more is better, so the log loss is negative."""
    interval: Interval | None
    """Its 95% interval; None where it is not known."""


class Confidence(Record):
    """How well confidence matches accuracy on a further test set, with the first seed."""

    temperature: float | None
    """What logits are divided by, fitted on the study's validation images; None where there is none."""
    ece: float
    """The expected calibration error, at that temperature."""
    ece_by_chance: float
    """What it would be on average on as many images were every confidence true."""
    ece_limit: float
    """What it would then exceed in 5% of test sets."""
    bins: list[ReliabilityBin]
    """15 bins of equal width, from confidence 0 to 1."""


class ArmShift(Record):
    """How an arm does on a further test set."""

    value: float
    """The verdict's metric, the mean over the seeds; more is better, so the log loss is negative."""
    interval: Interval | None
    """Its 95% interval; None where a single group says nothing of others."""
    own: float | None
    """The same on the study's own test set; None where it is not known."""
    change: float | None
    """`value` minus `own`: negative where the arm falls."""
    change_interval: Interval | None
    """95% interval of that: paired where the images are the test images, corrupted; else of two samples, by Newcombe's
    method. None where it is not known."""
    scores: Scores
    """Every score, with the first seed."""
    intervals: ScoreIntervals
    """95% intervals of the mean scores over the seeds."""
    classes: list[ClassScores]
    """How it does on each class, in order; empty for corruptions."""
    curves: Curves | None
    """ROC and precision-recall curves; None for corruptions, and with more than two classes."""
    calibration: Confidence
    """Whether its confidence can be believed there."""


class SetScores(Record):
    """A further test set, and how the arms do there."""

    kind: Literal["source", "corruption"]
    """Images of another source, or the test images corrupted."""
    origin: str
    """The source as the recipe has it, or `the test images`."""
    images: int
    """How many are scored."""
    missing: list[str]
    """Classes that it has no image of."""
    metric: Metric
    """The verdict's metric, which arms are compared by."""
    arms: dict[str, ArmShift]
    """Each arm."""
    comparisons: list[Comparison]
    """Every pair of arms on these images; none for a single arm."""
    baselines: Baselines | None
    """What rules without a network score; None where the training images are not known."""


def score_set(
    shift: Shift, logits: Mapping[str, Logits], own: Mapping[str, Own | NDArray[np.float64] | None]
) -> SetScores:
    """Score arms on a further test set.

    Parameters
    ----------
    shift
        The set.
    logits
        For each arm and seed (n, classes), finite.
    own
        For each arm what it does on the study's own test set: the metric, or (seeds, n) what each image adds to it,
        see `contributions`, where the images are the same; None where it is not known.
    """
    labels, groups, metric = shift.labels, shift.groups, shift.metric
    values = {
        arm: np.stack([contributions(metric, labels, one) for one in of_seeds]) for arm, of_seeds in logits.items()
    }
    arms = {arm: _arm(shift, arm, of_seeds, values[arm], own[arm]) for arm, of_seeds in logits.items()}
    counts = np.bincount(labels, minlength=len(shift.classes))
    return SetScores(
        kind=shift.kind,
        origin=shift.origin,
        images=len(labels),
        missing=[name for name, number in zip(shift.classes, counts, strict=True) if not number],
        metric=metric,
        arms=arms,
        comparisons=compare(values, groups) if len(values) > 1 else [],
        baselines=None if shift.training is None else baselines(shift.classes, shift.training, counts),
    )


def change_between(new: Own, own: Own) -> Interval | None:
    """Compute the 95% interval of the difference of two scores of independent samples from the interval of each.

    Newcombe, Interval estimation for the difference between independent proportions (Statistics in Medicine 17, 1998),
    method 10; for other scores Zou and Donner's generalisation of it (Statistics in Medicine 27, 2008).
    """
    if new.interval is None or own.interval is None:
        return None
    gap = new.value - own.value
    below = math.hypot(new.value - new.interval[0], own.interval[1] - own.value)
    above = math.hypot(new.interval[1] - new.value, own.value - own.interval[0])
    return gap - below, gap + above


def metric_interval(metric: Metric, intervals: ScoreIntervals) -> Interval | None:
    """Return the interval of the verdict's metric, which more of is better: the log loss is negative."""
    found: Interval | None = getattr(intervals, metric)
    return found if found is None or metric != "log_loss" else (-found[1], -found[0])


def _arm(
    shift: Shift, arm: str, logits: Logits, values: NDArray[np.float64], own: Own | NDArray[np.float64] | None
) -> ArmShift:
    labels, groups, metric = shift.labels, shift.groups, shift.metric
    first, temperature = logits[0], shift.temperatures.get(arm)
    intervals = all_intervals(labels, logits, groups)
    value = float(np.mean([measure(metric, labels, one) for one in logits]))
    interval, change_interval = metric_interval(metric, intervals), None
    before = None
    if isinstance(own, Own):
        before = own.value
        change_interval = change_between(Own(value=value, interval=interval), own)
    elif own is not None:
        before = float(own.mean())
        change_interval = compare({"new": values, "own": own}, groups)[0].interval
    scaled = first / np.float32(temperature or 1)
    error, bins = reliability(labels, scaled)
    chance, limit = error_by_chance(scaled)
    whole = shift.kind == "source"
    return ArmShift(
        value=value,
        interval=interval,
        own=before,
        change=None if before is None else value - before,
        change_interval=change_interval,
        scores=score(labels, first),
        intervals=intervals,
        classes=class_scores(labels, np.stack([one.argmax(1) for one in logits]), first.shape[1], groups)
        if whole
        else [],
        curves=trace_curves(labels, first) if whole else None,
        calibration=Confidence(temperature=temperature, ece=error, ece_by_chance=chance, ece_limit=limit, bins=bins),
    )
