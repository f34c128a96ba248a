"""Metrics of one arm's predictions on one split."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from thaw.record import Record
from thaw.scoring.ranking import Ranking, rank_class

Counts = NDArray[np.int64] | NDArray[np.float64]
PerClass = NDArray[np.float64]

MANY = 10
"""From so many classes on, it is also scored whether the class is among the five most probable."""
CELLS = 1 << 22
"""Probabilities in float64 that are held at a time, 32 MiB."""


class Scores(Record):
    """Scores of predictions on one split, as scikit-learn defines them. A class without an image counts for nothing."""

    accuracy: float
    """Fraction of the images that are classified correctly."""
    precision: float
    """Precision of each class, weighted by the class's support."""
    recall: float
    """Recall of each class, weighted by the class's support: the same number as accuracy."""
    f1: float
    """F1 of each class, weighted by the class's support."""
    balanced_accuracy: float
    """Mean recall of the classes, each counting alike."""
    macro_f1: float
    """Mean F1 of the classes, each counting alike."""
    log_loss: float
    """Mean cross-entropy, in nats."""
    brier: float
    """Mean squared distance of the probabilities from 0 and 1, summed over the classes; with two classes half of that,
    the squared distance of one probability."""
    auroc: float
    """Area under the ROC curve of each class against the rest, averaged over the classes; with two, that of the second.
    0.5 where all images are of one class."""
    average_precision: float
    """Average precision of each class against the rest, averaged over the classes; with two, that of the second."""
    top5: float | None
    """Fraction of the images whose class is among the five most probable ones; None with fewer than ten classes."""
    confusion: list[tuple[int, int, int]]
    """The cells of the confusion matrix that hold images: true class, predicted class, images."""


class Answers(NamedTuple):
    """How good the probabilities of each image are."""

    log_loss: NDArray[np.float64]
    """(n,) the negative log probability of its class."""
    brier: NDArray[np.float64]
    """(n,) the squared distance of its probabilities from 0 and 1; with two classes half of it."""
    top5: NDArray[np.bool_] | None
    """(n,) whether its class is among the five most probable; None with fewer than ten classes."""


def score(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> Scores:
    """Compute every score of predictions, and their confusion matrix.

    A class that is never predicted has precision 0, as in scikit-learn with `zero_division=0`.

    Parameters
    ----------
    labels
        (n,) indices of classes, at least one.
    logits
        (n, classes), finite.
    """
    predicted = logits.argmax(1)
    right, support, taken = class_counts(labels, predicted, logits.shape[1])
    precision, recall, f1 = per_class(right, support, taken)
    weight = support / support.sum()
    balanced_accuracy, macro_f1 = macro(recall, f1, support, taken)
    chosen = log_probabilities_of(logits, labels)
    answers, ranking = answer_scores(labels, logits), rank(labels, logits)
    return Scores(
        accuracy=float(right.sum() / support.sum()),
        precision=float(precision @ weight),
        recall=float(recall @ weight),
        f1=float(f1 @ weight),
        balanced_accuracy=float(balanced_accuracy),
        macro_f1=float(macro_f1),
        log_loss=float(-chosen.mean()),
        brier=float(answers.brier.mean()),
        auroc=ranking.auroc,
        average_precision=ranking.average_precision,
        top5=None if answers.top5 is None else float(answers.top5.mean()),
        confusion=confusion_cells(labels, predicted, logits.shape[1]),
    )


def confusion_cells(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> list[tuple[int, int, int]]:
    """List the cells of the confusion matrix that hold images: true class, predicted class, images; at most one each.

    Parameters
    ----------
    labels, predicted
        (n,) indices of classes.
    classes
        How many classes there are.
    """
    cells, counts = np.unique(labels * classes + predicted, return_counts=True)
    return list(zip((cells // classes).tolist(), (cells % classes).tolist(), counts.tolist(), strict=True))


def class_counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the images of each class that are classified correctly, that there are, and that are predicted.

    Parameters
    ----------
    labels, predicted
        (n,) indices of classes.
    classes
        How many classes there are, those without an image included.

    Returns
    -------
    right, support, predicted
        (classes,) each.
    """
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return right, np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)


def macro(recall: PerClass, f1: PerClass, support: Counts, predicted: Counts) -> tuple[PerClass, PerClass]:
    """Average recall over the classes that have images, and F1 over those that have images or are predicted.

    Parameters
    ----------
    recall, f1, support, predicted
        (..., classes); at least one class has an image.

    Returns
    -------
    balanced_accuracy, macro_f1
        (...) each.
    """
    there, either = support > 0, (support > 0) | (predicted > 0)
    return (recall * there).sum(-1) / there.sum(-1), (f1 * either).sum(-1) / either.sum(-1)


def answer_scores(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> Answers:
    """Score the probabilities of each image, computing some rows at a time.

    Parameters
    ----------
    labels
        (n,) indices of classes.
    logits
        (n, classes).
    """
    images, classes = logits.shape
    log_loss, brier, ahead = np.empty(images), np.empty(images), np.zeros(images, np.int64)
    size = block_rows(classes)
    for start in range(0, images, size):
        part = slice(start, start + size)
        own = labels[part, None]
        found = log_probabilities(logits[part])
        log_loss[part] = -np.take_along_axis(found, own, 1)[:, 0]
        away = np.exp(found)
        np.put_along_axis(away, own, np.take_along_axis(away, own, 1) - 1, 1)
        brier[part] = (away**2).sum(1) / (2 if classes == 2 else 1)
        if classes >= MANY:
            ahead[part] = (logits[part] > np.take_along_axis(logits[part], own, 1)).sum(1)
    return Answers(log_loss, brier, ahead < 5 if classes >= MANY else None)


def rank(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> Ranking:
    """Measure how well the probability of each class ranks its images above the rest, averaged over the classes.

    With two classes it is that of the second alone. Classes that hold none or all of the images are left out; where no
    class remains, both areas are 0.5.

    Parameters
    ----------
    labels
        (n,) indices of classes.
    logits
        (n, classes), finite.
    """
    images, classes = logits.shape
    counts = np.bincount(labels, minlength=classes)
    ranked = [code for code in ([1] if classes == 2 else range(classes)) if 0 < counts[code] < images]
    area, average, area_of, average_of = 0.0, 0.0, np.zeros(images), np.zeros(images)
    if not ranked:
        return Ranking(0.5, 0.5, area_of, average_of)
    highest, spread = _softmax_terms(logits)
    for code in ranked:
        probability = np.exp((logits[:, code].astype(np.float64) - highest) - spread)
        found = rank_class(labels == code, probability)
        area, average = area + found.auroc, average + found.average_precision
        area_of += found.auroc_influence
        average_of += found.average_precision_influence
    number = len(ranked)
    return Ranking(area / number, average / number, area_of / number, average_of / number)


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


def _softmax_terms(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each row's greatest logit, and the logarithm of the sum of exponentials of the others' distances from it."""
    highest = logits.max(1).astype(np.float64)
    spread, size = np.empty(len(logits)), block_rows(logits.shape[1])
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        spread[part] = np.log(np.exp(logits[part].astype(np.float64) - highest[part, None]).sum(1))
    return highest, spread
