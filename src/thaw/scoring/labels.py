"""How the arms' scores rise with the number of labels, and what the last labels brought."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.recipe import Metric
from thaw.record import Record
from thaw.scoring.statistics import (
    Codes,
    Interval,
    difference_reach,
    effective_images,
    image_part,
    reach,
    seed_part,
    together,
    whole_units,
    wilson,
)


class LabelPoint(Record):
    """An arm trained on a fraction of the training images."""

    fraction: float
    """The fraction, as in the recipe."""
    images: int
    """Images that the final training saw, with those of validation where it is trained on."""
    score: float
    """The metric on the test images, the mean over the seeds; more is better."""
    interval: Interval
    """95% interval of `score`, over test images (or groups) and seeds; for the draw of the share nothing is added."""
    scores: list[float]
    """The metric with each seed."""
    seconds: float
    """Wall-clock seconds of search and training, with the probe before them; the mean over the seeds."""


class LabelCurve(Record):
    """An arm at every fraction of the training images."""

    points: list[LabelPoint]
    """From the smallest fraction to all."""
    gain: float
    """The score with all training images minus that with the fraction before."""
    gain_interval: Interval
    """95% interval of `gain`, paired by test images (or groups), over them and the seeds."""


class Labels(Record):
    """How the arms do with fewer labels."""

    metric: Metric
    """What `score` is: the recipe's `verdict.metric`."""
    arms: dict[str, LabelCurve]
    """Each arm."""


class Share(NamedTuple):
    """What a study found on a fraction of its training images."""

    fraction: float
    """The fraction."""
    images: int
    """Images that the final training saw."""
    values: Mapping[str, NDArray[np.float64]]
    """For each arm what each test image adds to the metric, (seeds, n), see `scoring.contributions`."""
    seconds: Mapping[str, float]
    """Of each arm's search and training."""


def label_curves(metric: Metric, shares: Sequence[Share], groups: Codes | None = None) -> Labels:
    """Tell how each arm's score rises with the labels.

    Parameters
    ----------
    metric
        What the values are of.
    shares
        At least two, the fractions ascending to 1.
    groups
        (n,) codes from 0 with none left out, where test images of a group are alike.
    """
    before, whole = shares[-2:]
    arms = {}
    for arm, own in whole.values.items():
        points = [
            LabelPoint(
                fraction=share.fraction,
                images=share.images,
                score=float(share.values[arm].mean()),
                interval=score_interval(metric, share.values[arm], groups),
                scores=share.values[arm].mean(1).tolist(),
                seconds=share.seconds[arm],
            )
            for share in shares
        ]
        gain, far = points[-1].score - points[-2].score, difference_reach(own, before.values[arm], groups)
        within = (gain - far, gain + far) if math.isfinite(far) else (-1.0, 1.0)
        arms[arm] = LabelCurve(points=points, gain=gain, gain_interval=within)
    return Labels(metric=metric, arms=arms)


def score_interval(metric: Metric, values: NDArray[np.float64], groups: Codes | None = None) -> Interval:
    """Compute the 95% interval of a metric over test images, or groups, and seeds.

    Wilson's of accuracy; of others Student's t on their linearisation, which ends where the metric does.

    Parameters
    ----------
    metric
        What the values are of.
    values
        (seeds, n) what each test image adds to the metric, see `scoring.contributions`.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.
    """
    mean = float(values.mean())
    if metric == "accuracy":
        return wilson(mean, effective_images(values > 0.5, groups))
    chance = together([image_part(values.mean(0), groups), seed_part(values)])
    far = min(reach(chance, whole_units(values.shape[1], groups)), 1e3)  # infinite of a single group
    low, high = (-math.inf, 0.0) if metric == "log_loss" else (0.0, 1.0)
    return max(low, mean - far), min(high, mean + far)
