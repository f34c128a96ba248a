"""Slices: accuracy for each value of a column, and whether the largest gap between two values is significant."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from thaw.record import Record
from thaw.scoring.statistics import Codes, Interval, effective_images, holm, sign_flips, wilson

MISSING = "(missing)"
"""Stands for the value of images without one."""
SMALL = 30
"""A slice of fewer images is flagged, and takes no part in the gap unless the column has two slices only."""
CATEGORIES = 30
"""A text column with more distinct values is not sliced unless the recipe names it."""
NUMBERS = 12
"""A column of numbers with more distinct values is cut into bins."""
BINS = 5
"""Bins of a column of numbers, each with about as many images."""
AGES = (10, 20, 30, 40, 50, 60, 70)
"""Where the bins of a column called `age` start after the first, in years."""
WRITTEN = r"-?(0|[1-9][0-9]*|0?\.[0-9]+|0\.[0-9]*|[1-9][0-9]*\.[0-9]*)([eE][-+]?[0-9]+)?"
"""How a number is written in a column of text."""
FINE = 20
"""Steps in which the test of whole groups counts, for each group on average."""


Kind = Literal["category", "bins"]


class SliceAccuracy(Record):
    """An arm's accuracy in a slice."""

    accuracy: float
    """The mean over the seeds."""
    interval: Interval
    """Its 95% Wilson interval."""


class SliceScores(Record):
    """One slice: the test images with one value of a column."""

    value: str
    """The value, or the bin's name."""
    count: int
    """Test images in the slice."""
    small: bool
    """Whether there are fewer than 30, too few to rely on."""
    arms: dict[str, SliceAccuracy]
    """Each arm's accuracy."""


class Gap(Record):
    """An arm's largest difference in accuracy between two slices of a column."""

    low: str
    """The slice with the lower accuracy."""
    high: str
    """The slice with the higher accuracy."""
    difference: float
    """Higher minus lower accuracy."""
    interval: Interval
    """95% interval of the difference, as of a pair chosen beforehand."""
    p: float
    """p of the test that both slices have the same accuracy."""
    p_holm: float
    """p corrected by Holm's method for all pairs of slices in all columns, any of which could have been the largest."""


class ColumnScores(Record):
    """The scores of the slices of one column."""

    column: str
    """The column's name."""
    kind: Kind
    """`category`, or `bins` of a column of numbers."""
    values: list[SliceScores]
    """The slices: numbers ascending, text sorted, `(missing)` last."""
    gaps: dict[str, Gap]
    """Each arm's largest gap, between slices of 30 images or more or between the only two; none where there is no such
    pair."""


@dataclass(frozen=True)
class Slices:
    """A column cut into slices."""

    column: str
    """The column's name."""
    kind: Kind
    """`category`, or `bins` of a column of numbers."""
    values: tuple[str, ...]
    """The names of the slices, each with at least one image: numbers ascending, words sorted, `(missing)` last."""
    codes: Codes
    """(n,) the slice of each image, an index into `values`."""


def cut_slices(columns: pa.Table, chosen: list[str] | None, never: set[str]) -> list[Slices]:
    """Cut the columns of `columns`, (n,) rows, into slices: those `chosen`, or else every suitable one.

    Numbers with more than 12 distinct values are cut into five bins at rounded quantiles, those of a column called
    `age` into decades.

    Parameters
    ----------
    columns
        A row for each of the n images.
    chosen
        Names of columns; None for every column outside `never` that holds numbers, or 2 to 30 distinct values.
    never
        Names of columns that are cut only if they are chosen.
    """
    names = [name for name in columns.column_names if name not in never] if chosen is None else chosen
    found = [_cut(name, columns.column(name)) for name in dict.fromkeys(names)]
    if chosen is not None:
        return found
    return [it for it in found if 1 < len(it.values) <= CATEGORIES + (MISSING in it.values)]


def score_slices(
    slices: list[Slices], right: Mapping[str, NDArray[np.bool_]], groups: Codes | None = None
) -> list[ColumnScores]:
    """Compute the accuracy of each slice with its 95% interval, and each arm's largest gap in each column.

    The interval of a gap is `difference_interval`, its p `gap_test`.

    Parameters
    ----------
    slices
        Columns cut into slices, of n images.
    right
        For each arm which images it classifies correctly, (seeds, n).
    groups
        (n,) codes, where images of a group are alike.

    Returns
    -------
    list of ColumnScores
        One for each column, p of the gaps corrected for all pairs of slices in all columns.
    """
    largest = {arm: _largest_gaps(slices, of_arm, groups) for arm, of_arm in right.items()}
    return [
        ColumnScores(
            column=it.column,
            kind=it.kind,
            values=[
                SliceScores(
                    value=value,
                    count=int(inside.sum()),
                    small=bool(inside.sum() < SMALL),
                    arms={arm: _accuracy(of_arm, inside, groups) for arm, of_arm in right.items()},
                )
                for value, inside in _members(it)
            ],
            gaps={arm: gaps[it.column] for arm, gaps in largest.items() if it.column in gaps},
        )
        for it in slices
    ]


def gap_test(
    right: NDArray[np.bool_], first: NDArray[np.bool_], second: NDArray[np.bool_], groups: Codes | None
) -> float:
    """Compute the two-sided p that an arm, right on `right` (seeds, n), is equally accurate in two slices, masks (n,).

    Fisher's exact test for one seed without groups. Otherwise the sign of each group's (or image's) part in the
    difference is flipped, in all 2^groups ways: Hemerik, Goeman and Finos, Robust testing in generalized linear models
    by sign flipping score contributions (JRSS B 82, 2020). The parts are rounded to a twentieth of their mean size, or
    finer, so that the ways can be counted instead of drawn.

    Parameters
    ----------
    right
        (seeds, n) which images the arm classifies correctly.
    first, second
        (n,) which images are in each slice; none is in both.
    groups
        (n,) codes from 0, where images of a group are alike.
    """
    score = right.sum(0)
    if len(right) == 1 and groups is None:
        hits = [int(score[inside].sum()) for inside in (first, second)]
        sizes = [int(inside.sum()) for inside in (first, second)]
        table = [[hit, size - hit] for hit, size in zip(hits, sizes, strict=True)]
        return float(stats.fisher_exact(table).pvalue)
    both = first | second
    fraction = first[both].mean()
    parts = (score[both] - score[both].mean()) * (first[both] - fraction)
    sums = parts if groups is None else np.bincount(groups[both], parts)
    whole, steps = float(np.abs(sums).sum()), FINE * max(100, len(sums))
    return sign_flips(np.rint(sums * (steps / whole)).astype(np.int64)) if whole > 0 else 1.0


def difference_interval(
    first: float, first_interval: Interval, second: float, second_interval: Interval, correlation: float = 0.0
) -> Interval:
    """Compute the 95% interval of the difference of two fractions from their Wilson intervals and their correlation.

    Newcombe, Interval estimation for the difference between independent proportions (Statistics in Medicine 17, 1998),
    method 10; with a correlation Zou and Donner, Construction of confidence limits about effect measures (Statistics in
    Medicine 27, 2008).

    Parameters
    ----------
    first, first_interval, second, second_interval
        The fractions, from 0 to 1, each followed by its 95% interval, see `wilson`.
    correlation
        Of the two estimates, from -1 to 1.

    Returns
    -------
    Interval
        Of `first` minus `second`.
    """

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))

    difference = first - second
    down = reach(first - first_interval[0], second_interval[1] - second)
    return difference - down, difference + reach(first_interval[1] - first, second - second_interval[0])


def _largest_gaps(slices: list[Slices], right: NDArray[np.bool_], groups: Codes | None) -> dict[str, Gap]:
    """By column an arm's largest gap; every pair of slices that could have been it counts in the correction of p."""
    pairs = [
        (it.column, *pair)
        for it in slices
        for pair in combinations([own for own in _members(it) if own[1].sum() >= SMALL or len(it.values) == 2], 2)
    ]
    gaps = [(column, _gap(one, other, right, groups)) for column, one, other in pairs]
    corrected = holm(np.array([gap.p for _, gap in gaps]))
    largest: dict[str, Gap] = {}
    for (column, gap), p in zip(gaps, corrected, strict=True):
        if column not in largest or gap.difference > largest[column].difference:
            largest[column] = gap.model_copy(update={"p_holm": float(p)})
    return largest


def _gap(
    one: tuple[str, NDArray[np.bool_]],
    other: tuple[str, NDArray[np.bool_]],
    right: NDArray[np.bool_],
    groups: Codes | None,
) -> Gap:
    """The gap between two slices, each a name and a mask; its p not corrected yet."""
    scored = [(value, inside, _accuracy(right, inside, groups)) for value, inside in (one, other)]
    (low, in_low, lower), (high, in_high, higher) = sorted(scored, key=lambda own: own[2].accuracy)
    correlation = _correlation(right, in_high, in_low, groups)
    p = gap_test(right, in_high, in_low, groups)
    return Gap(
        low=low,
        high=high,
        difference=higher.accuracy - lower.accuracy,
        interval=difference_interval(higher.accuracy, higher.interval, lower.accuracy, lower.interval, correlation),
        p=p,
        p_holm=p,
    )


def _accuracy(right: NDArray[np.bool_], inside: NDArray[np.bool_], groups: Codes | None) -> SliceAccuracy:
    within = right[:, inside]
    accuracy = float(within.mean())
    own = None if groups is None else np.unique(groups[inside], return_inverse=True)[1]
    return SliceAccuracy(accuracy=accuracy, interval=wilson(accuracy, effective_images(within, own)))


def _correlation(
    right: NDArray[np.bool_], first: NDArray[np.bool_], second: NDArray[np.bool_], groups: Codes | None
) -> float:
    """How far the accuracies of two slices move together, from -1 to 1, since they share groups."""
    if groups is None:
        return 0.0
    score = right.mean(0)
    one, other = (np.bincount(groups, (score - score[inside].mean()) * inside) for inside in (first, second))
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size > 0 else 0.0


def _members(slices: Slices) -> list[tuple[str, NDArray[np.bool_]]]:
    return [(value, slices.codes == code) for code, value in enumerate(slices.values)]


def _cut(name: str, column: pa.ChunkedArray) -> Slices:
    numbers = as_numbers(column)
    written = _is_text(column.type)
    if numbers is None or (written and len(np.unique(numbers[~np.isnan(numbers)])) <= NUMBERS):
        texts = [_text(value) for value in column.to_pylist()]
        different = sorted(set(texts) - {MISSING})
        return _slices(name, "category", texts, different if numbers is None else sorted(different, key=float))
    missing = np.isnan(numbers)
    distinct = np.unique(numbers[~missing])
    if len(distinct) > NUMBERS:
        whole = bool((distinct % 1 == 0).all())
        edges = np.array(AGES) if whole and name.lower() == "age" else readable_quantiles(numbers[~missing], whole)
        order = _bin_names(edges, whole)
        named = [order[place] for place in np.digitize(numbers[~missing], edges)]
    else:
        order, named = ([_number(value) for value in values] for values in (distinct, numbers[~missing]))
    labelled = iter(named)
    texts = [MISSING if none else next(labelled) for none in missing]
    return _slices(name, "bins" if len(distinct) > NUMBERS else "category", texts, order)


def _slices(name: str, kind: Kind, texts: list[str], order: list[str]) -> Slices:
    there = set(texts)
    values = tuple(value for value in [*order, MISSING] if value in there)
    code = {value: place for place, value in enumerate(values)}
    return Slices(name, kind, values, np.array([code[text] for text in texts], dtype=np.int64))


def readable_quantiles(numbers: NDArray[np.float64], whole: bool) -> NDArray[np.float64]:
    """Choose where to cut numbers into about five bins of about as many each: ascending, at round numbers.

    The quantiles, those of the distinct numbers where most are the same, rounded down to a multiple of the largest
    of 1, 2 or 5 times a power of ten that is at most a tenth of the middle 60% of the numbers; of 1 for whole
    numbers.

    Parameters
    ----------
    numbers
        (n,) finite, with more than 12 distinct values.
    whole
        Whether all are whole numbers, so that the edges must be, too.

    Returns
    -------
    array of float64, shape (edges,)
        At most four; each is the lower end of the next bin.
    """
    levels = np.arange(1, BINS) / BINS
    edges = np.quantile(numbers, levels)
    if edges[0] == edges[-1]:
        edges = np.quantile(np.unique(numbers), levels)
    finest = float(edges[-1] - edges[0]) / 10
    power = 10.0 ** math.floor(math.log10(finest))
    step = max(power * times for times in (1, 2, 5) if power * times <= finest or times == 1)
    step = max(1.0, step) if whole else step
    return np.unique(np.round(np.floor(edges / step + 1e-9) * step, 12))


def _bin_names(edges: NDArray[np.float64], whole: bool) -> list[str]:
    """`3–9` between whole numbers, both ends meant, and `0.5 to 0.75`, the end left out, between others."""
    pairs = list(pairwise(edges.tolist()))
    if not whole:
        inner = [f"{_number(low)} to {_number(high)}" for low, high in pairs]
        return [f"below {_number(edges[0])}", *inner, f"{_number(edges[-1])} and more"]
    dash = "–" if edges[0] >= 0 else " to "
    inner = [_number(low) + (f"{dash}{_number(high - 1)}" if high - low > 1 else "") for low, high in pairs]
    return [f"up to {_number(edges[0] - 1)}", *inner, f"{_number(edges[-1])} and more"]


def as_numbers(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """A column of numbers as float64, NaN where missing or infinite; None for any other.

    Text is a column of numbers where each value is written as one, without zeros before it: `007` is a name.
    """
    kind = column.type
    if _is_text(kind):
        texts = [value or None for value in column.to_pylist()]
        if not any(texts) or not all(text is None or re.fullmatch(WRITTEN, text, re.ASCII) for text in texts):
            return None
        column = pa.chunked_array([pa.array([None if text is None else float(text) for text in texts], pa.float64())])
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return None
    values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return MISSING if value is None or value == "" else str(value)


def _number(value: float) -> str:
    """As short as tells it from every other number, since the names of slices must differ."""
    return str(int(value)) if value % 1 == 0 and abs(value) < 1e15 else str(float(value))
