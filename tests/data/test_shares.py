"""Shares of the training images: nested, in proportion, whole groups."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.data.shares import share_order, share_size

FRACTIONS = (0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 1.0)


def shares(labels: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> list[np.ndarray]:
    order, ends = share_order(labels, groups, seed)
    assert sorted(order) == list(range(len(labels)))
    return [order[: share_size(ends, fraction)] for fraction in FRACTIONS]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=200), st.integers(0, 9))
def test_shares_are_nested_exact_and_in_proportion(labels: list[int], seed: int) -> None:
    codes = np.array(labels)
    classes = len(np.unique(codes))
    found = shares(codes, seed=seed)
    for fraction, rows in zip(FRACTIONS, found, strict=True):
        assert abs(len(rows) - max(fraction * len(codes), classes)) <= 0.5
        of_each, whole = np.bincount(codes[rows], minlength=5), np.bincount(codes, minlength=5)
        assert (of_each[whole > 0] > 0).all()
        if len(rows) > classes:
            assert (np.abs(of_each - whole * len(rows) / len(codes)) <= 2).all()
    for small, large in pairwise(found):
        assert set(small) <= set(large)
    assert len(found[-1]) == len(codes)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 14)), min_size=20, max_size=200), st.integers(0, 9))
def test_shares_hold_whole_groups_and_every_class(rows: list[tuple[int, int]], seed: int) -> None:
    labels, groups = np.array(rows).T
    found = shares(labels, groups, seed)
    for held in found:
        assert not set(groups[held]) & set(np.delete(groups, held))
        assert set(labels[held]) == set(labels)
    for small, large in pairwise(found):
        assert set(small) <= set(large)


def test_shares_of_many_groups_are_near_the_fraction_and_the_proportion() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), random.integers(1, 8, 300))
    labels = (random.random(300) < 0.2).astype(int)[groups]
    for fraction, held in zip(FRACTIONS, shares(labels, groups), strict=True):
        assert len(held) == pytest.approx(fraction * len(labels), abs=4)
        assert labels[held].sum() == pytest.approx(labels.sum() * len(held) / len(labels), abs=8)


def test_another_seed_draws_another_share_and_the_same_seed_the_same() -> None:
    labels = np.arange(100) % 2
    one, again, other = (shares(labels, seed=seed)[4] for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert set(one) != set(other)
