"""Ridge regression on one-hot labels for all penalties at once, with what it says of each image from the others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Codes = NDArray[np.int64]

PENALTIES = tuple(float(value) for value in np.geomspace(1e-4, 1e2, 13))
"""What is tried, in units of the mean squared length of the features in the directions that they have."""


@dataclass(frozen=True)
class Ridge:
    """A linear probe, and its answers to the images that it was fitted to, each from a fit to the others."""

    weight: Values
    """(classes, features), for features as they are."""
    bias: Values
    """(classes,)"""
    penalty: float
    """The penalty of the squared weights of standardised features."""
    left_out: Values
    """(n, classes) the answers to each image when it, or its group, is left out."""
    error: float
    """Their mean squared difference from the one-hot labels, by which the penalty was chosen."""


def fit_ridge(
    features: NDArray[np.floating],
    labels: Codes,
    classes: int,
    groups: Codes | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> Ridge:
    """Fit a linear probe by least squares with an L2 penalty, chosen by leaving out each image, or group, in turn.

    Features are standardised, the intercept has no penalty. One eigenvalue decomposition, of the smaller of the two
    matrices of products, gives every penalty's hat matrix H; the residuals of a fit without the images g are
    (I - H_gg)^-1 times those of the fit with them (Allen, The relationship between variable selection and data
    augmentation and a method for prediction, Technometrics 16, 1974; for groups: Shao, Linear model selection by
    cross-validation, JASA 88, 1993). They are exact for features standardised by all images.

    Parameters
    ----------
    features
        (n, features), finite.
    labels
        (n,) below `classes`.
    classes
        How many classes there are.
    groups
        (n,) codes from 0 with none left out: two at least, each left out whole. None leaves out single images.
    penalties
        What is tried, relative to the mean of the squares of the standardised features' singular values. The largest of
        equally good ones wins.
    """
    given = np.asarray(features, dtype=np.float64)
    mean, scale = given.mean(0), given.std(0)
    scale[scale <= 1e-12 * max(1.0, float(np.abs(mean).max(initial=0)))] = np.inf
    x = (given - mean) / scale
    y = np.eye(classes)[labels]
    average = y.mean(0)
    left, squares = _directions(x)
    seen = left.T @ (y - average)
    members = (
        None if groups is None else np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    )
    unit = float(squares.mean()) if len(squares) else 1.0
    best: tuple[float, float, Values] | None = None
    for penalty in sorted({unit * value for value in penalties}, reverse=True):
        shrunk = squares / (squares + penalty)
        residuals = _left_out(left, shrunk, y - average - left @ (shrunk[:, None] * seen), members)
        error = float(np.square(residuals).mean())
        if best is None or error < best[0] * (1 - 1e-12):
            best = error, penalty, y - residuals
    assert best is not None
    error, penalty, left_out = best
    weight = (x.T @ (left @ (seen / (squares + penalty)[:, None]))).T / scale
    return Ridge(weight, average - weight @ mean, penalty, left_out, error)


def _directions(x: Values) -> tuple[Values, Values]:
    """The left singular vectors of centred features, (n, rank), and the squares of their singular values, (rank,)."""
    n, width = x.shape
    squares, vectors = np.linalg.eigh(x.T @ x if width <= n else x @ x.T)
    kept = squares > squares.max(initial=0) * max(n, width) * np.finfo(np.float64).eps
    squares, vectors = squares[kept], vectors[:, kept]
    return (x @ vectors / np.sqrt(squares) if width <= n else vectors), squares


def _left_out(left: Values, shrunk: Values, residuals: Values, members: list[Codes] | None) -> Values:
    """Residuals (n, classes) of each image without it, or its group, from those of the fit to all."""
    n = len(left)
    if members is None:
        own = 1 / n + np.square(left) @ shrunk
        return residuals / (1 - own)[:, None]
    found = np.empty_like(residuals)
    for rows in members:
        hat = 1 / n + (left[rows] * shrunk) @ left[rows].T
        found[rows] = np.linalg.solve(np.eye(len(rows)) - hat, residuals[rows])
    return found
