"""Splits: drawn by label or by group, reproducible, and said in words."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.data.source import Source
from thaw.data.splits import make_splits, unused_splits, used_splits
from thaw.errors import DataError
from thaw.recipe import Data


def source(labels: list[int], splits: list[str] | None = None, **columns: list[object]) -> Source:
    count = len(labels)
    return Source(
        classes=tuple(f"class {code}" for code in range(max(labels) + 1)),
        ids=np.array([f"{row}.png" for row in range(count)]),
        labels=np.array(labels, dtype=np.int64),
        splits=np.array(splits or ["all"] * count),
        digests=tuple(f"{row:032x}" for row in range(count)),
        content=pa.chunked_array([pa.nulls(count)]),
        paths=(None,) * count,
        rows=np.arange(count),
        columns=pa.table({"row": list(range(count)), **columns}),
        skipped=(),
    )


def data(**keys: object) -> Data:
    return Data.model_validate({"source": "pictures", **keys})


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 3), min_size=40, max_size=200).filter(lambda labels: np.bincount(labels).min() >= 6),
    st.integers(4, 12),
    st.floats(0.1, 0.3),
    st.integers(0, 5),
)
def test_drawn_splits_partition_the_source_and_keep_the_shares_of_the_labels(
    labels: list[int], validation: int, test: float, seed: int
) -> None:
    whole = source(labels)
    splits = make_splits(whole, data(validation=validation, test=test, seed=seed))
    rows = np.concatenate(list(splits.rows().values()))
    assert np.array_equal(np.sort(rows), np.arange(len(labels)))
    assert len(splits.validation) == validation
    assert len(splits.test) == round(test * len(labels))
    for part in splits.rows().values():
        expected = np.bincount(labels, minlength=4) * len(part) / len(labels)
        assert np.abs(np.bincount(whole.labels[part], minlength=4) - expected).max() <= 2
        assert np.array_equal(part, np.sort(part))


def test_the_seed_decides_what_is_drawn() -> None:
    whole = source([0, 1] * 50)
    first, again, other = (make_splits(whole, data(validation=10, test=10, seed=seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_the_founding_study_draws_validation_from_train_and_tests_on_validation() -> None:
    whole = source([0, 1] * 60, ["train"] * 100 + ["validation"] * 20)
    splits = make_splits(whole, data(validation=20, test="validation"))
    assert np.array_equal(splits.test, np.arange(100, 120))
    assert splits.validation.max() < 100
    assert (len(splits.train), len(splits.validation)) == (80, 20)
    assert splits.how == {
        "train": "what remains of the source's split 'train' (80 images)",
        "validation": "20 images drawn from the source's split 'train', stratified by label, seed 0",
        "test": "the source's split 'validation' (20 images)",
    }


@pytest.mark.parametrize(
    ("sizes", "keys", "digest"),
    [
        ((17_711, 10_289), {"validation": 2000, "test": "validation"}, "31a8b6d3b84ea2b2"),
        ((1004, 1004), {"validation": 0.15, "test": 0.25}, "2f10fbd2de463fd1"),
        ((500, 500), {"validation": 75, "test": 75, "seed": 3}, "46db20925cb1a74a"),
    ],
)
def test_draws_from_large_classes_stay_what_they_were(
    sizes: tuple[int, int], keys: dict[str, object], digest: str
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], sizes)).tolist()
    held = ["validation"] * 200 if keys["test"] == "validation" else []
    whole = source([*labels, *[0, 1] * (len(held) // 2)], ["train"] * len(labels) + held)
    drawn = make_splits(whole, data(**keys)).rows()
    rows = np.concatenate([drawn["validation"], drawn["test"]]).astype("<i8").tobytes()
    assert hashlib.sha256(rows).hexdigest()[:16] == digest


@pytest.mark.parametrize("sizes", [[3] * 100, [2] * 100, [3, 3], [10] * 100, [1] * 60 + [30]])
def test_small_classes_are_drawn_by_lot_and_each_keeps_an_image_for_train(sizes: list[int]) -> None:
    labels, alike = np.repeat(np.arange(len(sizes)), sizes), np.array(sizes) == sizes[0]
    drawn: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
    for seed in range(100):
        splits = make_splits(source(labels.tolist()), data(seed=seed))
        assert set(labels[splits.train]) == set(labels)
        for part, of_seeds in drawn.items():
            of_seeds.append(np.bincount(labels[splits.rows()[part]], minlength=len(sizes)))
    for of_seeds in drawn.values():
        assert {of_seed.sum() for of_seed in of_seeds} == {round(0.15 * len(labels))}
        means = np.mean(of_seeds, axis=0)[alike]
        assert np.abs(means - means.mean()).max() < 0.25  # five deviations of the mean of a hundred lots


def test_a_part_takes_first_from_classes_of_which_earlier_parts_took_nothing() -> None:
    labels = np.repeat(np.arange(100), 3)
    splits = make_splits(source(labels.tolist()), data())
    assert len({*labels[splits.validation], *labels[splits.test]}) == 90


def test_groups_never_straddle_splits_and_labels_stay_near_their_shares() -> None:
    random = np.random.default_rng(0)
    people = random.integers(0, 80, 1000)
    labels = random.integers(0, 2, 80)[people] ^ (random.random(1000) < 0.2)
    whole = source(labels.tolist(), person=[f"p{person}" for person in people])
    splits = make_splits(whole, data(validation=0.15, test=0.25, group="person"))
    seen = [set(people[rows]) for rows in splits.rows().values()]
    assert len(set.union(*seen)) == sum(len(people) for people in seen)
    for rows, share in zip(splits.rows().values(), (0.6, 0.15, 0.25), strict=True):
        assert abs(len(rows) / 1000 - share) < 0.02
        assert abs(whole.labels[rows].mean() - whole.labels.mean()) < 0.05


def test_a_split_that_is_not_used_is_named() -> None:
    whole = source([0, 1] * 30, ["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    used = used_splits(whole, data(validation=10, test="test"))
    assert np.array_equal(used, [*range(40), *range(50, 60)])
    assert unused_splits(whole, used) == {"unused": "the source's validation (10 images)"}
    assert unused_splits(whole, np.arange(60)) == {}


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "Valid", "Testing"), ("training", "dev", "TEST")]
)
def test_splits_are_known_by_their_usual_names(names: tuple[str, str, str]) -> None:
    train, validation, test = names
    whole = source([0, 1] * 30, [train] * 40 + [validation] * 10 + [test] * 10)
    splits = make_splits(whole, data())
    assert [len(rows) for rows in splits.rows().values()] == [40, 10, 10]
    assert splits.how["validation"] == f"the source's split {validation!r} (10 images)"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"test": "tset"}, "is not a split of pictures; it has train, validation"),
        ({"test": "validation", "validation": "validation"}, "both 'validation'"),
        ({"test": 500}, "draw fewer"),
        (
            {"test": 0.5, "validation": 19},
            "want 39 .* less than one of each of 2 classes to train on; draw fewer, or add",
        ),
        ({"test": 0.5, "validation": 20, "group": "person"}, "want 40 .* leaves none to train on; draw fewer, or add"),
        ({"test": "train"}, "left to train on"),
        ({"test": "validation", "validation": 10, "group": "person"}, "are in both train and test"),
    ],
)
def test_parts_that_cannot_be_had(keys: dict[str, object], said: str) -> None:
    whole = source([0, 1] * 30, ["train"] * 40 + ["validation"] * 20, person=[row % 20 for row in range(60)])
    with pytest.raises(DataError, match=said) as raised:
        make_splits(whole, data(**keys))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("group", [None, "person"])
def test_a_class_absent_from_train_is_an_error(group: str | None) -> None:
    people = [row // 2 for row in range(50)]
    whole = source([0, 1] * 20 + [2] * 10, ["train"] * 40 + ["test"] * 10, person=people)
    with pytest.raises(DataError, match="no image of class 'class 2' is in train; add some, or leave the class out"):
        make_splits(whole, data(validation=10, group=group))


def test_a_class_whose_groups_are_drawn_away_needs_other_draws() -> None:
    grouped = source([3, 3, 3, 1, 0, 0, 2, 2, 0, 3], person=list("4104210271"))
    with pytest.raises(DataError, match=r"is in train; add some, or draw other splits with data\.seed"):
        make_splits(grouped, data(group="person"))
    assert len(set(grouped.labels[make_splits(grouped, data(group="person", seed=1)).train])) == 4


def test_rows_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    whole = source([0, 1] * 40, person=[None] * 80)
    splits = make_splits(whole, data(validation=8, test=16, group="person"))
    assert len(splits.test) == 16
    assert replace(whole).fingerprint() == whole.fingerprint()
