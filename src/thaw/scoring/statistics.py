"""Intervals and tests over test images: what the choice of test images, or groups, leaves to chance."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from thaw.record import Record
from thaw.scoring.metrics import per_class

Interval = tuple[float, float]
Codes = NDArray[np.int64]

LEVEL = 0.95
"""Fraction of repeated studies whose interval contains the true value."""
RESAMPLES = 2000
"""Resamples of a bootstrap, drawn with a fixed seed, so that a study gives the same interval every time."""
POWER = 0.8
"""Probability that a test set of the size asked for shows an existing difference."""
CHUNK = 1 << 21
"""Numbers held at once while resampling."""


class ScoreIntervals(Record):
    """95% intervals of an arm's scores, each the mean over the seeds."""

    accuracy: Interval
    """Wilson's, with groups or seeds counted as the independent images that they are worth."""
    precision: Interval
    """By resampling test images, or groups."""
    recall: Interval
    """By resampling test images, or groups."""
    f1: Interval
    """By resampling test images, or groups."""


def wilson(fraction: float, images: float) -> Interval:
    """Compute the 95% interval of a fraction observed in `images` independent trials, (0, 1) where there are none.

    Wilson, Probable inference, the law of succession, and statistical inference (JASA 22, 1927).

    Parameters
    ----------
    fraction
        From 0 to 1.
    images
        The number of trials, or an effective number, which need not be whole.
    """
    if images <= 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    shrink = 1 + z**2 / images
    centre = fraction + z**2 / (2 * images)
    reach = z * math.sqrt(fraction * (1 - fraction) / images + z**2 / (4 * images**2))
    # the ends are exact where the fraction is, whatever the rounding
    low = 0.0 if fraction == 0 else max(0.0, (centre - reach) / shrink)
    return low, 1.0 if fraction == 1 else min(1.0, (centre + reach) / shrink)


def effective_images(right: NDArray[np.bool_], groups: Codes | None = None) -> float:
    """Return how many independent answers, each right or wrong, tell as much about accuracy as `right`, (seeds, n).

    With one seed and no groups n. Seeds that are right on the same images, or groups of images that an arm gets right
    together, tell less than their number.

    p (1 - p) over the variance of the mean of whole groups (linearised ratio), times the squared ratio of Student's t
    at n - 1 and at groups - 1 degrees of freedom: Korn and Graubard, Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data (Survey Methodology 24, 1998). Without groups each
    image is one.

    Parameters
    ----------
    right
        (seeds, n) which images the arm classifies correctly.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    float
        Never above seeds times n; the number of groups where all is right or all wrong, which shows no variance; 0 for
        a single group.
    """
    seeds, images = right.shape
    if groups is None and seeds == 1:
        return float(images)
    groups = np.arange(images) if groups is None else groups
    count, mean = int(groups.max()) + 1, float(right.mean())
    if count == 1:
        return 0.0
    if mean in (0.0, 1.0):
        return float(count)
    residuals = np.bincount(groups, right.mean(0) - mean)
    variance = count / (count - 1) * float(residuals @ residuals) / images**2
    wider = (_student(images) / _student(count)) ** 2
    return min(float(right.size), wider * mean * (1 - mean) / variance) if variance > 0 else float(right.size)


def score_intervals(labels: Codes, predicted: Codes, classes: int, groups: Codes | None = None) -> ScoreIntervals:
    """Compute the 95% intervals of an arm's accuracy, precision, recall and F1: Wilson's of accuracy, else bootstrap.

    The seeds' models are taken as they are: the interval is about other images, not about training again.

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
    """
    right = predicted == labels
    return ScoreIntervals(
        accuracy=wilson(float(right.mean()), effective_images(right, groups)),
        **bootstrap_scores(labels, predicted, classes, groups),
    )


def bootstrap_scores(labels: Codes, predicted: Codes, classes: int, groups: Codes | None = None) -> dict[str, Interval]:
    """Compute 95% intervals of precision, recall and F1, weighted by class support, by resampling test images.

    Whole groups are resampled where there are groups. Where every image is right, or none, every resample is alike, and
    Wilson's interval of that fraction stands for all three; a single group says nothing. For the method see
    `_interval`.

    Parameters
    ----------
    labels, predicted, classes, groups
        As in `score_intervals`.

    Returns
    -------
    dict of Interval
        `precision`, `recall` and `f1`.
    """
    draws, right = _draws(groups, len(labels)), predicted == labels
    if draws == 1 or right.all() or not right.any():
        return dict.fromkeys(("precision", "recall", "f1"), wilson(float(right.any()), draws if draws > 1 else 0))
    if groups is None:
        # images with the same label and predictions are alike, so it is enough to draw how many there are of each kind
        kinds = labels
        for of_seed in predicted:
            kinds = np.unique(kinds * classes + of_seed, return_inverse=True)[1]
        rows, sizes = np.unique(kinds, return_index=True, return_counts=True)[1:]
        units, chances = np.arange(len(rows)), sizes / draws
    else:
        rows, units, chances = np.arange(len(labels)), groups, np.full(draws, 1 / draws)
    labels, predicted = labels[rows], predicted[:, rows]
    shape = (len(chances), classes)
    support = _table(units, labels, np.ones(len(rows)), shape)
    tables = [
        (_table(units, labels, (of_seed == labels) * 1.0, shape), _table(units, of_seed, np.ones(len(rows)), shape))
        for of_seed in predicted
    ]
    random = np.random.default_rng(0)
    step = max(1, CHUNK // max(shape))
    found = []
    for start in range(0, RESAMPLES, step):
        weights = random.multinomial(draws, chances, min(step, RESAMPLES - start)).astype(np.float64)
        supports = weights @ support
        share = supports / supports.sum(1, keepdims=True)
        scores = [per_class(weights @ right, supports, weights @ taken) for right, taken in tables]
        found.append(np.mean([[(values * share).sum(1) for values in of_seed] for of_seed in scores], axis=0))
    resampled = np.concatenate(found, axis=1)
    return {
        name: _interval(values, draws) for name, values in zip(("precision", "recall", "f1"), resampled, strict=True)
    }


def bootstrap_difference(differences: NDArray[np.float64], groups: Codes | None = None) -> Interval:
    """Compute the 95% interval of the mean of `differences`, (n,), one for each test image, by resampling.

    Where all images, or groups, differ alike, so does every resample: then as many of them may be otherwise, by as much
    as can be, as the Wilson interval of a fraction of 0 allows; a single group says nothing. For the method see
    `_interval`.

    Parameters
    ----------
    differences
        From -1 to 1, means over the seeds.
    groups
        (n,) codes from 0 with none left out, whole groups of which are resampled.
    """
    draws = _draws(groups, len(differences))
    if groups is None:
        groups = np.arange(len(differences))
    sums, sizes = np.bincount(groups, differences), np.bincount(groups)
    if draws == 1 or np.allclose(sums / sizes, sums[0] / sizes[0]):
        reach = wilson(0.0, draws if draws > 1 else 0)[1]
        alike = float(sums[0] / sizes[0])
        return alike - reach * (1 + alike), alike + reach * (1 - alike)
    # groups of the same size and sum are alike, so it is enough to draw how many there are of each kind
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    weights = np.random.default_rng(0).multinomial(draws, counts / draws, RESAMPLES)
    return _interval((weights @ kinds[0]) / (weights @ kinds[1]), draws)


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the exact two-sided p of McNemar's test from the images that only one of two arms gets right.

    McNemar, Note on the sampling error of the difference between correlated proportions (Psychometrika 12, 1947), with
    the binomial distribution in place of the normal.
    """
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def sign_flips(leads: Codes, groups: Codes | None = None) -> float:
    """Compute the exact two-sided p of the test that flips the sign of whole groups of `leads`, (n,) integers.

    A lead is by how many seeds the first arm is ahead on an image. Were the arms alike, the lead in each group (or on
    each image) could as well have been the other's: p is the fraction of all 2^groups ways of flipping whose total
    is at least as far from 0. Fisher's randomisation test, without sampling: the ways are counted, adding group after
    group to the distribution of the total, by Pagano and Tritchler, On obtaining permutation distributions in
    polynomial time (JASA 78, 1983). On images with leads of 1 and -1 it is the exact McNemar test.

    Parameters
    ----------
    leads
        (n,) int64; the work grows with the sum of their sizes.
    groups
        (n,) codes from 0; without, each image is flipped by itself.
    """
    sums = leads if groups is None else np.bincount(groups, leads).astype(np.int64)
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    # the total of the flips is 2 x chosen - whole, where each group is chosen or not
    whole = int(sizes @ counts)
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        chosen = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        total = np.zeros(len(chances) + size * count)
        for rest in range(min(size, len(chances))):
            part = np.convolve(chances[rest::size], chosen)
            total[rest::size][: len(part)] = part
        chances = total
    reached = (whole + abs(int(sums.sum()))) // 2
    return min(1.0, 2 * float(chances[reached:].sum()))


def fewest(alpha: float) -> int:
    """Return how many images or groups, all with the same lead, an exact two-sided test needs for p below `alpha`."""
    return math.floor(math.log2(2 / alpha)) + 1


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p values, (tests,), so that the probability of any false alarm among them is that of one.

    Holm, A simple sequentially rejective multiple test procedure (Scandinavian Journal of Statistics 6, 1979).
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def images_needed(leads: Codes, groups: Codes | None, alpha: float) -> int | None:
    """Return how many test images would show the mean of `leads`, (n,), at `alpha` with 80% power.

    n = (z_alpha/2 sqrt(q) + z_power sqrt(q - d^2))^2 / d^2 with d the mean lead and q the mean of its square: Connor,
    Sample size for testing differences in proportions for the paired-sample design (Biometrics 43, 1987), where q is
    the fraction of images that only one of the arms gets right. With groups, d and q are of the groups' sums and n
    counts groups, each of as many images as they have here on average. It takes the observed lead for the true one.

    Parameters
    ----------
    leads
        By how many seeds the first arm is ahead on each image.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.
    alpha
        The p to reach, corrected for the number of tests.

    Returns
    -------
    int or None
        Never fewer than hold as many leads, of the fraction observed, as the exact tests need to reach `alpha` at all.
        None where the observed lead is 0.
    """
    sums = leads if groups is None else np.bincount(groups, leads)
    mean, square = float(sums.mean()), float((sums**2).mean())
    if mean == 0:
        return None
    certain, power = (float(z) for z in stats.norm.ppf([1 - alpha / 2, POWER]))
    units = ((certain * math.sqrt(square) + power * math.sqrt(max(0.0, square - mean**2))) / mean) ** 2
    units = max(units, fewest(alpha) / float((sums != 0).mean()))
    return math.ceil(units * len(leads) / len(sums))


def _interval(resampled: NDArray[np.float64], draws: int) -> Interval:
    """The expanded percentile interval of a bootstrap that draws `draws` images or groups.

    Quantiles of the resampled values, at a level that makes up for Student's t and for dividing by n instead of n - 1,
    which matters with few groups: Hesterberg, What teachers should know about the bootstrap (The American Statistician
    69, 2015).

    In simulation (1,500 studies or more each) the interval of F1 near 0.92 held the truth in 90.5% of studies with 50
    test images, 93.8% with 100, 95.0% with 300; that of a difference over groups of 5 in 93.5% with 12 groups, where
    plain percentiles held it in 90.1% and bias-corrected accelerated (BCa) ones in 87.0%.
    """
    tail = float(stats.norm.cdf(-math.sqrt(draws / (draws - 1)) * _student(draws)))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _student(count: int) -> float:
    """The two-sided 95% point of Student's t for a mean of `count` values."""
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


def _draws(groups: Codes | None, images: int) -> int:
    """How many groups, or images where there are no groups, a resample draws."""
    return images if groups is None else int(groups.max()) + 1


def _table(units: Codes, classes: Codes, values: NDArray[np.float64], shape: tuple[int, int]) -> sparse.csr_array:
    """Sums of `values` by unit and class."""
    return sparse.csr_array((values, (units, classes)), shape=shape)
