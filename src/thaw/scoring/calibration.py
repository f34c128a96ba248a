"""Calibration: how well confidence matches accuracy, and the temperature that corrects it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from thaw.record import Record
from thaw.scoring.metrics import log_probabilities
from thaw.scoring.statistics import Codes

Logits = NDArray[np.float32]

BINS = 15
"""Bins of equal width between a confidence of 0 and 1."""
WIDEST = 5.0
"""The temperature is searched for between exp(-5) and exp(5)."""


class ReliabilityBin(Record):
    """The test images whose confidence lies in one interval: above `low`, up to `high`."""

    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    count: int
    """Test images in it."""
    confidence: float | None
    """Their mean confidence, the probability of the predicted class; None where there are none."""
    accuracy: float | None
    """Fraction of them that are classified correctly; None where there are none."""


class Calibration(Record):
    """How well an arm's confidence matches its accuracy on the test images, with the first seed."""

    ece: float
    """Expected calibration error: the mean over images of the gap between accuracy and confidence in their bin."""
    bins: list[ReliabilityBin]
    """15 bins of equal width, from confidence 0 to 1."""
    temperature: float | None
    """What to divide logits by, fitted on the validation images; None where it cannot be fitted."""
    ece_after: float | None
    """The expected calibration error with that temperature; None without one."""
    reason: str
    """What the temperature was fitted on, or why there is none."""


def calibrate(labels: Codes, logits: Logits, validation: tuple[Codes, Logits] | None) -> Calibration:
    """Measure the calibration error on test images, and fit the temperature on validation images.

    Guo et al., On calibration of modern neural networks (ICML 2017).

    Parameters
    ----------
    labels, logits
        (n,) and (n, classes) of the test images.
    validation
        The same of the validation images; None where the final model trained on them.

    Returns
    -------
    Calibration
        Without a temperature, and with the reason, where there are no validation images or all of them are classified
        correctly.
    """
    error, bins = reliability(labels, logits)
    if validation is None:
        temperature, after = None, None
        reason = 'the final training saw the validation images; train.refit = "train" leaves them to fit a temperature'
    elif (validation[1].argmax(1) == validation[0]).all():
        temperature, after = None, None
        reason = (
            f"all {len(validation[0]):,} validation images are classified correctly, so the lower the temperature, the "
            "better it fits"
        )
    else:
        temperature = fit_temperature(*validation)
        after = reliability(labels, logits / temperature)[0]
        reason = f"fitted on the {len(validation[0]):,} validation images, which the final model did not train on"
    return Calibration(ece=error, bins=bins, temperature=temperature, ece_after=after, reason=reason)


def reliability(labels: Codes, logits: NDArray[np.floating[Any]]) -> tuple[float, list[ReliabilityBin]]:
    """Compute the expected calibration error, and the bins of confidence behind it.

    Confidence is the probability of the predicted class.

    Parameters
    ----------
    labels
        (n,) indices of classes.
    logits
        (n, classes), of any temperature.

    Returns
    -------
    error
        The mean over images of the gap between accuracy and confidence in their bin, from 0 to 1.
    bins
        15 of equal width, from confidence 0 to 1.
    """
    confidence = np.exp(log_probabilities(logits).max(1))
    right = logits.argmax(1) == labels
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    error, bins = 0.0, []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        mean, accuracy = (float(values[inside].mean()) if count else None for values in (confidence, right))
        if mean is not None and accuracy is not None:
            error += count / len(labels) * abs(mean - accuracy)
        low, high = place / BINS, (place + 1) / BINS
        bins.append(ReliabilityBin(low=low, high=high, count=count, confidence=mean, accuracy=accuracy))
    return error, bins


def fit_temperature(labels: Codes, logits: Logits) -> float:
    """Find what to divide logits by so that the mean negative log-likelihood of `labels` is least.

    Parameters
    ----------
    labels
        (n,) indices of classes; not all may be classified correctly.
    logits
        (n, classes).

    Returns
    -------
    float
        The temperature, between exp(-5) and exp(5).
    """

    def loss(log_temperature: float) -> float:
        scaled = log_probabilities(logits / np.exp(log_temperature))
        return float(-scaled[np.arange(len(labels)), labels].mean())

    found = optimize.minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
