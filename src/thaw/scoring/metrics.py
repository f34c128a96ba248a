"""Metrics of one arm's predictions on one split."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64] | NDArray[np.float64]
Scores = NDArray[np.float64]


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: a row for each true class, a column for each predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def metrics(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Accuracy, precision, recall and F1 (each class weighted by its support), loss and confusion matrix.

    `labels` (n,), `logits` (n, classes). A class that is never predicted has precision 0, as in scikit-learn with
    `zero_division=0`.
    """
    confusion = confusion_matrix(labels, logits.argmax(1), logits.shape[1])
    right, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = per_class(right, support, predicted)
    weight = support / support.sum()
    chosen = log_probabilities(logits)[np.arange(len(labels)), labels]
    return {
        "accuracy": float(right.sum() / support.sum()),
        "precision": float(precision @ weight),
        "recall": float(recall @ weight),
        "f1": float(f1 @ weight),
        "loss": float(-chosen.mean()),
        "confusion": confusion.tolist(),
    }


def per_class(right: Counts, support: Counts, predicted: Counts) -> tuple[Scores, Scores, Scores]:
    """Precision, recall and F1 of each class, (..., classes), 0 where a class is never predicted or never there.

    From the images of each class that are rightly labelled, that there are, and that are predicted, (..., classes).
    """
    precision = np.divide(right, predicted, out=np.zeros(right.shape), where=predicted > 0)
    recall = np.divide(right, support, out=np.zeros(right.shape), where=support > 0)
    both = precision + recall
    return precision, recall, np.divide(2 * precision * recall, both, out=np.zeros(right.shape), where=both > 0)


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, classes) logits to the logarithms of the softmax probabilities, in float64."""
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted
