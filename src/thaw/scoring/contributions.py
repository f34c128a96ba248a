"""What each image adds to a metric: numbers whose mean is the metric, so that one way to reckon chance serves all."""

import numpy as np
from numpy.typing import NDArray

from thaw.recipe import Metric
from thaw.scoring.measure import measure
from thaw.scoring.metrics import log_probabilities_of, rank


def contributions(metric: Metric, labels: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute what each image adds to a metric: values whose mean is the metric, and move as it does with the images.

    The metric plus each image's influence on it, its derivative by the image's weight (the infinitesimal jackknife:
    Efron, The jackknife, the bootstrap and other resampling plans, 1982). For accuracy it is 1 where the image is
    classified correctly and 0 where it is not, for AUROC what DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988)
    compare correlated ROC curves by.

    Parameters
    ----------
    metric
        Which one, see `measure`.
    labels
        (n,) indices of classes, at least one.
    logits
        (n, classes), finite.

    Returns
    -------
    array of float64, shape (n,)
        More is better.
    """
    if metric == "accuracy":
        return np.asarray(logits.argmax(1) == labels, np.float64)
    if metric == "log_loss":
        return log_probabilities_of(logits, labels).astype(np.float64)
    if metric in ("auroc", "average_precision"):
        ranking = rank(labels, logits)
        if metric == "auroc":
            return ranking.auroc + len(labels) * ranking.auroc_influence
        return ranking.average_precision + len(labels) * ranking.average_precision_influence
    whole = measure(metric, labels, logits)
    if metric == "balanced_accuracy":
        right = (logits.argmax(1) == labels).astype(np.float64)
        support = np.bincount(labels, minlength=logits.shape[1])
        recall = np.bincount(labels, right, logits.shape[1]) / np.maximum(support, 1)
        influence = len(labels) * (right - recall[labels]) / support[labels] / (support > 0).sum()
    else:
        influence = _f1(labels, logits.argmax(1), logits.shape[1])
    return np.asarray(whole + influence - influence.mean(), np.float64)


def _f1(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """F1 of a class is twice its hits over its images and its answers."""
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    both = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    f1 = 2 * hits / np.maximum(both, 1)
    slope = f1 / np.maximum(both, 1)
    gain = 2 * (labels == predicted) / both[labels]
    return np.asarray(len(labels) * (gain - slope[labels] - slope[predicted]) / (both > 0).sum())
