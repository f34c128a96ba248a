"""Splits: those the source brings, or drawn from it, by label or by group; and how each came about, in words."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaw.data.endings import SPLITS
from thaw.data.source import Source
from thaw.errors import DataError
from thaw.progress import say
from thaw.recipe import Data
from thaw.text import listed

Rows = NDArray[np.int64]
DEFAULT_FRACTION = 0.15
"""Share of the images drawn for validation, and for test, where the recipe and the source say nothing."""
COPIES = "copies"
"""The group of images that are copies of each other, where a source has no column of that name."""
SMALL = 10
"""Where a class has fewer images than this in a part, the part is shared out by what earlier ones left, and ties are
broken by lot: one image is much of such a class. Elsewhere ties keep the order of the classes."""


@dataclass(frozen=True)
class Splits:
    """Rows of the source in each split, ascending, and a sentence on how each came about."""

    train: Rows
    validation: Rows
    test: Rows
    how: dict[str, str]

    def rows(self) -> dict[str, Rows]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def make_splits(source: Source, data: Data) -> Splits:
    """Split a source as the recipe says.

    A part of the recipe that names a split of the source is that split. A number or fraction is drawn, stratified by
    label, from the source's `train` split where it brings one, else from all that no part names, and one image of each
    class stays for train; with a group column, whole groups are drawn. Raises DataError when a part cannot be had, a
    group straddles two splits, or a class is missing from train.
    """
    wanted, pool_splits = _parts(source, data)
    named = {part: value for part, value in wanted.items() if isinstance(value, str)}
    pool = np.flatnonzero(np.isin(source.splits, pool_splits))
    pool_name = "the source" if pool_splits == ["all"] else f"the source's {_listed(pool_splits)}"
    counts = {part: _count(part, value, len(pool)) for part, value in wanted.items() if not isinstance(value, str)}
    groups = group_codes(source, data)
    kept = len(np.unique(source.labels[pool])) if groups is None else 1
    if sum(counts.values()) > len(pool) - kept:
        left = f"less than one of each of {kept:,} classes" if groups is None else "none"
        raise DataError(
            f"{_listed(list(counts))} want {sum(counts.values()):,} of the {len(pool):,} images in {pool_name}, "
            f"which leaves {left} to train on; draw fewer, or add images."
        )
    drawn = _draw(source.labels[pool], None if groups is None else groups[pool], list(counts.values()), data.seed)
    parts = {part: pool[drawn == index] for index, part in enumerate(counts)}
    parts |= {part: np.flatnonzero(source.splits == value) for part, value in named.items()}
    splits = Splits(pool[drawn == len(counts)], parts["validation"], parts["test"], {})
    splits.how.update(_how(splits, wanted, pool_name, data))
    _check(splits, source, groups, data, list(counts))
    return splits


def used_splits(source: Source, data: Data) -> Rows:
    """The rows that some split can hold: all but those of a source's split that the recipe leaves unused.

    Raises DataError as `make_splits` does where the recipe names splits that cannot be had.
    """
    wanted, pool_splits = _parts(source, data)
    return np.flatnonzero(np.isin(source.splits, [*pool_splits, *map(str, wanted.values())]))


def unused_splits(source: Source, used: Rows) -> dict[str, str]:
    """What to add to `Splits.how` where the rows `used` leave some of the source's splits out."""
    left = np.delete(source.splits, used)
    names = sorted(set(left.tolist()))
    return {"unused": f"the source's {_listed(names)} ({len(left):,} images)"} if names else {}


def split_named(part: str, brought: list[str]) -> str | None:
    """The split of a source that serves as train, validation or test, whatever it is called, such as `val` or `Dev`."""
    known = sorted(set(brought), key=lambda name: (name != part, name))
    return next((name for name in known if SPLITS.get(name.lower()) == part), None)


def split_parts(source: Source, data: Data) -> dict[str, str | int | float]:
    """Decide what validation and test are: a split of the source by its name, or how much to draw.

    Left out, each is the source's split of that name, else drawn. The only split that a source holds out is the test
    set, whatever it is called. Raises DataError where the recipe names a split that is not there.
    """
    brought = sorted(set(source.splits.tolist()))
    given = {"validation": data.validation, "test": data.test}
    named = {part: _brought(part, value, brought, data) for part, value in given.items() if isinstance(value, str)}
    free = [name for name in brought if name not in named.values()]
    parts: dict[str, str | int | float] = {
        part: split_named(part, free) or DEFAULT_FRACTION if value is None else named.get(part, value)
        for part, value in given.items()
    }
    alone = split_named("validation", brought)
    if data.test is None and alone and not isinstance(parts["test"], str) and not isinstance(data.validation, str):
        parts["test"] = alone
        parts["validation"] = DEFAULT_FRACTION if data.validation is None else data.validation
    return parts


def say_held_out(source: Source, data: Data) -> None:
    """Say what is the test set where a source holds out one split and the recipe does not name it."""
    parts = split_parts(source, data)
    if _is_alone(parts, data):
        say(
            f"{data.source} holds out one split, {parts['test']!r}: it is the test set, and validation is drawn from "
            "the rest; set data.test and data.validation to have it otherwise"
        )


def _is_alone(parts: Mapping[str, object], data: Data) -> bool:
    return data.test is None and SPLITS.get(str(parts["test"]).lower()) == "validation"


def _brought(part: str, value: str, brought: list[str], data: Data) -> str:
    """The split of a source that goes by a name, or by another for the same: `val`, `valid` or `validation`."""
    alike = [name for name in brought if SPLITS.get(name.lower(), name) == SPLITS.get(value.lower(), value)]
    if value not in brought and len(alike) != 1:
        raise DataError(f"data.{part} = {value!r} is not a split of {data.source}; it has {', '.join(brought)}.")
    return value if value in brought else alike[0]


def _parts(source: Source, data: Data) -> tuple[dict[str, str | int | float], list[str]]:
    """What validation and test are, a split of the source or how much to draw; and the splits to draw from."""
    brought = sorted(set(source.splits.tolist()))
    wanted = split_parts(source, data)
    named = [value for value in wanted.values() if isinstance(value, str)]
    if len(set(named)) < len(named):
        raise DataError(f"data.validation and data.test are both {data.test!r}; give each images of its own.")
    train = split_named("train", brought)
    pool_splits = [train] if train else [name for name in brought if name not in named]
    if train in named or not pool_splits:
        raise DataError(f"nothing of {data.source} is left to train on; draw data.validation or data.test by number.")
    return wanted, pool_splits


def before_copies(source: Source, data: Data) -> Data:
    """The settings that hold before it is known which images are copies of each other: without that group."""
    known = data.group != COPIES or COPIES in source.columns.column_names
    return data if known else data.model_copy(update={"group": None})


def group_codes(source: Source, data: Data) -> NDArray[np.int64] | None:
    """(n,) the group of each row, codes from 0; None where the recipe names no group column."""
    if data.group is None:
        return None
    values = source.columns.column(data.group).to_pylist()
    if any(isinstance(value, (list, dict)) for value in values):
        kind = source.columns.schema.field(data.group).type
        raise DataError(f"the column {data.group!r} of {data.source} holds {kind}, not groups; set data.group.")
    codes: dict[object, int] = {}
    # a row without a group value is a group of its own
    return np.array(
        [codes.setdefault(value if value is not None else (row,), len(codes)) for row, value in enumerate(values)]
    )


def _count(part: str, value: float, available: int) -> int:
    count = value if isinstance(value, int) else max(1, round(value * available))
    if count >= available:
        raise DataError(f"data.{part} = {value} wants {count:,} of {available:,} images; draw fewer.")
    return int(count)


def _draw(labels: Rows, groups: Rows | None, counts: list[int], seed: int) -> NDArray[np.int64]:
    """For each row the index of the part that draws it, or `len(counts)` where none does."""
    random = np.random.default_rng(seed)
    if groups is None:
        return _draw_rows(labels, counts, random)
    return draw_groups(labels, groups, counts, random)


def _draw_rows(labels: Rows, counts: list[int], random: np.random.Generator) -> NDArray[np.int64]:
    drawn = np.full(len(labels), len(counts))
    members = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    sizes = np.array([len(rows) for rows in members])
    taken = np.zeros_like(sizes)
    for part, count in enumerate(counts):
        quota = apportion(count, sizes, taken, random)
        for rows, start, number in zip(members, taken, quota, strict=True):
            drawn[rows[start : start + number]] = part
        taken += quota
    return drawn


def apportion(count: int, sizes: Rows, taken: Rows, random: np.random.Generator) -> Rows:
    """Share `count` in proportion to `sizes` by largest remainders, and keep one image of each class from being taken.

    What a class cannot give is shared among those that can.
    """
    small = count * sizes.min() < SMALL * sizes.sum()
    weights = sizes - taken if small else sizes
    lots = random.permutation(len(sizes)) if small else np.arange(len(sizes))
    most, quota = sizes - taken - 1, np.zeros_like(sizes)
    while missing := count - quota.sum():
        able = np.where(quota < most, weights, 0)
        exact = missing * able / able.sum()
        more = np.floor(exact).astype(np.int64)
        more[np.lexsort((lots, more - exact))[: missing - more.sum()]] += 1
        quota = np.minimum(quota + more, most)
    return quota


def draw_groups(labels: Rows, groups: Rows, counts: list[int], random: np.random.Generator) -> NDArray[np.int64]:
    """For each row the index of the part that draws it, or `len(counts)` where none does; groups stay whole.

    Largest and most lopsided groups first, each to the part that then lies nearest to its wanted counts: the greedy
    rule of scikit-learn's StratifiedGroupKFold, for parts of different sizes.
    """
    classes = labels.max() + 1
    table = np.zeros((groups.max() + 1, classes), dtype=np.int64)
    np.add.at(table, (groups, labels), 1)
    targets = np.array([*counts, len(labels) - sum(counts)])[:, None] * table.sum(0) / len(labels)
    filled = np.zeros_like(targets)
    part_of = np.empty(len(table), dtype=np.int64)
    shuffled = random.permutation(len(table))
    for group in shuffled[np.argsort(-table[shuffled].std(1) - table[shuffled].mean(1), kind="stable")]:
        # how far each part would be overfull or short, relative to its size, if the group joined it
        before = ((filled - targets) / np.maximum(targets, 1)) ** 2
        after = ((filled + table[group] - targets) / np.maximum(targets, 1)) ** 2
        part = int((after - before).sum(1).argmin())
        filled[part] += table[group]
        part_of[group] = part
    drawn: NDArray[np.int64] = part_of[groups]
    return drawn


def _how(splits: Splits, wanted: Mapping[str, object], pool_name: str, data: Data) -> dict[str, str]:
    rule = (
        f"whole groups of {data.group!r}, stratified by label as far as they allow"
        if data.group
        else ("stratified by label")
    )
    alone = ", the only one that it holds out" if _is_alone(wanted, data) else ""
    how = {"train": f"what remains of {pool_name} ({len(splits.train):,} images)"}
    for part, rows in (("validation", splits.validation), ("test", splits.test)):
        value = wanted[part]
        how[part] = (
            f"the source's split {value!r} ({len(rows):,} images{alone if part == 'test' else ''})"
            if isinstance(value, str)
            else f"{len(rows):,} images drawn from {pool_name}, {rule}, seed {data.seed}"
        )
    return how


def _check(splits: Splits, source: Source, groups: Rows | None, data: Data, drawn: list[str]) -> None:
    for part, rows in splits.rows().items():
        if not len(rows):
            raise DataError(f"the {part} split of {data.source} is empty; draw more images for it.")
    present = np.bincount(source.labels[splits.train], minlength=len(source.classes))
    if (present == 0).any():
        missing = int(present.argmin())
        drawn_away = any((source.labels[splits.rows()[part]] == missing).any() for part in drawn)
        remedy = "draw other splits with data.seed" if drawn_away else "leave the class out"
        raise DataError(f"no image of class {source.classes[missing]!r} is in train; add some, or {remedy}.")
    if groups is not None:
        for part, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            both = np.intersect1d(groups[splits.rows()[part]], groups[splits.rows()[other]])
            if len(both):
                raise DataError(
                    f"{len(both):,} values of the group column {data.group!r} are in both {part} and {other}, as the "
                    "source splits them; draw these splits by number instead."
                )


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"split {names[0]!r}" if names[0] not in ("validation", "test") else names[0]
    return listed(names)
