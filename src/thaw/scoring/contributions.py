"""What each image adds to a metric: numbers whose mean is the metric, so that one way to reckon chance serves all."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thaw.recipe import Metric
from thaw.scoring.measure import measure
from thaw.scoring.metrics import log_probabilities, log_probabilities_of


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
    whole, present = measure(metric, labels, logits), np.unique(labels)
    if metric == "balanced_accuracy":
        right = (logits.argmax(1) == labels).astype(np.float64)
        support = np.bincount(labels, minlength=logits.shape[1])
        recall = np.bincount(labels, right, logits.shape[1]) / np.maximum(support, 1)
        influence = len(labels) * (right - recall[labels]) / support[labels] / len(present)
    elif metric == "macro_f1":
        influence = _f1(labels, logits.argmax(1), logits.shape[1])
    else:
        of_class = _auroc if metric == "auroc" else _average_precision
        probabilities = np.exp(log_probabilities(logits))
        classes = [1] if logits.shape[1] == 2 else present.tolist()
        used = [code for code in classes if 0 < (labels == code).sum() < len(labels)]
        influence = sum((of_class(labels == code, probabilities[:, code]) for code in used), np.zeros(len(labels)))
        influence = influence / max(1, len(used))
    return np.asarray(whole + influence - influence.mean(), np.float64)


def _f1(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """F1 of a class is twice its hits over its images and its answers."""
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    both = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    f1 = 2 * hits / np.maximum(both, 1)
    slope = f1 / np.maximum(both, 1)
    gain = 2 * (labels == predicted) / both[labels]
    return np.asarray(len(labels) * (gain - slope[labels] - slope[predicted]) / (both > 0).sum())


def _auroc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """For a positive the fraction of negatives below it, for a negative that of positives above it."""
    ranks, own = stats.rankdata(scores), np.empty(len(scores))
    own[positive], own[~positive] = stats.rankdata(scores[positive]), stats.rankdata(scores[~positive])
    many, few = len(scores) - positive.sum(), positive.sum()
    beaten = np.where(positive, (ranks - own) / many, 1 - (ranks - own) / few)
    area = beaten[positive].mean()
    return np.asarray(len(scores) * (beaten - area) / np.where(positive, few, many))


def _average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The precision at each positive, and what each image does to that of the positives ranked no higher."""
    _, place = np.unique(-scores, return_inverse=True)
    sizes, hits = np.bincount(place), np.bincount(place, positive)
    above = np.cumsum(sizes)
    precision = np.cumsum(hits) / above
    # sums over the positives at this threshold and below
    number = np.cumsum((hits / above)[::-1])[::-1]
    weighted = np.cumsum((hits * precision / above)[::-1])[::-1]
    area = (hits * precision).sum() / positive.sum()
    own = positive * (precision[place] - area)
    return np.asarray(len(scores) * (own + positive * number[place] - weighted[place]) / positive.sum())
