"""The risk-coverage curve: how many answers are wrong if a model answers only the images that it is surest of."""

import numpy as np
from numpy.typing import NDArray

from thaw.record import Record
from thaw.scoring.statistics import Codes

POINTS = 200
"""Points that a curve keeps at most."""


class RiskCoverage(Record):
    """What an arm gains by leaving open the images that it is least sure of, on the test images, first seed."""

    curve: list[tuple[float, float]]
    """Fraction of the images answered, the surest first, and the fraction of these that are wrong; 200 points at
    most."""
    area: float
    """The mean error over all fractions answered: the area under the curve (AURC). Less is better."""
    area_at_random: float
    """What it would be were confidence to tell nothing: the error of all answers."""
    area_at_best: float
    """What it would be were every wrong answer less sure than every right one."""


def trace_risk(labels: Codes, probabilities: NDArray[np.float64]) -> RiskCoverage:
    """Trace the risk-coverage curve, by confidence, the probability of the predicted class.

    Geifman and El-Yaniv, Selective classification for deep neural networks (NeurIPS 2017, arXiv:1705.08500). Images of
    equal confidence are answered in random order, of which the curve is the mean.

    Parameters
    ----------
    labels, probabilities
        (n,) and (n, classes), n at least 1.
    """
    wrong = (probabilities.argmax(1) != labels).astype(np.float64)
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    alike = np.unique(-confidence[order], return_inverse=True)[1]
    errors = (np.bincount(alike, wrong[order]) / np.bincount(alike))[alike]
    answered = np.arange(1, len(wrong) + 1)
    risk = np.cumsum(errors) / answered
    kept = np.unique(np.linspace(0, len(risk) - 1, min(POINTS, len(risk))).round().astype(int))
    return RiskCoverage(
        curve=list(zip((answered[kept] / len(wrong)).tolist(), risk[kept].tolist(), strict=True)),
        area=float(risk.mean()),
        area_at_random=float(wrong.mean()),
        area_at_best=float((np.cumsum(np.sort(wrong)) / answered).mean()),
    )
