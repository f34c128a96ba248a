"""A part of a source, for a first look at a study: as many images as wanted, classes and splits in proportion."""

import numpy as np

from thaw.data.source import Source
from thaw.data.splits import Rows, apportion, draw_groups, group_codes, used_splits
from thaw.errors import DataError
from thaw.recipe import Data


def studied(whole: Source, data: Data) -> Source:
    """Return the part of a source that a study is of: the splits that it uses, and of these what `limited` leaves."""
    return limited(whole.take(used_splits(whole, data)), data)


def limited(source: Source, data: Data) -> Source:
    """Return the part of a source that `data.limit` asks for: the source itself where it has no more images.

    The images are drawn at random with `data.seed`, in proportion to the classes within each split that the source
    brings, at least one of each. With a group column whole groups are drawn, so that the number is met as closely as
    they allow; copies are found later, among what was drawn. Raises DataError where the limit has no room for each
    class.
    """
    if data.limit is None or data.limit >= len(source.ids):
        return source
    strata = np.unique(source.labels + len(source.classes) * _codes(source), return_inverse=True)[1]
    kinds = int(strata.max()) + 1
    if data.limit < kinds:
        raise DataError(
            f"data.limit = {data.limit:,} has no room for an image of each class in each split of {data.source}; "
            f"give {kinds:,} or more."
        )
    random = np.random.default_rng(data.seed)
    groups = group_codes(source, data) if data.group in source.columns.column_names else None
    if groups is not None:
        kept = draw_groups(strata, groups, [data.limit], random) == 0
    else:
        members = [random.permutation(np.flatnonzero(strata == kind)) for kind in range(kinds)]
        sizes = np.array([len(rows) for rows in members])
        dropped = apportion(len(strata) - data.limit, sizes, np.zeros_like(sizes), random)
        kept = np.zeros(len(strata), np.bool_)
        for rows, number in zip(members, dropped, strict=True):
            kept[rows[number:]] = True
    return source.take(np.flatnonzero(kept))


def how_limited(source: Source, kept: int, data: Data) -> dict[str, str]:
    """Say, to add to `Splits.how`, that only `kept` of the images of `source` are used; empty where all are."""
    if kept == len(source.ids):
        return {}
    whole = f", whole groups of {data.group!r}" if data.group in source.columns.column_names else ""
    told = f"{kept:,} of the {len(source.ids):,} images of {data.source}, stratified by label{whole}, seed {data.seed}"
    return {"limit": told}


def _codes(source: Source) -> Rows:
    """(n,) the split of each image as a code from 0."""
    codes: Rows = np.unique(source.splits, return_inverse=True)[1].astype(np.int64)
    return codes
