"""What the draw of the splits leaves to chance: variances by where they come from, and the corrected resampled test."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thaw.record import Record
from thaw.scoring.statistics import LEVEL, Codes, Interval, image_part


class Variances(Record):
    """The variance of a score, or of a difference of two, by where it comes from."""

    total: float
    """Of the scores over the draws, each of a model with a seed of its own."""
    images: float
    """What the choice of test images makes of it, given the models: the mean over the draws."""
    seeds: float | None
    """What the seed makes of it, on the same images: over the seeds of the study; None with one seed."""
    splits: float
    """The rest, at least 0: which images were trained on and chosen by; the seed too where its part is not known."""


class Resampled(Record):
    """The corrected resampled t-test of a mean over draws."""

    mean: float
    """Over the draws."""
    interval: Interval
    """95%."""
    p: float
    """Of the test that the mean is 0."""


def variances(
    arms: Sequence[Sequence[NDArray[np.float64]]], groups: Sequence[Codes | None], other_images: bool
) -> Variances:
    """Estimate where the variance of a score, or of a difference of two, comes from, by the method of moments.

    Test images and seeds are estimated where nothing else differs, images by `image_part` in every draw and seeds in
    the first; what the variance over the draws has more than these is put down to the split. Draws share most of their
    images, so that the part of the split is what another draw of the same images would change, and less than what new
    images would. With seeds the noise of single answers counts as theirs, not as that of the images.

    Parameters
    ----------
    arms
        One arm, or two whose difference it is. Each has for every draw what each test image adds to the metric,
        (seeds, n), see `scoring.contributions`; more than one seed counts in the first draw alone.
    groups
        For each draw (n,) codes from 0 with none left out, where images of a group are alike.
    other_images
        Whether the draws have other test images; if not, their choice is no part of the variance over the draws.
    """
    first = [[of[0] for of in arm] for arm in arms]
    values = [one - other for one, other in zip(*first, strict=True)] if len(arms) > 1 else first[0]
    total = float(np.var([of.mean() for of in values], ddof=1))
    images = float(np.mean([image_part(of, codes).variance for of, codes in zip(values, groups, strict=True)]))
    seeds = None
    if all(len(arm[0]) > 1 for arm in arms):
        seeds = sum(float(arm[0].mean(1).var(ddof=1)) for arm in arms)
        images = max(0.0, images - sum(_single(arm[0], groups[0]) for arm in arms))
    known = (images if other_images else 0.0) + (seeds or 0.0)
    return Variances(total=total, images=images, seeds=seeds, splits=max(0.0, total - known))


def resampled(differences: Sequence[float], ratio: float) -> Resampled:
    """Test whether the mean of differences over draws of the split is 0, and give its interval.

    The corrected resampled t-test: draws share images, so that the variance of their mean is not one of R but
    1 / R + n_test / n_train of the variance over the draws. Nadeau and Bengio, Inference for the generalization error
    (Machine Learning 52, 2003); Bouckaert and Frank, Evaluating the replicability of significance tests for comparing
    learning algorithms (PAKDD 2004). Student's t with R - 1 degrees of freedom.

    Parameters
    ----------
    differences
        One for each draw, two at least.
    ratio
        Test images over images trained on.
    """
    values = np.asarray(differences, np.float64)
    mean, draws = float(values.mean()), len(values)
    error = math.sqrt((1 / draws + ratio) * float(values.var(ddof=1)))
    if error == 0:
        return Resampled(mean=mean, interval=(mean, mean), p=float(mean == 0))
    far = float(stats.t.ppf((1 + LEVEL) / 2, draws - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, draws - 1))
    return Resampled(mean=mean, interval=(mean - far, mean + far), p=p)


def _single(values: NDArray[np.float64], groups: Codes | None) -> float:
    """The part of `image_part` of one seed that is not common to all: the noise of single answers; (seeds, n)."""
    seeds, common = len(values), values.mean(0)
    return float(np.mean([image_part(of - common, groups).variance for of in values])) * seeds / (seeds - 1)
