"""A limited source: as many images as asked for, in proportion, groups whole, the same each time."""

from collections import Counter

import numpy as np
import pytest

from data.test_splits import data, source
from thaw.data.limit import how_limited, limited
from thaw.data.splits import make_splits
from thaw.errors import DataError

LABELS = [0] * 60 + [1] * 30 + [2] * 10
"""In the proportion 6 : 3 : 1."""


def test_classes_keep_their_proportions() -> None:
    part = limited(source(LABELS), data(limit=50))
    assert Counter(part.labels.tolist()) == {0: 30, 1: 15, 2: 5}
    assert part.classes == ("class 0", "class 1", "class 2")
    assert len(set(part.ids)) == 50


def test_every_split_of_the_source_keeps_its_share_of_every_class() -> None:
    splits = (["train"] * 40 + ["test"] * 20) + (["train"] * 20 + ["test"] * 10) + ["train"] * 8 + ["test"] * 2
    part = limited(source(LABELS, splits), data(limit=50))
    counts = Counter(zip(part.splits.tolist(), part.labels.tolist(), strict=True))
    assert counts == {
        ("train", 0): 20,
        ("test", 0): 10,
        ("train", 1): 10,
        ("test", 1): 5,
        ("train", 2): 4,
        ("test", 2): 1,
    }


def test_rare_classes_are_not_lost() -> None:
    part = limited(source([0] * 997 + [1, 2, 3]), data(limit=10))
    assert Counter(part.labels.tolist()) == {0: 7, 1: 1, 2: 1, 3: 1}
    with pytest.raises(DataError, match=r"^data\.limit = 3 has no room for .*; give 4 or more\.$"):
        limited(source([0] * 997 + [1, 2, 3]), data(limit=3))


def test_groups_stay_whole_and_the_limit_is_met_as_closely_as_they_allow() -> None:
    people = [f"p{row // 5}" for row in range(len(LABELS))]
    whole = source(LABELS, person=people)
    part = limited(whole, data(limit=50, group="person"))
    assert len(part.ids) == 50
    assert set(Counter(part.columns["person"].to_pylist()).values()) == {5}
    assert Counter(part.labels.tolist()) == {0: 30, 1: 15, 2: 5}
    assert how_limited(whole, 50, data(limit=50, group="person")) == {
        "limit": "50 of the 100 images of pictures, stratified by label, whole groups of 'person', seed 0"
    }


def test_the_same_seed_draws_the_same_images_and_another_others() -> None:
    whole = source(LABELS)
    one, same, other = (limited(whole, data(limit=50, seed=seed)).ids.tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_a_source_with_no_more_images_is_left_as_it_is() -> None:
    whole = source(LABELS)
    assert limited(whole, data()) is whole
    assert limited(whole, data(limit=100)) is whole
    assert how_limited(whole, 100, data(limit=100)) == {}


def test_splits_are_drawn_from_what_is_left() -> None:
    part = limited(source(LABELS), data(limit=50))
    splits = make_splits(part, data(limit=50))
    assert {name: len(rows) for name, rows in splits.rows().items()} == {"train": 34, "validation": 8, "test": 8}
    assert np.array_equal(np.sort(np.concatenate(list(splits.rows().values()))), np.arange(50))
