"""Label errors: planted errors come first, nothing vouches for itself, and test labels train nothing."""

import numpy as np
import pytest

from thaw.audit.label_errors import LabelErrors, find_label_errors


def clusters(images: int, classes: int, apart: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around a centre for each class, and the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = random.normal(size=(classes, 20)) * apart / np.sqrt(40)
    return (centres[labels] + random.normal(size=(images, 20))).astype(np.float32), labels


def score_by_row(found: LabelErrors, images: int) -> np.ndarray:
    scores = np.full(images, np.nan)
    scores[found.rows] = found.score
    return scores


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("grouped", [False, True])
def test_planted_errors_come_first(classes: int, grouped: bool) -> None:
    features, clean = clusters(500, classes, apart=8)
    planted = np.random.default_rng(1).choice(400, 20, replace=False)
    labels = clean.copy()
    labels[planted] = (clean[planted] + 1) % classes
    groups = np.arange(500) // 5 if grouped else None
    found = find_label_errors(features, labels, groups, np.arange(400), np.arange(400, 500))
    assert sorted(found.rows) == list(range(500))
    assert set(found.rows[:20]) == set(planted)
    assert (found.suggested[:20] == clean[found.rows[:20]]).all()
    assert found.errors[:20].mean() > 0.5
    assert not found.errors[20:].any()
    assert (np.diff(found.score) >= 0).all()
    assert 0 <= found.score[0] < 0.5 < found.score[-1] <= 1
    assert (found.p_label + found.p_suggested <= 1 + 1e-6).all()


def test_labels_of_the_test_set_train_nothing() -> None:
    features, labels = clusters(300, 2)
    pool, test = np.arange(200), np.arange(200, 300)
    other = labels.copy()
    other[test] = 1 - other[test]
    one, flipped = (score_by_row(find_label_errors(features, own, None, pool, test), 300) for own in (labels, other))
    np.testing.assert_array_equal(one[pool], flipped[pool])
    np.testing.assert_allclose(one[test], 1 - flipped[test], atol=1e-6)


def test_an_error_that_a_whole_group_shares_is_found() -> None:
    features, clean = clusters(400, 2, apart=6)
    groups, labels = np.arange(400) // 4, clean.copy()
    features[40:44] = features[40] + np.random.default_rng(0).normal(0, 0.01, (4, 20))  # nearly one picture
    labels[40:44] = 1 - clean[40]
    found = find_label_errors(features, labels, groups, np.arange(400), np.array([], dtype=int))
    assert set(found.rows[:30]) >= {40, 41, 42, 43}


def test_an_image_alone_in_its_class_is_not_checked() -> None:
    features, labels = clusters(100, 2)
    labels[7] = 2
    found = find_label_errors(features, labels, None, np.arange(80), np.arange(80, 100))
    assert sorted(found.rows) == [row for row in range(100) if row != 7]


def test_nothing_is_checked_where_nothing_can_be_learned() -> None:
    features, labels = clusters(4, 2)
    assert len(find_label_errors(features, labels, np.zeros(4, int), np.array([0, 1]), np.array([2, 3])).rows) == 0
