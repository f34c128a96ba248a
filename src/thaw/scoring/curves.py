"""ROC and precision-recall curves of two classes, with the point at which the model answers."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from thaw.record import Record
from thaw.scoring.metrics import class_counts, log_probabilities

POINTS = 200
"""Points that a curve keeps at most."""

Point = tuple[float, float]


class Curves(Record):
    """The trade-offs of an arm with two classes on the test images, with the first seed; of the second class."""

    roc: list[Point]
    """False positive rate and recall as the threshold falls, 200 points at most."""
    precision_recall: list[Point]
    """Recall and precision as the threshold rises, 200 points at most."""
    roc_at_half: Point
    """The first at a probability of 0.5, where the model answers."""
    precision_recall_at_half: Point
    """The second at a probability of 0.5; precision is 0 where the class is never predicted."""


def trace_curves(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> Curves | None:
    """Trace both curves of the second of two classes; None with more classes, or images of one class only.

    Parameters
    ----------
    labels
        (n,) indices of classes.
    logits
        (n, classes), finite.
    """
    if logits.shape[1] != 2 or len(np.unique(labels)) < 2:
        return None
    probability = np.exp(log_probabilities(logits)[:, 1])
    fall_out, found, _ = roc_curve(labels, probability)
    precision, recall, _ = precision_recall_curve(labels, probability, drop_intermediate=True)
    right, support, taken = (count.tolist() for count in class_counts(labels, logits.argmax(1), 2))
    of_second = right[1] / support[1]
    return Curves(
        roc=_thinned(fall_out, found),
        precision_recall=_thinned(recall, precision),
        roc_at_half=((support[0] - right[0]) / support[0], of_second),
        precision_recall_at_half=(of_second, right[1] / taken[1] if taken[1] else 0.0),
    )


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[Point]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int))
    return list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))
