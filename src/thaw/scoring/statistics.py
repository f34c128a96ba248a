"""Intervals and tests over test images: what the choice of test images, or groups, leaves to chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from thaw.record import Record
from thaw.scoring.metrics import macro, per_class

Interval = tuple[float, float]
Codes = NDArray[np.int64]

LEVEL = 0.95
"""Fraction of repeated studies whose interval contains the true value."""
RESAMPLES = 2000
"""Resamples of a bootstrap, drawn with a fixed seed, so that a study gives the same interval every time."""
POWER = 0.8
"""Probability that a test set of the size asked for shows an existing difference."""
MOST_IMAGES = 10_000_000
"""More test images than this are not called an answer."""
RESAMPLED = ("precision", "recall", "f1", "balanced_accuracy", "macro_f1")
"""The scores whose intervals come from resamples."""
CHUNK = 1 << 21
"""Numbers held at once while resampling."""


class AnswerIntervals(Record):
    """95% intervals of the scores of an arm's answers, each the mean over the seeds."""

    accuracy: Interval
    """Wilson's, with groups and seeds counted as the independent images that they are worth."""
    precision: Interval
    """By resampling test images, or groups."""
    recall: Interval
    """By resampling test images, or groups."""
    f1: Interval
    """By resampling test images, or groups."""
    balanced_accuracy: Interval
    """By resampling test images, or groups."""
    macro_f1: Interval
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


class Part(NamedTuple):
    """A part of what chance leaves of a mean: from the choice of images or groups, or from the seeds."""

    variance: float
    """Of the mean."""
    freedom: float
    """Degrees of freedom of the variance's estimate."""


def image_part(values: NDArray[np.float64], groups: Codes | None = None) -> Part:
    """Estimate what the choice of images, or of whole groups of them, leaves to chance in the mean of `values`.

    Without groups the variance over n, with n - 1 degrees of freedom. With groups the jackknife that leaves out one
    group at a time, which is not fooled by a few large groups, and the degrees of freedom of Satterthwaite for groups
    whose images are as alike as they turned out: Bell and McCaffrey, Bias reduction in standard errors for linear
    regression with multi-stage samples (Survey Methodology 28, 2002); MacKinnon, Nielsen and Webb, Fast and reliable
    jackknife and bootstrap methods for cluster-robust inference (Journal of Applied Econometrics 38, 2023). Groups of
    one size give what the variance of their means gives, with groups - 1.

    In simulation (1,000 studies) Wilson's interval of 0.85 with 40 groups whose sizes follow Pareto's law held the
    truth in 97 to 98%, where groups - 1 degrees of freedom and no jackknife held it in 82 to 88%.

    Parameters
    ----------
    values
        (n,), one for each image.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    Part
        With infinite variance and no degrees of freedom where there is a single image or group.
    """
    images = len(values)
    sizes = np.ones(images) if groups is None else np.bincount(groups).astype(np.float64)
    count = len(sizes)
    if count == 1:
        return Part(math.inf, 0.0)
    moved = influences(values[:, None], groups)[:, 0]
    variance = float(moved @ moved)
    if groups is None:
        return Part(variance, images - 1)
    # the matrix of the covariances of `moved` is V xx' - xy' - yx' and a diagonal; only its trace and norm are needed
    alike = _alike(values, groups, sizes)
    own = sizes * (1 + (sizes - 1) * alike)
    without = 1 / (images - sizes)
    x, y, whole = without * sizes / images, without * own, float(own.sum())
    across = whole * x * x - 2 * x * y
    diagonal = without * y + across
    norm = whole**2 * (x @ x) ** 2 + 2 * (x @ x) * (y @ y) + 2 * (x @ y) ** 2 - 4 * whole * (x @ x) * (x @ y)
    norm += diagonal @ diagonal - across @ across
    return Part(variance, float(diagonal.sum() ** 2 / norm))


def influences(values: NDArray[np.float64], groups: Codes | None = None) -> NDArray[np.float64]:
    """Compute how far each image, or whole group, moves the means of `values`, (n, k), by being left out.

    Returns
    -------
    array of float64, shape (images or groups, k)
        Scaled such that its columns' products are the jackknife's covariances of the means; 0 for a single group.
    """
    images = len(values)
    away = values - values.mean(0)
    if groups is None:
        return np.asarray(away / math.sqrt(images * max(1, images - 1)))
    sizes = np.bincount(groups)
    count = len(sizes)
    order = np.argsort(groups, kind="stable")
    sums = np.add.reduceat(away[order], np.cumsum(sizes) - sizes)
    return np.asarray(sums * (math.sqrt((count - 1) / count) / np.maximum(1, images - sizes))[:, None])


def seed_part(values: NDArray[np.float64]) -> Part:
    """Estimate what the seeds leave to chance in the mean of `values`, (seeds, n): nothing known, so 0, with one seed.

    The variance of the seeds' means over the seeds, less the part of it that comes from the choice of images, which
    `image_part` of their mean has already: two-way random effects.
    """
    seeds, images = values.shape
    if seeds == 1:
        return Part(0.0, 1.0)
    means = values.mean(1)
    raw = float(means.var(ddof=1)) / seeds
    rest = values - values.mean(0) - means[:, None] + means.mean()
    variance = max(0.0, raw - float((rest**2).sum()) / ((seeds - 1) * max(1, images - 1) * seeds * images))
    return Part(variance, (seeds - 1) * (variance / raw) ** 2 if variance > 0 else 1.0)


def together(parts: Sequence[Part]) -> Part:
    """Add independent parts.

    Satterthwaite, An approximate distribution of estimates of variance components (Biometrics Bulletin 2, 1946).
    """
    variance = sum(part.variance for part in parts)
    if not 0 < variance < math.inf:
        return Part(variance, 1.0 if variance == 0 else 0.0)
    spread = sum(part.variance**2 / part.freedom for part in parts if part.variance > 0)
    return Part(variance, variance**2 / spread)


def reach(part: Part, units: float, level: float = LEVEL) -> float:
    """Return how far an estimate may be from the truth on either side: the half-width of an interval of that level.

    Student's t times the standard error. Where nothing varies, what Wilson's interval leaves of an event that none of
    so many images showed: images that all say the same may be otherwise elsewhere.

    Parameters
    ----------
    part
        What chance leaves of the estimate.
    units
        How many images, or groups' worth of them, the estimate rests on.
    level
        Fraction of intervals that hold the truth.

    Returns
    -------
    float
        Infinite where a single group says nothing.
    """
    if part.freedom == 0:
        return math.inf
    if part.variance == 0:
        z = float(stats.norm.ppf((1 + level) / 2))
        return z**2 / (units + z**2)
    return float(stats.t.ppf((1 + level) / 2, part.freedom)) * math.sqrt(part.variance)


def whole_units(images: int, groups: Codes | None) -> float:
    """Return how many groups of one size weigh as much as these, (sum of sizes)^2 / sum of squares; else images."""
    sizes = np.ones(images) if groups is None else np.bincount(groups).astype(np.float64)
    return float(images**2 / (sizes @ sizes))


def effective_images(right: NDArray[np.bool_], groups: Codes | None = None) -> float:
    """Return how many independent answers, each right or wrong, tell as much about accuracy as `right`, (seeds, n).

    With one seed and no groups n. Seeds that are right on the same images, or groups of images that an arm gets right
    together, tell less than their number; so do seeds whose accuracies differ.

    p (1 - p) over the variance of the mean, times the squared ratio of Student's t at n - 1 and at its own degrees of
    freedom: Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data (Survey Methodology 24, 1998).

    Parameters
    ----------
    right
        (seeds, n) which images the arm classifies correctly.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    float
        Never above seeds times n; where all is right or all wrong, which shows no variance, the number of groups that
        would weigh as much if they were of one size; 0 for a single group.
    """
    seeds, images = right.shape
    if groups is None and seeds == 1:
        return float(images)
    mean = float(right.mean())
    if mean in (0.0, 1.0):
        return 0.0 if groups is not None and not groups.any() else whole_units(images, groups)
    values = right.astype(np.float64)
    found = together([image_part(values.mean(0), groups), seed_part(values)])
    if found.freedom == 0:
        return 0.0
    if found.variance == 0:
        return float(right.size)
    wider = float(stats.t.ppf((1 + LEVEL) / 2, images - 1) / stats.t.ppf((1 + LEVEL) / 2, found.freedom)) ** 2
    return min(float(right.size), wider * mean * (1 - mean) / found.variance)


def difference_part(first: NDArray[np.float64], second: NDArray[np.float64], groups: Codes | None = None) -> Part:
    """Estimate what chance leaves of the difference between two arms' means on the same images.

    Images, or groups, are paired; the seeds of the two arms are independent, and count where there are several.

    Parameters
    ----------
    first, second
        (seeds, n) of each arm: what each image adds to the metric, see `scoring.contributions`.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.
    """
    return together([image_part(first.mean(0) - second.mean(0), groups), seed_part(first), seed_part(second)])


def difference_reach(
    first: NDArray[np.float64], second: NDArray[np.float64], groups: Codes | None = None, level: float = LEVEL
) -> float:
    """Return the half-width of the interval of the difference between two arms, see `difference_part` and `reach`."""
    return reach(difference_part(first, second, groups), whole_units(first.shape[1], groups), level)


def score_intervals(labels: Codes, predicted: Codes, classes: int, groups: Codes | None = None) -> AnswerIntervals:
    """Compute the 95% intervals of the scores of an arm's answers: Wilson's of accuracy, else bootstrap.

    With several seeds the interval of accuracy is about other images and other seeds. Those of precision, recall and F1
    take the seeds' models as they are.

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
    return AnswerIntervals(
        accuracy=wilson(float(right.mean()), effective_images(right, groups)),
        **bootstrap_scores(labels, predicted, classes, groups),
    )


def bootstrap_scores(labels: Codes, predicted: Codes, classes: int, groups: Codes | None = None) -> dict[str, Interval]:
    """Compute 95% intervals of precision, recall and F1, weighted by class support or not, by resampling test images.

    Whole groups are resampled where there are groups. Where every image is right, or none, every resample is alike, and
    Wilson's interval of that fraction stands for all; a single group says nothing. For the method see `_interval`.

    Parameters
    ----------
    labels, predicted, classes, groups
        As in `score_intervals`.

    Returns
    -------
    dict of Interval
        By each of `RESAMPLED`.
    """
    draws, right = _draws(groups, len(labels)), predicted == labels
    if draws == 1 or right.all() or not right.any():
        return dict.fromkeys(RESAMPLED, wilson(float(right.any()), draws if draws > 1 else 0))
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

    def scored(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each of `RESAMPLED`, the mean over the seeds, by draw."""
        supports = weights @ support
        share = supports / supports.sum(1, keepdims=True)
        of_seeds = []
        for right, taken in tables:
            predicted_as = weights @ taken
            scores = per_class(weights @ right, supports, predicted_as)
            weighted = [(values * share).sum(1) for values in scores]
            of_seeds.append([*weighted, *macro(scores[1], scores[2], supports, predicted_as)])
        mean: NDArray[np.float64] = np.mean(of_seeds, axis=0)
        return mean

    random = np.random.default_rng(0)
    step = max(1, CHUNK // max(shape))
    found = []
    for start in range(0, RESAMPLES, step):
        weights = random.multinomial(draws, chances, min(step, RESAMPLES - start)).astype(np.float64)
        found.append(scored(weights))
    resampled = np.concatenate(found, axis=1)
    # with few images a class, resamples leave some out of each, and their macro scores are too low: moved back
    whole = scored((chances * draws)[None])[3:]
    resampled[3:] = np.clip(resampled[3:] - resampled[3:].mean(1, keepdims=True) + whole, 0, 1)
    return {name: _interval(values, draws) for name, values in zip(RESAMPLED, resampled, strict=True)}


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


def images_needed(leads: NDArray[np.float64], groups: Codes | None, alpha: float) -> int | None:
    """Return how many test images would show the mean of `leads`, (n,), at `alpha` with 80% power.

    n = (z_alpha/2 sqrt(q) + z_power sqrt(q - d^2))^2 / d^2 with d the mean lead and q the mean of its square: Connor,
    Sample size for testing differences in proportions for the paired-sample design (Biometrics 43, 1987), where q is
    the fraction of images that only one of the arms gets right. With groups, d and q are of the groups' sums and n
    counts groups, each of as many images as they have here on average. It takes the observed lead for the true one.

    Parameters
    ----------
    leads
        By how much the first arm is ahead on each image, the mean over the seeds.
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


def images_to_settle(
    first: NDArray[np.float64], second: NDArray[np.float64], gap: float, alpha: float, groups: Codes | None = None
) -> int | None:
    """Return how many test images would show on which side of a value the difference of two arms is, with 80% power.

    (z_alpha + z_power)^2 times the variance of an image's difference over the squared gap, less what seeds leave to
    chance, which more images do not lessen. It takes what is observed for the truth.

    Parameters
    ----------
    first, second
        (seeds, n) of each arm: what each image adds to the metric, see `scoring.contributions`.
    gap
        How far the difference is from that value.
    alpha
        The one-sided p to reach.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    int or None
        None where no number of images would, or over ten million.
    """
    images = image_part(first.mean(0) - second.mean(0), groups).variance * first.shape[1]
    z = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER))
    room = (gap / z) ** 2 - seed_part(first).variance - seed_part(second).variance
    needed = images / room if room > 0 else math.inf
    return math.ceil(needed) if 0 < needed < MOST_IMAGES else None


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


def _alike(values: NDArray[np.float64], groups: Codes, sizes: NDArray[np.float64]) -> float:
    """The intraclass correlation of `values`, by analysis of variance, from 0 to 1."""
    count, images = len(sizes), len(values)
    if count == images:
        return 0.0
    means = np.bincount(groups, values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means[groups]) ** 2).sum()) / (images - count)
    size = (images - float(sizes @ sizes) / images) / (count - 1)
    whole = between + (size - 1) * within
    return min(1.0, max(0.0, (between - within) / whole)) if whole > 0 else 0.0


def _draws(groups: Codes | None, images: int) -> int:
    """How many groups, or images where there are no groups, a resample draws."""
    return images if groups is None else int(groups.max()) + 1


def _table(units: Codes, classes: Codes, values: NDArray[np.float64], shape: tuple[int, int]) -> sparse.csr_array:
    """Sums of `values` by unit and class."""
    return sparse.csr_array((values, (units, classes)), shape=shape)
