"""Label errors: planted errors come first, nothing vouches for itself, and test labels train nothing."""

import numpy as np
import pytest

from thaw.audit.label_errors import CHUNK, LabelErrors, find_label_errors, out_of_fold


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


@pytest.mark.parametrize("grouped", [False, True])
def test_blocks_give_what_the_whole_matrix_gives(grouped: bool) -> None:
    features, labels = clusters(CHUNK + 500, 4, apart=2)
    labels[7] = 4  # alone in its class
    groups = np.arange(len(labels)) // 3 if grouped else None
    given = (features, labels, groups, np.arange(1200), np.arange(1200, len(labels)))
    blocks = list(out_of_fold(*given))
    rows, p = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    assert [len(of) for of, _ in blocks] == [CHUNK, 499]
    assert rows.tolist() == [row for row in range(len(labels)) if row != 7]
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    own, places = labels[rows], np.arange(len(rows))
    p_label, others = p[places, own], p.copy()
    others[places, own] = -1
    suggested, p_suggested = others.argmax(1), others.max(1)
    usual = np.array([p_label[own == code].mean() if (own == code).any() else 1.0 for code in range(5)])
    order = np.argsort((1 + p_label - p_suggested) / 2, kind="stable")
    found = find_label_errors(*given)
    np.testing.assert_array_equal(found.rows, rows[order])
    np.testing.assert_array_equal(found.suggested, suggested[order])
    np.testing.assert_array_equal(found.p_label, p_label[order])
    np.testing.assert_array_equal(found.p_suggested, p_suggested[order])
    errors = (p_suggested > p_label) & (p_suggested >= usual[suggested])
    np.testing.assert_array_equal(found.errors, errors[order])


def test_every_label_is_judged_by_probes_that_did_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[float], set[float]]] = []

    class Told:
        def __init__(self, values: np.ndarray, labels: np.ndarray) -> None:
            self.values, self.classes = set(values[:, 0].tolist()), len(np.unique(labels))

        def predict_proba(self, values: np.ndarray) -> np.ndarray:
            seen.append((self.values, set(values[:, 0].tolist())))
            return np.full((len(values), self.classes), 1 / self.classes, np.float32)

    monkeypatch.setattr("thaw.audit.label_errors._fit", lambda values, labels, _: Told(values, labels))
    features, labels = clusters(300, 2)
    find_label_errors(features, labels, np.arange(300) // 4, np.arange(240), np.arange(240, 300))
    assert seen
    assert not any(known & asked for known, asked in seen)
