"""Multinomial logistic regression with an L2 penalty, solved to convergence in float64."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from thaw.scoring.metrics import block_rows

EXACT = 1e-7
"""The solver ends where no element of the gradient is larger, each in units of its curvature."""
ITERATIONS = 1000
"""Where it ends at the latest."""
BLOCK = 4096
"""Rows that are converted to float64 at a time."""
CORRECTIONS = 20
"""Steps that L-BFGS remembers."""
LEAST_CURVATURE = 1e-6
"""Of a class that is almost always told from the others: what its curvature is taken for at least."""


@dataclass(frozen=True)
class Problem:
    """What a regression is fitted to, in coordinates that make it quick to solve; everything is float64.

    Features are standardised, then rotated onto their principal axes. The penalty is the same in any rotation, so that
    the solution is too; and with fewer images than features there are only as many axes as images.
    """

    coordinates: Tensor
    """(n, axes)"""
    variances: Tensor
    """(axes,) of the coordinates."""
    mean: Tensor
    """(features,)"""
    axes: Tensor
    """(features, axes) from features, less their mean, to coordinates."""
    labels: Tensor
    """(n,) int64, of classes that each have an image."""
    weights: Tensor
    """(n,) of the images; their sum is 1."""


@dataclass(frozen=True)
class Solution:
    """Where a regression has its minimum; in the coordinates of its problem."""

    weight: Tensor
    """(classes, axes)"""
    bias: Tensor
    """(classes,)"""


def pose(
    features: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], device: torch.device
) -> Problem:
    """Pose a regression.

    Parameters
    ----------
    features
        (n, features), finite.
    labels
        (n,) from 0, each class with an image at least.
    weights
        (n,) of the images, more than 0.
    device
        Where it is solved; one that knows float64.
    """
    given = torch.from_numpy(features).to(device)
    mean = given.mean(0, dtype=torch.float64)
    deviation = torch.zeros_like(mean)
    for block in torch.split(given, BLOCK):
        deviation += (block.double() - mean).square().sum(0)
    deviation = (deviation / len(given)).sqrt()
    deviation[deviation <= 1e-6 * deviation.max()] = torch.inf  # a feature that is always the same tells nothing
    axes = torch.diag(1 / deviation)
    if len(given) < len(mean):
        standardised = (given.double() - mean) / deviation
        axes = axes @ torch.linalg.qr(standardised.T).Q
    gram = torch.zeros(axes.shape[1], axes.shape[1], dtype=torch.float64, device=device)
    for block in torch.split(given, BLOCK):
        some = (block.double() - mean) @ axes
        gram += some.T @ some
    variances, turn = torch.linalg.eigh(gram / len(given))
    axes = axes @ turn
    coordinates = torch.cat([(block.double() - mean) @ axes for block in torch.split(given, BLOCK)])
    shares = torch.from_numpy(weights / weights.sum()).to(device)
    return Problem(coordinates, variances.clamp(min=0), mean, axes, torch.from_numpy(labels).to(device), shares)


def solve(problem: Problem, penalty: float, start: Solution | None = None, tolerance: float = EXACT) -> Solution:
    """Minimise the weighted mean of the cross-entropy plus `penalty / 2` times the sum of squared weights.

    Biases are free. scikit-learn's `C` is 1 / (penalty * n) where images weigh the same. The minimum is found by L-BFGS
    (Liu and Nocedal, 1989) with each weight in units of the curvature that it starts with.

    Parameters
    ----------
    problem
        What it is fitted to.
    penalty
        Above 0.
    start
        Where to begin: the solution of a penalty nearby; by default at 0.
    tolerance
        The largest element of the gradient at the end, see `EXACT`.
    """
    classes, axes = int(problem.labels.max()) + 1, problem.coordinates.shape[1]
    if start is None:
        zeros = problem.coordinates.new_zeros(classes, axes + 1)
        start = Solution(zeros[:, :axes], zeros[:, axes])
    spread = _spread(problem, start)
    unit = torch.cat([spread.outer(problem.variances) + penalty, spread[:, None]], 1).rsqrt()

    def at(scaled: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(scaled.reshape(classes, axes + 1)).to(unit.device) * unit

    def value_and_gradient(scaled: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = at(scaled)
        weight, bias = both[:, :axes], both[:, axes]
        loss, gradient = bias.new_zeros(()), torch.zeros_like(both)
        for rows in _blocks(problem, classes):
            some, labels, shares = problem.coordinates[rows], problem.labels[rows], problem.weights[rows]
            logs = functional.log_softmax(torch.addmm(bias, some, weight.T), 1)
            loss -= shares @ logs.gather(1, labels[:, None])[:, 0]
            wrong = logs.exp_()
            wrong[torch.arange(len(labels), device=bias.device), labels] -= 1
            wrong *= shares[:, None]
            gradient[:, :axes] += wrong.T @ some
            gradient[:, axes] += wrong.sum(0)
        gradient[:, :axes] += penalty * weight
        value = loss + penalty / 2 * weight.square().sum()
        return float(value), (gradient * unit).cpu().numpy().ravel()

    first = (torch.cat([start.weight, start.bias[:, None]], 1) / unit).cpu().numpy().ravel()
    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "maxcor": CORRECTIONS}
    found = minimize(value_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    both = at(found.x)
    return Solution(both[:, :axes], both[:, axes])


def as_layer(problem: Problem, solution: Solution) -> tuple[Tensor, Tensor]:
    """Return the weight (classes, features) and the bias (classes,) of a linear layer on the features as they are."""
    weight = solution.weight @ problem.axes.T
    bias = solution.bias - weight @ problem.mean
    return weight, bias - bias.mean()  # the same probabilities for any constant


def _spread(problem: Problem, at: Solution) -> Tensor:
    """(classes,) the weighted mean of p (1 - p) over the images: the curvature of a class's logits."""
    total = torch.zeros_like(at.bias)
    for rows in _blocks(problem, len(total)):
        chances = torch.softmax(torch.addmm(at.bias, problem.coordinates[rows], at.weight.T), 1)
        total += problem.weights[rows] @ (chances * (1 - chances))
    return total.clamp(min=LEAST_CURVATURE)


def _blocks(problem: Problem, classes: int) -> list[slice]:
    """The rows in parts that hold so many logits at a time."""
    size = block_rows(classes)
    return [slice(start, start + size) for start in range(0, len(problem.labels), size)]
