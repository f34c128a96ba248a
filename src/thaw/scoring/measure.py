"""One number to choose by: what a search, early stopping and a verdict compare."""

import math

import numpy as np
from numpy.typing import NDArray

from thaw.recipe import Metric
from thaw.scoring.metrics import class_counts, log_probabilities_of, macro, per_class, rank

JACKKNIFE_GROUPS = 20


def measure(metric: Metric, labels: NDArray[np.int64], logits: NDArray[np.float32]) -> float:
    """Measure predictions by one metric, such that more is better: the log loss comes back negative.

    Classes without an image in `labels` count for nothing. With more than two classes AUROC and average precision are
    those of each class against the rest, averaged over the classes; with two they are those of the second class.

    Parameters
    ----------
    metric
        Which one.
    labels
        (n,) indices of classes, at least one.
    logits
        (n, classes), finite.

    Returns
    -------
    float
        AUROC is 0.5 where all labels are of one class.
    """
    if metric == "accuracy":
        return float((logits.argmax(1) == labels).mean())
    if metric == "log_loss":
        return float(log_probabilities_of(logits, labels).mean())
    if metric in ("balanced_accuracy", "macro_f1"):
        right, support, predicted = class_counts(labels, logits.argmax(1), logits.shape[1])
        _, recall, f1 = per_class(right, support, predicted)
        balanced_accuracy, macro_f1 = macro(recall, f1, support, predicted)
        return float(balanced_accuracy if metric == "balanced_accuracy" else macro_f1)
    ranking = rank(labels, logits)
    return ranking.auroc if metric == "auroc" else ranking.average_precision


def gap_error(
    metric: Metric, labels: NDArray[np.int64], first: NDArray[np.float32], second: NDArray[np.float32]
) -> float:
    """Estimate the standard error of the difference of two predictions of the same images by one metric.

    The delete-a-group jackknife (Kott, 2001), which holds for any smooth metric: the difference without each of 20
    random groups of images, drawn once.

    Parameters
    ----------
    metric
        See `measure`.
    labels
        (n,) indices of classes.
    first, second
        (n, classes) logits.

    Returns
    -------
    float
        In the metric's own unit; infinite for fewer than two images.
    """
    count = min(JACKKNIFE_GROUPS, len(labels))
    if count < 2:
        return math.inf
    group = np.random.default_rng(0).permutation(len(labels)) % count
    without = [group != one for one in range(count)]
    gaps = np.array([measure(metric, labels[k], first[k]) - measure(metric, labels[k], second[k]) for k in without])
    return float(np.sqrt((count - 1) / count * ((gaps - gaps.mean()) ** 2).sum()))
