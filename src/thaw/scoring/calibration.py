"""How far an arm's confidence can be taken at its word: calibration error, reliability, and the temperature."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from thaw.scoring.metrics import log_probabilities
from thaw.scoring.statistics import Codes

Logits = NDArray[np.float32]

BINS = 15
"""Bins of equal width between a confidence of 0 and 1."""
WIDEST = 5.0
"""The temperature is sought between exp(-5) and exp(5)."""


def calibrate(labels: Codes, logits: Logits, validation: tuple[Codes, Logits] | None) -> dict[str, Any]:
    """Expected calibration error on test, its bins, and the temperature, as `metrics.json` says it of an arm.

    `labels` (n,) and `logits` (n, classes) of the test images; `validation` the same of validation, None where the
    final model trained on it. Guo et al., On calibration of modern neural networks (ICML 2017).
    """
    error, bins = reliability(labels, logits)
    if validation is None:
        temperature, after = None, None
        why = 'the final training saw the validation images; train.refit = "train" leaves them to fit a temperature'
    elif (validation[1].argmax(1) == validation[0]).all():
        temperature, after = None, None
        why = f"all {len(validation[0]):,} validation images are right, so that the lower it is, the better it fits"
    else:
        temperature = fit_temperature(*validation)
        after = reliability(labels, logits / temperature)[0]
        why = f"fitted on the {len(validation[0]):,} validation images, which the final model did not train on"
    return {"ece": error, "bins": bins, "temperature": temperature, "ece_after": after, "why": why}


def reliability(labels: Codes, logits: NDArray[np.floating[Any]]) -> tuple[float, list[dict[str, Any]]]:
    """The expected calibration error, and for each bin of confidence its images, mean confidence and accuracy.

    `labels` (n,), `logits` (n, classes). Confidence is the probability of the predicted class; a bin holds what lies
    above its lower and up to its upper end. The error is the mean over images of how far accuracy and confidence of
    their bin are apart.
    """
    confidence = np.exp(log_probabilities(logits).max(1))
    right = logits.argmax(1) == labels
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    error, bins = 0.0, []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        sure, share = (float(values[inside].mean()) if count else None for values in (confidence, right))
        if sure is not None and share is not None:
            error += count / len(labels) * abs(sure - share)
        ends = {"low": place / BINS, "high": (place + 1) / BINS}
        bins.append({**ends, "count": count, "confidence": sure, "accuracy": share})
    return error, bins


def fit_temperature(labels: Codes, logits: Logits) -> float:
    """What to divide logits by so that their mean negative log-likelihood of `labels` is least."""

    def loss(log_temperature: float) -> float:
        scaled = log_probabilities(logits / np.exp(log_temperature))
        return float(-scaled[np.arange(len(labels)), labels].mean())

    found = optimize.minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
