"""Metrics of one arm's predictions on one split."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from thaw.record import Record

Counts = NDArray[np.int64] | NDArray[np.float64]
PerClass = NDArray[np.float64]

CELLS = 1 << 22
"""Probabilities in float64 that are held at a time, 32 MiB."""


class Scores(Record):
    """Scores of predictions on one split."""

    accuracy: float
    """Fraction of the images that are classified correctly."""
    precision: float
    """Precision of each class, weighted by the class's support."""
    recall: float
    """Recall of each class, weighted by the class's support."""
    f1: float
    """F1 of each class, weighted by the class's support."""
    loss: float
    """Mean cross-entropy."""
    confusion: list[list[int]]
    """A row for each true class, a column for each predicted one."""


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count images by class, (classes, classes): a row for each true class, a column for each predicted one.

    Parameters
    ----------
    labels, predicted
        (n,) indices of classes.
    classes
        How many classes there are, those without an image included.
    """
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def score(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> Scores:
    """Compute accuracy, precision, recall and F1 (each class weighted by its support), loss and confusion matrix.

    A class that is never predicted has precision 0, as in scikit-learn with `zero_division=0`.

    Parameters
    ----------
    labels
        (n,) indices of classes, at least one.
    logits
        (n, classes).
    """
    confusion = confusion_matrix(labels, logits.argmax(1), logits.shape[1])
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = per_class(right, support, predicted)
    weight = support / support.sum()
    chosen = log_probabilities_of(logits, labels)
    return Scores(
        accuracy=float(right.sum() / support.sum()),
        precision=float(precision @ weight),
        recall=float(recall @ weight),
        f1=float(f1 @ weight),
        loss=float(-chosen.mean()),
        confusion=confusion.tolist(),
    )


def per_class(right: Counts, support: Counts, predicted: Counts) -> tuple[PerClass, PerClass, PerClass]:
    """Compute precision, recall and F1 of each class, 0 where a class is never predicted or has no images.

    Parameters
    ----------
    right, support, predicted
        (..., classes) images of each class that are classified correctly, that there are, and that are predicted.

    Returns
    -------
    precision, recall, f1
        (..., classes) each.
    """
    precision = np.divide(right, predicted, out=np.zeros(right.shape), where=predicted > 0)
    recall = np.divide(right, support, out=np.zeros(right.shape), where=support > 0)
    both = precision + recall
    return precision, recall, np.divide(2 * precision * recall, both, out=np.zeros(right.shape), where=both > 0)


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithms of the softmax probabilities of (n, classes) logits, in float64."""
    logarithms: NDArray[np.float64] = log_softmax(logits.astype(np.float64), axis=1)
    return logarithms


def log_probabilities_of(logits: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row's log probability of one class, (n,), computing some rows at a time.

    Parameters
    ----------
    logits
        (n, classes) float32
    codes
        (n,) the class of each row.
    """
    chosen, size = np.empty(len(codes)), block_rows(logits.shape[1])
    for start in range(0, len(codes), size):
        own = codes[start : start + size]
        chosen[start : start + size] = log_probabilities(logits[start : start + size])[np.arange(len(own)), own]
    return chosen


def block_rows(classes: int) -> int:
    """Return how many rows of so many classes are computed at a time."""
    return max(1, CELLS // classes)
