"""Prediction sets, thresholds, the risk-coverage curve and what is unlike, against loops written out."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from thaw.scoring.conformal import floor_of, measure_sets, prediction_sets, set_floors
from thaw.scoring.decision import Wanted, choose_threshold, decide, measure_decision
from thaw.scoring.risk import trace_risk
from thaw.scoring.unlike import Distances, distances, fit_subspace, measure_unlike, spread

Probabilities = NDArray[np.float64]


def drawn(images: int, classes: int, seed: int, tied: bool = False) -> tuple[NDArray[np.int64], Probabilities]:
    """Labels drawn from the probabilities themselves, which are then right."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.5), images)
    if tied:
        probabilities = np.round(probabilities, 1)
    labels = np.array([random.choice(classes, p=row / row.sum()) for row in probabilities])
    return labels.astype(np.int64), probabilities


def brute_force(own: Probabilities, coverage: float, other: float) -> bool:
    """Whether a label is in the set by the definition: its p-value, ties counted in full, is above 1 - coverage."""
    at_least_as_strange = 1 + sum(value <= other for value in own)
    return at_least_as_strange / (len(own) + 1) > 1 - coverage + 1e-12


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("images", "coverage"), [(9, 0.9), (10, 0.9), (19, 0.9), (57, 0.8), (99, 0.95)])
def test_a_floor_is_the_definition_of_conformal_prediction(images: int, coverage: float, tied: bool) -> None:
    random = np.random.default_rng(images)
    own = random.random(images)
    own = np.round(own, 1) if tied else own
    floor = floor_of(own, coverage)
    assert floor is not None
    for other in [*own, *random.random(200), *np.arange(0, 1.05, 0.1).round(1)]:
        assert (other >= floor) == brute_force(own, coverage, other)


def test_a_floor_needs_enough_images() -> None:
    """At 90%, nine: with eight, a ninth image that is stranger than all of them is still one of nine."""
    assert floor_of(np.linspace(0.1, 0.9, 8), 0.9) is None
    assert floor_of(np.linspace(0.1, 0.9, 9), 0.9) == 0.1
    assert floor_of(np.linspace(0.1, 0.9, 19), 0.9) == pytest.approx(np.linspace(0.1, 0.9, 19)[1])
    assert floor_of(np.zeros(0), 0.9) is None


def test_sets_cover_what_they_promise_on_average() -> None:
    """Over 400 draws, of 60 validation images: (n + 1) coverage rounded up, over n + 1, within chance."""
    covered = []
    for seed in range(400):
        labels, probabilities = drawn(160, 3, seed)
        floor = floor_of(probabilities[np.arange(60), labels[:60]], 0.9)
        covered.append(float((probabilities[np.arange(60, 160), labels[60:]] >= floor).mean()))
    expected = math.ceil(61 * 0.9) / 61
    assert abs(np.mean(covered) - expected) < 4 * np.std(covered) / math.sqrt(len(covered))


def test_classes_have_floors_of_their_own_where_all_have_enough() -> None:
    labels, probabilities = drawn(300, 3, 5)
    floors, by_class, reason = set_floors(labels, probabilities, 0.9)
    assert floors is not None
    assert by_class
    assert "at least 20" in reason
    for code, floor in enumerate(floors):
        assert floor == pytest.approx(floor_of(probabilities[labels == code, code], 0.9), rel=2e-6)
    rare = np.flatnonzero((labels != 2) | (np.cumsum(labels == 2) <= 19))
    floors, by_class, reason = set_floors(labels[rare], probabilities[rare], 0.9)
    assert floors is not None
    assert not by_class
    assert len(set(floors)) == 1
    assert "one has 19 validation images" in reason
    assert set_floors(labels[:8], probabilities[:8], 0.9)[0] is None


def test_sets_are_those_of_other_libraries() -> None:
    """crepes 0.9.1 (smoothing=False) and MAPIE 1.6.0 (lac) gave these sets for these images, class by class."""
    (held, probabilities), (_, others) = drawn(300, 3, 1), drawn(500, 3, 2)
    own = probabilities[np.arange(300), held]
    floor = floor_of(own, 0.9)
    assert floor == pytest.approx(0.2220070236)
    assert prediction_sets(others, [floor] * 3).sum() == 806
    floors, by_class, _ = set_floors(held, probabilities, 0.9)
    assert by_class
    assert floors == pytest.approx([0.1706896091, 0.1873078183, 0.2486054642])
    assert prediction_sets(others, floors or []).sum() == 838


def test_sets_are_measured_on_test() -> None:
    validation, (labels, probabilities) = drawn(300, 3, 1), drawn(500, 3, 2)
    found = measure_sets(labels, probabilities, validation, 0.9)
    assert found.floors is not None
    sets = prediction_sets(probabilities, found.floors)
    inside = [bool(sets[row, label]) for row, label in enumerate(labels)]
    assert found.covered == pytest.approx(np.mean(inside))
    assert found.size == pytest.approx(sets.sum() / len(sets))
    assert sum(count * size for size, count in enumerate(found.sizes)) == sets.sum()
    for code, it in enumerate(found.classes):
        assert it.images == (labels == code).sum()
        assert it.covered == pytest.approx(
            np.mean([one for one, label in zip(inside, labels, strict=True) if label == code])
        )
        low, high = stats.binomtest(round(it.covered * it.images), it.images).proportion_ci(method="wilson")
        assert it.interval == pytest.approx((low, high), abs=1e-6)
    none = measure_sets(labels, probabilities, None, 0.9)
    assert none.floors is None
    assert "rehearse" in none.reason


def test_a_threshold_for_a_recall_is_the_floor_of_the_class() -> None:
    labels, probabilities = drawn(400, 2, 3)
    threshold, reason = choose_threshold(labels == 1, probabilities[:, 1], wanted(recall=0.95))
    assert threshold == pytest.approx(floor_of(probabilities[labels == 1, 1], 0.95), rel=2e-6)
    assert f"{(labels == 1).sum()} of them" in reason
    few = np.flatnonzero(labels == 1)[:10].tolist() + np.flatnonzero(labels == 0).tolist()
    assert choose_threshold(labels[few] == 1, probabilities[few, 1], wanted(recall=0.95))[0] is None
    assert choose_threshold(labels == 5, probabilities[:, 1], wanted(recall=0.5))[0] is None


@pytest.mark.parametrize("tied", [False, True])
def test_thresholds_for_precision_and_costs_are_those_of_a_search_over_all(tied: bool) -> None:
    labels, probabilities = drawn(150, 2, 4, tied)
    own, probability = labels == 1, probabilities[:, 1]
    every = [-1.0, *probability, 3.0]

    def taken(threshold: float) -> NDArray[np.bool_]:
        return probability >= threshold

    threshold, _ = choose_threshold(own, probability, wanted(precision=0.8))
    assert threshold is not None
    good = [one for one in every if taken(one).any() and own[taken(one)].mean() >= 0.8]
    assert own[taken(threshold)].mean() >= 0.8
    assert taken(threshold).sum() == max(taken(one).sum() for one in good)
    costs = [[0.5, 2.0], [10.0, 1.0]]

    def spent(threshold: float) -> float:
        return float(
            np.mean([costs[int(is_own)][int(is_taken)] for is_own, is_taken in zip(own, taken(threshold), strict=True)])
        )

    threshold, _ = choose_threshold(own, probability, wanted(costs=costs))
    assert threshold is not None
    assert spent(threshold) == pytest.approx(min(map(spent, every)))
    worst, why = choose_threshold(~own, probability, wanted(precision=0.999))
    assert worst is None
    assert "no threshold has a precision of 0.999" in why


def test_a_decision_is_for_the_class_or_the_best_of_the_others() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.45, 0.45], [0.8, 0.15, 0.05], [0.2, 0.2, 0.6]])
    assert decide(probabilities, 1, 0.3).tolist() == [1, 1, 0, 2]
    assert decide(probabilities, 0, 0.9).tolist() == [1, 1, 1, 2]


def test_a_decision_is_measured_on_test() -> None:
    validation, (labels, probabilities) = drawn(400, 3, 6), drawn(300, 3, 7)
    asked = wanted(costs=[[0, 1], [5, 0]])
    found = measure_decision(labels, probabilities, validation, asked, ("c", "a", "b"))
    assert found.threshold is not None
    assert found.test is not None
    assert found.before is not None
    taken = probabilities[:, 1] >= found.threshold
    assert found.test.recall == pytest.approx(taken[labels == 1].mean())
    assert found.test.precision == pytest.approx((labels[taken] == 1).mean())
    assert found.before.recall == pytest.approx((probabilities.argmax(1) == 1)[labels == 1].mean())
    assert found.cost == pytest.approx((5 * (~taken & (labels == 1)).sum() + (taken & (labels != 1)).sum()) / 300)
    assert found.cost_before is not None
    assert found.cost < found.cost_before
    none = measure_decision(labels, probabilities, None, asked, ("c", "a", "b"))
    assert none.threshold is None


def wanted(**of: object) -> Wanted:
    return Wanted.model_validate({"positive": "a", "recall": None, "precision": None, "costs": None, **of})


@pytest.mark.parametrize("tied", [False, True])
def test_the_risk_coverage_curve_is_the_mean_over_orders_of_equal_confidence(tied: bool) -> None:
    labels, probabilities = drawn(60, 3, 8, tied)
    wrong, confidence = probabilities.argmax(1) != labels, probabilities.max(1)
    random, curves = np.random.default_rng(0), []
    for _ in range(4000 if tied else 1):
        order = sorted(range(60), key=lambda row: (-confidence[row], random.random()))
        errors = 0
        curves.append([])
        for count, row in enumerate(order, 1):
            errors += wrong[row]
            curves[-1].append(errors / count)
    found = trace_risk(labels, probabilities)
    expected = np.mean(curves, 0)
    assert np.array([error for _, error in found.curve]) == pytest.approx(expected, abs=0.02 if tied else 1e-12)
    assert found.area == pytest.approx(expected.mean(), abs=0.005 if tied else 1e-12)
    assert found.curve[-1] == (1.0, pytest.approx(wrong.mean()))
    assert found.area_at_random == pytest.approx(wrong.mean())
    right = 60 - wrong.sum()
    assert found.area_at_best == pytest.approx(sum(max(0, count - right) / count for count in range(1, 61)) / 60)
    assert found.area_at_best <= found.area


def test_distances_are_what_the_leading_directions_leave() -> None:
    random = np.random.default_rng(0)
    features = (random.normal(size=(300, 12)) @ random.normal(size=(12, 40)) + 3).astype(np.float32)
    features += 0.05 * random.normal(size=features.shape).astype(np.float32)
    found = fit_subspace(features)
    assert found.basis.shape == (40, 20)
    scaled = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    mean = scaled.mean(0)
    vectors = np.linalg.eigh(np.cov(scaled.T))[1][:, ::-1][:, :20]
    others = random.normal(size=(50, 40)).astype(np.float32)
    away = others / np.linalg.norm(others, axis=1, keepdims=True) - mean
    rest = away - away @ vectors @ vectors.T
    # of directions that hardly differ in variance, the found ones are only nearly the leading ones
    np.testing.assert_allclose(distances(found, others), (rest**2).sum(1), rtol=0.05)
    assert distances(found, others).min() > 5 * distances(found, features).max()
    np.testing.assert_allclose(distances(found, 7 * others), distances(found, others), rtol=1e-4)
    assert fit_subspace(features[:5]).basis.shape == (40, 2)
    assert len(spread(np.arange(5000))) == 2000
    assert spread(np.arange(7)).tolist() == list(range(7))


def test_false_alarms_are_as_rare_as_stated() -> None:
    random = np.random.default_rng(1)
    rates = []
    for _ in range(300):
        found = measure_unlike(
            Distances(random.random(99).astype(np.float32), random.random(200).astype(np.float32)), 0.05, None, ""
        )
        assert found.flagged is not None
        rates.append(found.flagged)
    assert abs(np.mean(rates) - 0.05) < 4 * np.std(rates) / math.sqrt(300)
    ones = np.ones(18, np.float32)
    assert measure_unlike(Distances(ones, ones), 0.05, None, "").threshold is None
    assert measure_unlike(Distances(np.ones(19, np.float32), ones), 0.05, None, "").threshold == 1
    assert measure_unlike(None, 0.05, None, "why").reason == "why"
