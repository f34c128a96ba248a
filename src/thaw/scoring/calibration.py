"""Calibration: how well confidence matches accuracy, and the temperature that corrects it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from thaw.record import Record
from thaw.scoring.intervals import student
from thaw.scoring.metrics import log_probabilities, log_probabilities_of
from thaw.scoring.statistics import Codes, Interval

Logits = NDArray[np.float32]

BINS = 15
"""Bins of equal width between a confidence of 0 and 1."""
WIDEST = 5.0
"""The temperature is searched for between exp(-5) and exp(5)."""
FOLDS = 5
"""Parts of the validation images, each scored with a temperature that the others chose."""
DRAWS = 1000
"""How often right and wrong are drawn anew from the confidence, with a fixed seed."""
CHUNK = 1 << 21
"""Numbers held at once while drawing."""


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
    ece_by_chance: float
    """What it would be on average on as many images were every confidence true: right or wrong drawn from it."""
    ece_limit: float
    """What it would then exceed in 5% of test sets."""
    bins: list[ReliabilityBin]
    """15 bins of equal width, from confidence 0 to 1."""
    temperature: float | None
    """What to divide logits by, fitted on the validation images; None where it would not help, or cannot be fitted."""
    gain: float | None
    """By how much a temperature lowers the log loss of validation images that did not choose it; None where it cannot
    be fitted."""
    gain_interval: Interval | None
    """95% interval of that; None where there is none."""
    ece_after: float | None
    """The expected calibration error with that temperature; None without one."""
    reason: str
    """What the temperature was fitted on, or why there is none."""


def calibrate(
    labels: Codes, logits: Logits, validation: tuple[Codes, Logits] | None, groups: Codes | None = None
) -> Calibration:
    """Measure the calibration error on test images, and fit a temperature on validation images, kept where it helps.

    Guo et al., On calibration of modern neural networks (ICML 2017). It helps where the log loss of validation images
    that did not choose it falls: each fifth of them is scored with the temperature fitted on the others, groups whole,
    and the 95% interval of the mean gain must lie above 0.

    Parameters
    ----------
    labels, logits
        (n,) and (n, classes) of the test images.
    validation
        The same of the validation images; None where the final model trained on them.
    groups
        The groups of the validation images, codes in any order; None where each is by itself.

    Returns
    -------
    Calibration
        Without a temperature, and with the reason, where it does not help, there are no validation images, or all of
        them are classified correctly.
    """
    error, bins = reliability(labels, logits)
    chance, limit = error_by_chance(logits)
    temperature = after = gain = interval = None
    if validation is None:
        reason = "the final training saw the validation images; train.rehearse fits a temperature on them before"
    elif (validation[1].argmax(1) == validation[0]).all():
        reason = (
            f"all {len(validation[0]):,} validation images are classified correctly, so the lower the temperature, the "
            "better it fits"
        )
    elif (gains := cross_fitted_gains(*validation, groups)) is None:
        reason = "the validation images are all of one group, so none are left to tell whether a temperature helps"
    else:
        gain, interval = gains
        fitted = fit_temperature(*validation)
        if interval[0] > 0:
            temperature, after = fitted, reliability(labels, logits / fitted)[0]
            images = f"{len(validation[0]):,} validation images"
            reason = f"fitted on the {images}, answered by a model that has not trained on them"
        else:
            reason = "it does not clearly lower the log loss of validation images that did not choose it"
    return Calibration(
        ece=error,
        ece_by_chance=chance,
        ece_limit=limit,
        bins=bins,
        temperature=temperature,
        gain=gain,
        gain_interval=interval,
        ece_after=after,
        reason=reason,
    )


def cross_fitted_gains(labels: Codes, logits: Logits, groups: Codes | None = None) -> tuple[float, Interval] | None:
    """Measure by how much a temperature lowers the log loss of images that did not choose it.

    Parameters
    ----------
    labels, logits
        (n,) and (n, classes).
    groups
        (n,) codes in any order; groups stay whole.

    Returns
    -------
    gain
        The mean over the images.
    interval
        Its 95% interval, Student's t over images or groups. None for both with a single image or group.
    """
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = int(units.max()) + 1
    if number < 2:
        return None
    fold_of = np.random.default_rng(0).permutation(number) % min(FOLDS, number)
    folds = fold_of[units]
    gains = np.empty(len(labels))
    for fold in range(min(FOLDS, number)):
        inside = folds == fold
        temperature = fit_temperature(labels[~inside], logits[~inside])
        before, after = (
            log_probabilities_of(logits[inside] / by, labels[inside]) for by in (np.float32(1), np.float32(temperature))
        )
        gains[inside] = after - before
    mean = float(gains.mean())
    parts = np.bincount(units, gains - mean)
    reach = student(number) * float(np.sqrt(number / (number - 1) * (parts @ parts))) / len(labels)
    return mean, (mean - reach, mean + reach)


def error_by_chance(logits: Logits) -> tuple[float, float]:
    """Compute the expected calibration error that a model of these answers would show were its confidence true.

    Right and wrong are drawn from the confidence, with a fixed seed: of few images, some bins hold more that are right
    than expected, and some fewer.

    Parameters
    ----------
    logits
        (n, classes).

    Returns
    -------
    mean, limit
        Over the draws: their mean, and what 95% of them do not exceed.
    """
    confidence, places = _confidence(logits)
    order = np.argsort(places, kind="stable")
    sure = confidence[order]
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    random, errors = np.random.default_rng(0), []
    step = max(1, CHUNK // len(sure))
    for start in range(0, DRAWS, step):
        right = random.random((min(step, DRAWS - start), len(sure))) < sure
        errors.append(np.abs(np.add.reduceat(right - sure, starts, axis=1)).sum(1) / len(sure))
    drawn = np.concatenate(errors)
    return float(drawn.mean()), float(np.quantile(drawn, 0.95))


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
    confidence, places = _confidence(logits)
    right = logits.argmax(1) == labels
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


def _confidence(logits: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], Codes]:
    """The probability of each row's predicted class, and the bin that it is in."""
    confidence = np.exp(log_probabilities(logits).max(1))
    return confidence, np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
