"""Which arm to use: the best by a metric, how likely it is to be that, and whether a cheaper one does as well."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.recipe import Metric
from thaw.record import Record
from thaw.scoring.statistics import (
    RESAMPLES,
    Codes,
    Interval,
    difference_part,
    image_part,
    images_to_settle,
    influences,
    reach,
    seed_part,
    together,
    whole_units,
)

ONE_SIDED = 0.95
"""Certainty of each end of an interval by which a verdict decides."""


class ArmVerdict(Record):
    """An arm beside the best one."""

    score: float
    """The metric on the test images, the mean over the seeds; more is better."""
    cost: float | None
    """What the recipe's `verdict.cost` counts; None where it is `none`."""
    probability_best: float
    """How likely this arm is to be the best of all on new images, by resampling images, or groups, and seeds."""
    regret: float
    """What choosing it costs on average: how far it is behind the best arm of a resample, whichever that is."""
    loss: float
    """The score of the best arm minus this one's."""
    loss_interval: Interval
    """Of `loss`, each end with a certainty of 95%."""
    within: bool
    """Whether it is shown to be no more than the margin behind every other arm."""
    learned: bool
    """Whether it is shown to beat always answering the commonest class, with a certainty of 95%."""
    images_needed: int | None
    """Test images that would settle, with a chance of 80%, whether `loss` is within the margin, if it is what it seems;
    None where it is settled, where it is as large as the margin, or where only more seeds would help."""


class Verdict(Record):
    """Which arm to use, and how sure that is."""

    metric: Metric
    """The recipe's `verdict.metric`."""
    margin: float
    """The recipe's `verdict.margin`."""
    cost: str
    """The recipe's `verdict.cost`."""
    expected: float
    """What the best arm should score on new images: its score less what being chosen on these images flatters."""
    baseline: float
    """The score of always answering the commonest class, with the classes' fractions as its probabilities."""
    arms: dict[str, ArmVerdict]
    """Each arm."""


class Judged(NamedTuple):
    """The outcome of `judge`."""

    best: str
    """The arm with the highest score."""
    recommended: str
    """The best, or the cheapest arm that is shown to be within the margin."""
    expected: float
    """See `Verdict`."""
    arms: dict[str, ArmVerdict]
    """Each arm."""


def judge(
    values: Mapping[str, NDArray[np.float64]],
    costs: Mapping[str, float] | None,
    margin: float,
    baseline: NDArray[np.float64] | None = None,
    groups: Codes | None = None,
) -> Judged:
    """Judge which arm to use.

    A cheaper arm is recommended where it is shown, against every other arm and each with a certainty of 95%, to lose no
    more than the margin: then the error of naming one that loses more is 5% however many arms there are (Berger,
    Multiparameter hypothesis testing and acceptance sampling, Technometrics 24, 1982).

    Parameters
    ----------
    values
        For each arm what each test image adds to the metric, (seeds, n), see `scoring.contributions`.
    costs
        Of each arm; None where none is cheaper than another.
    margin
        The loss that a cheaper arm may have.
    baseline
        (n,) the same of always answering the commonest class.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.
    """
    names = list(values)
    scores = np.array([values[arm].mean() for arm in names])
    best = int(scores.argmax())
    drawn = _resampled(values, groups)
    top = drawn.argmax(1)
    flattery = float((drawn.max(1) - scores[top]).mean())
    units = whole_units(values[names[0]].shape[1], groups)
    arms = {}
    for place, arm in enumerate(names):
        loss = float(scores[best] - scores[place])
        chance = difference_part(values[names[best]], values[arm], groups)
        far = reach(chance, units, 2 * ONE_SIDED - 1) if place != best else 0.0
        arms[arm] = ArmVerdict(
            score=float(scores[place]),
            cost=None if costs is None else float(costs[arm]),
            probability_best=float((top == place).mean()),
            regret=float((drawn.max(1) - drawn[:, place]).mean()),
            loss=loss,
            loss_interval=(loss - far, loss + far) if math.isfinite(far) else (-1.0, 1.0),
            within=all(_within(values[other], values[arm], margin, groups) for other in names if other != arm),
            learned=baseline is None or _learned(values[arm], baseline, groups),
            images_needed=images_to_settle(values[names[best]], values[arm], loss - margin, 1 - ONE_SIDED, groups)
            if loss - far < margin < loss + far
            else None,
        )
    chosen = names[best]
    if costs is not None:
        shown = [arm for arm in names if arms[arm].within and arms[arm].learned and costs[arm] < costs[chosen]]
        chosen = min(shown, key=lambda arm: (costs[arm], -arms[arm].score), default=chosen)
    return Judged(names[best], chosen, float(scores[best]) - flattery, arms)


def _within(other: NDArray[np.float64], arm: NDArray[np.float64], margin: float, groups: Codes | None) -> bool:
    """Whether `arm` is shown to lose no more than the margin against another."""
    units = whole_units(arm.shape[1], groups)
    far = reach(difference_part(other, arm, groups), units, 2 * ONE_SIDED - 1)
    return float(other.mean() - arm.mean()) + far <= margin


def _learned(arm: NDArray[np.float64], baseline: NDArray[np.float64], groups: Codes | None) -> bool:
    chance = together([image_part(arm.mean(0) - baseline, groups), seed_part(arm)])
    gain = float(arm.mean() - baseline.mean())
    return gain > reach(chance, whole_units(arm.shape[1], groups), 2 * ONE_SIDED - 1)


def _resampled(values: Mapping[str, NDArray[np.float64]], groups: Codes | None) -> NDArray[np.float64]:
    """Scores that other images, or groups, and seeds may give, (resamples, arms): a parametric bootstrap.

    Student's t with the degrees of freedom of the difference between the two best arms, at least 2, so that it has a
    mean. Images are shared by the arms and so move them together; seeds are not.
    """
    random, arms = np.random.default_rng(0), list(values.values())
    scores = np.array([of.mean() for of in arms])
    moved = influences(np.stack([of.mean(0) for of in arms], axis=1), groups)
    covariance = moved.T @ moved + np.diag([seed_part(of).variance for of in arms])
    # the symmetric square root, which does not depend on the order of the images
    sizes, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(sizes, 0)) @ vectors.T
    first, second = np.argsort(-scores, kind="stable")[[0, min(1, len(arms) - 1)]]
    freedom = max(2.0, difference_part(arms[first], arms[second], groups).freedom) if first != second else math.inf
    normal = random.standard_normal((RESAMPLES, len(arms))) @ root
    if math.isfinite(freedom):
        normal *= np.sqrt(freedom / random.chisquare(freedom, RESAMPLES))[:, None]
    return np.asarray(scores + normal)
