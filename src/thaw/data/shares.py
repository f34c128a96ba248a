"""Shares of the training images: nested, stratified, of whole groups."""

from dataclasses import replace

import numpy as np

from thaw.data.dataset import Dataset
from thaw.data.splits import Rows, group_codes
from thaw.recipe import Data


def with_share(dataset: Dataset, data: Data, fraction: float) -> Dataset:
    """Return a dataset of which a fraction of the training images is left to train on; all else stays.

    Parameters
    ----------
    dataset
        The images and splits.
    data
        Names the groups, and has the seed of the draw.
    fraction
        Above 0; 1 gives the dataset itself.
    """
    if fraction == 1:
        return dataset
    train, groups = dataset.splits.train, group_codes(dataset.source, data)
    order, ends = share_order(dataset.source.labels[train], None if groups is None else groups[train], data.seed)
    kept = train[np.sort(order[: share_size(ends, fraction)])]
    return replace(dataset, splits=replace(dataset.splits, train=kept))


def share_order(labels: Rows, groups: Rows | None, seed: int) -> tuple[Rows, Rows]:
    """Order images such that the first ones of them, however many, hold each class in proportion.

    Units are images, or whole groups, which count as of their commonest class. Those of a class come in random order,
    spread evenly over the whole; the first of all are a unit of each class.

    Parameters
    ----------
    labels
        (n,) indices of classes.
    groups
        (n,) codes, where images of a group stay together.
    seed
        Of the draw.

    Returns
    -------
    order : array of int64, shape (n,)
        The places of the images, unit after unit.
    ends : array of int64, shape (units,)
        How many images there are up to the end of each unit. The first is that of the units which hold every class.
    """
    random = np.random.default_rng([seed, 1])  # another stream than that of the splits
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    unit = random.permutation(int(units.max()) + 1)[units]
    sizes = np.bincount(unit)
    table = np.zeros((len(sizes), int(labels.max()) + 1), np.int64)
    np.add.at(table, (unit, labels), 1)
    commonest = table.argmax(1)
    place = np.empty(len(sizes))
    for code in np.unique(commonest):
        members = commonest == code
        place[members] = (np.cumsum(sizes[members]) - sizes[members] / 2) / sizes[members].sum()
    holding = np.unique((table[:, table.any(0)] > 0).argmax(0))  # the first unit that holds each class
    place[holding] = 0
    ranked = np.argsort(place, kind="stable")
    rank = np.argsort(ranked)
    ends = np.cumsum(sizes[ranked])
    return np.argsort(rank[unit], kind="stable"), ends[len(holding) - 1 :]


def share_size(ends: Rows, fraction: float) -> int:
    """Return how many images of an order make a fraction of it: the nearest of its units' ends, see `share_order`."""
    return int(ends[np.abs(ends - fraction * ends[-1]).argmin()])
