"""Images unlike those of training: how far an image's features lie from the directions that training images vary in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from thaw.record import Record
from thaw.scoring.conformal import floor_of
from thaw.scoring.statistics import Codes, Interval, effective_images, wilson

Features = NDArray[np.float32]

DIRECTIONS = 64
"""Directions that a subspace keeps at most; of few images or features, half as many as there are."""
IMAGES = 2000
"""Training images, at most, that a subspace is fitted to."""


@dataclass(frozen=True)
class Subspace:
    """The mean of the training images' features, scaled to length 1, and the directions in which they vary most."""

    mean: Features
    """(features,)"""
    basis: Features
    """(features, directions) with orthonormal columns."""


class Unlike(Record):
    """How an arm tells images unlike those it was trained on, with the first seed."""

    false_alarms: float
    """The fraction of images like those of training that may be called unlike: the recipe's `decide.false_alarms`."""
    threshold: float | None
    """An image is called unlike where its distance is above this; None where there is none."""
    reason: str
    """What the threshold was chosen on, or why there is none."""
    flagged: float | None = None
    """Fraction of the test images that are called unlike."""
    flagged_interval: Interval | None = None
    """95%, Wilson's of the independent images that it is worth."""


@dataclass(frozen=True)
class Distances:
    """Distances from the subspace of training images, as a trial measures them."""

    validation: Features
    """(validation images,) by a network, and from a subspace, that have not seen them."""
    test: Features
    """(test images,) by the final network, and from its subspace."""


def spread(rows: Codes) -> Codes:
    """Return as many of the training images, spread evenly over all, as a subspace is fitted to."""
    chosen: Codes = rows[np.unique(np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).astype(int))]
    return chosen


def fit_subspace(features: Features) -> Subspace:
    """Fit the subspace that the features of training images lie near.

    No label is looked at. Of the distances tried it tells other photographs and drawings apart best; see
    `docs/decisions/0046`.

    Parameters
    ----------
    features
        (n, features) of training images, n at least 2; what enters the head.
    """
    scaled = _scaled(features)
    mean = scaled.mean(0)
    directions = max(1, min(DIRECTIONS, len(features) // 2, features.shape[1] // 2))
    _, _, basis = randomized_svd(scaled - mean, directions, n_iter=4, random_state=0)
    return Subspace(mean.astype(np.float32), np.ascontiguousarray(basis.T, np.float32))


def distances(subspace: Subspace, features: Features) -> Features:
    """Measure how far features lie from a subspace: the squared length of what it leaves of them, scaled to length 1.

    Parameters
    ----------
    subspace
        See `fit_subspace`.
    features
        (n, features)

    Returns
    -------
    array of float32, shape (n,)
        0 within the subspace. As in Wang et al., ViM: out-of-distribution with virtual-logit matching (CVPR 2022,
        arXiv:2203.10807), there of features as they are.
    """
    away = _scaled(features) - subspace.mean
    rest = away - (away @ subspace.basis) @ subspace.basis.T
    squared: Features = (rest**2).sum(1).astype(np.float32)
    return squared


def measure_unlike(found: Distances | None, false_alarms: float, groups: Codes | None, why: str) -> Unlike:
    """Choose the threshold on validation images, and count how many test images it flags.

    Parameters
    ----------
    found
        The distances; None where there are none.
    false_alarms
        The fraction of images like those of training that may be flagged.
    groups
        (n,) codes from 0 of the test images with none left out, where images of a group are alike.
    why
        Why there are none.
    """
    if found is None:
        return Unlike(false_alarms=false_alarms, threshold=None, reason=why)
    nearest = floor_of(-found.validation.astype(np.float64), 1 - false_alarms)
    images = len(found.validation)
    if nearest is None:
        reason = f"{images} validation images are too few for a rate of {false_alarms:g} false alarms"
        return Unlike(false_alarms=false_alarms, threshold=None, reason=reason)
    threshold = max(-nearest, float(np.finfo(np.float32).tiny))
    flagged = found.test > threshold
    return Unlike(
        false_alarms=false_alarms,
        threshold=threshold,
        reason=f"chosen on {images:,} validation images",
        flagged=float(flagged.mean()),
        flagged_interval=wilson(float(flagged.mean()), effective_images(flagged[None], groups)),
    )


def _scaled(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Features = features / np.maximum(length, np.float32(1e-12))
    return scaled
