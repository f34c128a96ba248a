"""Intervals by linearisation: of scores of probabilities, and of every class's precision, recall and F1."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from thaw.record import Record
from thaw.scoring.metrics import answer_scores, per_class, rank
from thaw.scoring.statistics import (
    LEVEL,
    AnswerIntervals,
    Codes,
    Interval,
    effective_images,
    score_intervals,
    wilson,
)

Values = NDArray[np.float64]


class ScoreIntervals(AnswerIntervals):
    """95% intervals of an arm's scores, each the mean over the seeds."""

    log_loss: Interval | None
    """Linearised, on a logarithmic scale; None with a single group."""
    brier: Interval | None
    """Linearised, on a logarithmic scale; None with a single group."""
    auroc: Interval
    """Linearised (DeLong's variance), on the logit scale."""
    average_precision: Interval
    """Linearised, on the logit scale."""
    top5: Interval | None
    """Wilson's, as of accuracy; None with fewer than ten classes."""


class ClassScores(Record):
    """How an arm does on one class of the test images, the mean over the seeds."""

    support: int
    """Test images of the class."""
    precision: float
    """Fraction of the images predicted as the class that are of it; 0 where there are none."""
    recall: float
    """Fraction of the images of the class that are predicted as it; 0 where there are none."""
    f1: float
    """Their harmonic mean."""
    precision_interval: Interval
    """95%, Wilson's of the independent images that it is worth."""
    recall_interval: Interval
    """95%, Wilson's of the independent images that it is worth."""
    f1_interval: Interval
    """95%, Wilson's of the independent images that it is worth."""


def all_intervals(labels: Codes, logits: Sequence[NDArray[np.float32]], groups: Codes | None = None) -> ScoreIntervals:
    """Compute the 95% intervals of every score of an arm.

    The seeds' models are taken as they are: the interval is about other images, not about training again.

    Parameters
    ----------
    labels
        (n,) of the test images, indices of classes.
    logits
        For each seed (n, classes).
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.
    """
    answers = [answer_scores(labels, of_seed) for of_seed in logits]
    rankings = [rank(labels, of_seed) for of_seed in logits]
    top5 = [it.top5 for it in answers if it.top5 is not None]
    predicted = np.stack([of_seed.argmax(1) for of_seed in logits])
    smallest = int(min(number for number in np.bincount(labels) if number))
    within = score_intervals(labels, predicted, logits[0].shape[1], groups)
    return ScoreIntervals(
        **dict(within),
        log_loss=positive_interval(np.mean([it.log_loss for it in answers], axis=0), groups),
        brier=positive_interval(np.mean([it.brier for it in answers], axis=0), groups),
        auroc=area_interval(
            float(np.mean([it.auroc for it in rankings])),
            np.mean([it.auroc_influence for it in rankings], axis=0),
            smallest,
            groups,
        ),
        average_precision=area_interval(
            float(np.mean([it.average_precision for it in rankings])),
            np.mean([it.average_precision_influence for it in rankings], axis=0),
            smallest,
            groups,
        ),
        top5=wilson(float(np.mean(top5)), effective_images(np.stack(top5), groups)) if top5 else None,
    )


def positive_interval(values: Values, groups: Codes | None = None) -> Interval | None:
    """Compute the 95% interval of the mean of values that are not negative, such as losses of images.

    Student's t on a logarithmic scale, which is skewed as losses are; the variance is that of whole groups (linearised
    ratio).

    Parameters
    ----------
    values
        (n,) at least 0.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    Interval or None
        None for a single image or group, which says nothing of others.
    """
    mean = float(values.mean())
    error, units = _error((values - mean) / len(values), groups)
    if units == 1:
        return None
    if error == 0:
        return mean, mean
    reach = math.exp(min(student(units) * error / mean, 50.0))
    return mean / reach, mean * reach


def area_interval(area: float, influence: Values, smallest: int, groups: Codes | None = None) -> Interval:
    """Compute the 95% interval of an area under a curve from the influence of every image.

    Student's t on the logit scale, as Pepe (The statistical evaluation of medical tests, 2003) for AUROC, and Boyd,
    Eng and Page (Area under the precision-recall curve, ECML 2013) for average precision, where it covers the truth
    more often than a bootstrap. Where the area is 0 or 1, which shows no variance, Wilson's of `smallest` images.

    Parameters
    ----------
    area
        From 0 to 1.
    influence
        (n,) of each image, see `ranking.rank_class`.
    smallest
        Images of the rarest class.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.
    """
    error, units = _error(influence, groups)
    if units == 1:
        return 0.0, 1.0
    spread = area * (1 - area)
    if error == 0 or spread < 1e-12:
        return wilson(min(max(area, 0.0), 1.0), min(smallest, units))
    reach, centre = student(units) * error / spread, math.log(area / (1 - area))
    low, high = (float(stats.logistic.cdf(centre + sign * reach)) for sign in (-1, 1))
    return low, high


def student(count: int) -> float:
    """Return the two-sided 95% point of Student's t for a mean of `count` values."""
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


def class_scores(labels: Codes, predicted: Codes, classes: int, groups: Codes | None = None) -> list[ClassScores]:
    """Score every class, with 95% intervals.

    Each of the three is a ratio of counts. Wilson's interval is taken at the number of independent images that would
    have the ratio's linearised variance, as in `statistics.effective_images`: with one seed and no groups, for recall
    the images of the class, for precision those predicted as it.

    Parameters
    ----------
    labels
        (n,) of the test images, indices of classes.
    predicted
        (seeds, n) indices of classes; each score is the mean over the seeds.
    classes
        How many classes there are.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    list of ClassScores
        One for each class, in order.
    """
    units = np.arange(len(labels)) if groups is None else groups
    shape = (int(units.max()) + 1, classes)
    images, ones = np.arange(len(labels)), np.ones(len(labels))

    def table(rows: Codes, codes: Codes, values: Values, height: int) -> sparse.csr_array:
        return sparse.csr_array((values, (rows, codes)), shape=(height, classes))

    def counted(of: Codes, rows: Codes, height: int) -> list[tuple[sparse.csr_array, sparse.csr_array]]:
        """What precision, recall and F1 divide, by row and class."""
        right = table(rows, labels, (of == labels) * 1.0, height)
        taken, support = table(rows, of, ones, height), table(rows, labels, ones, height)
        return [(right, taken), (right, support), (2 * right, taken + support)]

    scores = np.mean([_of_classes(labels, of, classes) for of in predicted], axis=0)
    of_units = [counted(of, units, shape[0]) for of in predicted]
    of_images = of_units if groups is None else [counted(of, images, len(labels)) for of in predicted]
    intervals = []
    for place, score in enumerate(scores):
        own, alone = ([of_seed[place] for of_seed in of_all] for of_all in (of_units, of_images))
        worth = _effective(score, own, _holding(own), _holding(alone), groups is not None)
        intervals.append([wilson(*pair) for pair in zip(score.tolist(), worth.tolist(), strict=True)])
    support = np.bincount(labels, minlength=classes).tolist()
    return [
        ClassScores(
            support=support[code],
            precision=float(scores[0, code]),
            recall=float(scores[1, code]),
            f1=float(scores[2, code]),
            precision_interval=intervals[0][code],
            recall_interval=intervals[1][code],
            f1_interval=intervals[2][code],
        )
        for code in range(classes)
    ]


def _of_classes(labels: Codes, predicted: Codes, classes: int) -> Values:
    """Precision, recall and F1 of one seed, (3, classes)."""
    right = np.bincount(labels[labels == predicted], minlength=classes)
    support, taken = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
    return np.stack(per_class(right, support, taken))


def _holding(ratios: list[tuple[sparse.csr_array, sparse.csr_array]]) -> Codes:
    """How many rows hold anything that is counted, (classes,), with any seed."""
    whole = sum((of for _, of in ratios[1:]), ratios[0][1])
    return np.asarray((whole > 0).sum(0)).astype(np.int64).ravel()


def _effective(
    means: Values, ratios: list[tuple[sparse.csr_array, sparse.csr_array]], units: Codes, images: Codes, grouped: bool
) -> Values:
    """How many independent images each class's ratio is worth, (classes,).

    `ratios` hold for each seed what is counted, and what it is divided by, (units, classes); `units` and `images` are
    how many rows and images hold anything of a class.
    """
    parts, most = [], np.zeros(len(means))
    for counted, of in ratios:
        total = np.asarray(of.sum(0)).ravel()
        most += total
        mean = np.divide(np.asarray(counted.sum(0)).ravel(), total, out=np.zeros(len(total)), where=total > 0)
        scale = np.divide(1, total, out=np.zeros(len(total)), where=total > 0)
        parts.append((counted - of.multiply(mean[None])).multiply(scale[None]))
    residual = sparse.csr_array(sum(parts[1:], parts[0]) / len(parts))
    variance = np.asarray(residual.multiply(residual).sum(0)).ravel()
    if grouped:
        several = units > 1
        variance *= np.divide(units, units - 1, out=np.zeros(len(units)), where=several)
        wider = [(student(int(n)) / student(int(g))) ** 2 if g > 1 else 0.0 for n, g in zip(images, units, strict=True)]
    spread = means * (1 - means)
    worth = np.divide(spread, variance, out=most.copy(), where=variance > 1e-15)
    if grouped:
        worth *= wider
    # a ratio of 0 or 1 shows no variance
    return np.where(spread > 0, np.minimum(worth, most), units.astype(float) * ((units > 1) | (not grouped)))


def _error(influence: Values, groups: Codes | None) -> tuple[float, int]:
    """The standard error of a score from the influence of every image, (n,), and how many units it is of."""
    parts = influence if groups is None else np.bincount(groups, influence)
    units = len(parts)
    return (math.sqrt(units / (units - 1) * float(parts @ parts)) if units > 1 else 0.0), units
