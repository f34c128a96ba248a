"""Intervals and tests equal scipy's and statsmodels', hold what they claim, and are not fooled by groups."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from thaw.scoring.statistics import (
    bootstrap_scores,
    difference_reach,
    effective_images,
    holm,
    image_part,
    images_needed,
    mcnemar,
    score_intervals,
    seed_part,
    sign_flips,
    wilson,
)

SEEDS = st.integers(0, 2**32 - 1)
SCORES = ("precision", "recall", "f1", "balanced_accuracy", "macro_f1")


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_is_statsmodels(images: int, share: float) -> None:
    right = round(share * images)
    found = wilson(right / images, images)
    assert found == pytest.approx(proportion_confint(right, images, method="wilson"), abs=1e-12)
    assert found == pytest.approx(tuple(stats.binomtest(right, images).proportion_ci(method="wilson")), abs=1e-12)
    assert 0 <= found[0] <= right / images <= found[1] <= 1


def test_wilson_is_the_published_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0.5, 0) == (0, 1)


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 100))
def test_mcnemar_is_statsmodels(only_first: int, only_second: int, both: int) -> None:
    expected = statsmodels_mcnemar([[both, only_first], [only_second, both]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(min(1, expected), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_is_statsmodels(p: list[float]) -> None:
    assert holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 50))
def test_flips_of_single_images_are_mcnemars_test(only_first: int, only_second: int, neither: int) -> None:
    leads = np.repeat([1, -1, 0], [only_first, only_second, neither])
    assert sign_flips(leads) == pytest.approx(mcnemar(only_first, only_second), rel=1e-9)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=10))
def test_flips_of_groups_are_all_ways_counted(sums: list[int]) -> None:
    ways = np.array(list(product((-1, 1), repeat=len(sums)))) @ np.array(sums)
    expected = (np.abs(ways) >= abs(sum(sums))).mean()
    assert sign_flips(np.array(sums)) == pytest.approx(expected, rel=1e-12)
    # the same sums from images with leads of 1, 0 and -1 in groups
    groups = np.repeat(np.arange(len(sums)), [abs(value) + 1 for value in sums])
    leads = np.concatenate([[0] + [int(np.sign(value))] * abs(value) for value in sums])
    assert sign_flips(leads, groups) == pytest.approx(expected, rel=1e-12)


def test_flips_are_scipys_permutation_test() -> None:
    sums = np.random.default_rng(0).integers(-4, 6, 60)
    found = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=20_000, random_state=np.random.default_rng(0)
    )
    assert sign_flips(sums) == pytest.approx(found.pvalue, abs=4 * np.sqrt(found.pvalue / 20_000))


@pytest.mark.parametrize("seeds", [1, 3])
def test_bootstrap_of_images_is_scipys(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    labels = random.integers(0, 3, 400)
    predicted = np.where(random.random((seeds, 400)) < 0.85, labels, random.integers(0, 3, (seeds, 400)))

    def scores(rows: np.ndarray) -> np.ndarray:
        of_seeds = [
            [
                *precision_recall_fscore_support(labels[rows], one[rows], average="weighted", zero_division=0)[:3],
                *precision_recall_fscore_support(labels[rows], one[rows], average="macro", zero_division=0)[1:3],
            ]
            for one in predicted
        ]
        return np.mean(of_seeds, axis=0)

    found = bootstrap_scores(labels, predicted, 3)
    expected = stats.bootstrap(
        (np.arange(400),), scores, vectorized=False, n_resamples=500, method="percentile", rng=random
    ).confidence_interval
    width = expected.high - expected.low
    assert np.array([found[name][0] for name in SCORES]) == pytest.approx(expected.low, abs=0.15 * width.max())
    assert np.array([found[name][1] for name in SCORES]) == pytest.approx(expected.high, abs=0.15 * width.max())


def test_a_difference_has_the_interval_of_students_paired_t_test() -> None:
    random = np.random.default_rng(1)
    first, second = (random.random((1, 500)) < 0.9) * 1.0, (random.random((1, 500)) < 0.85) * 1.0
    expected = stats.ttest_rel(first[0], second[0]).confidence_interval()
    far = difference_reach(first, second)
    assert far == pytest.approx((expected.high - expected.low) / 2)
    # groups of one size are as many images as groups
    groups, means = np.arange(500) // 5, (first - second).reshape(100, 5).mean(1)
    expected = stats.ttest_1samp(means, 0).confidence_interval()
    assert difference_reach(first, second, groups) == pytest.approx((expected.high - expected.low) / 2)


def test_uneven_groups_are_left_out_one_by_one() -> None:
    random = np.random.default_rng(3)
    sizes = np.array([40, 3, 8, 1, 12, 2, 2])
    groups, values = np.repeat(np.arange(7), sizes), random.random(sizes.sum())
    values += 0.3 * random.random(7)[groups]  # alike in groups
    without = np.array([values[groups != group].mean() for group in range(7)])
    found = image_part(values, groups)
    assert found.variance == pytest.approx(6 / 7 * ((without - values.mean()) ** 2).sum())
    # the degrees of freedom by the matrix itself, for images that are alike in groups as Bell and McCaffrey have it
    ratio = stats.f_oneway(*(values[groups == group] for group in range(7))).statistic
    size = (len(values) - (sizes**2).sum() / len(values)) / 6
    alike = min(1, max(0, (ratio - 1) / (ratio + size - 1)))
    same = groups[:, None] == groups
    covariance = np.where(np.eye(len(values), dtype=bool), 1, alike * same)
    left_out = np.stack([(groups == group) - sizes[group] / len(values) for group in range(7)])
    left_out /= (len(values) - sizes)[:, None]
    matrix = left_out @ covariance @ left_out.T
    assert found.freedom == pytest.approx(np.trace(matrix) ** 2 / (matrix**2).sum())
    assert found.freedom < 3


def test_seeds_add_the_variance_that_images_do_not_explain() -> None:
    random = np.random.default_rng(4)
    found = [
        seed_part(0.8 + 0.02 * random.normal(size=(4, 1)) + 0.3 * random.normal(size=(4, 2000))) for _ in range(2000)
    ]
    assert np.mean([part.variance for part in found]) == pytest.approx(0.02**2 / 4, rel=0.1)
    assert seed_part(np.ones((1, 5))) == (0, 1)
    assert seed_part(np.ones((3, 5))) == (0, 1)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(2, 5))
def test_groups_of_one_image_are_no_groups(seed: int, seeds: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, 60)
    predicted = np.where(random.random((seeds, 60)) < 0.8, labels, random.integers(0, classes, (seeds, 60)))
    alone = np.arange(60)
    plain, grouped = (dict(score_intervals(labels, predicted, classes, groups)) for groups in (None, alone))
    assert all(low <= high for low, high in plain.values())
    for name, interval in plain.items():
        assert grouped[name] == pytest.approx(interval, abs=0.03)
    leads = (predicted == labels).sum(0) - random.integers(0, seeds + 1, 60)
    assert sign_flips(leads, alone) == sign_flips(leads)
    assert images_needed(leads, alone, 0.05) == images_needed(leads, None, 0.05)
    values = (predicted == labels) * 1.0
    assert difference_reach(values, 1 - values, alone) == pytest.approx(difference_reach(values, 1 - values))


def test_copies_of_an_image_in_its_group_teach_nothing() -> None:
    random = np.random.default_rng(0)
    images, copies = 120, 10
    labels = random.integers(0, 2, images)
    first, second = (np.where(random.random(images) < skill, labels, 1 - labels) for skill in (0.9, 0.8))
    leads = (first == labels).astype(np.int64) - (second == labels)
    groups = np.repeat(np.arange(images), copies)
    many = [np.repeat(values, copies) for values in (labels, first, leads)]

    once = dict(score_intervals(labels, first[None], 2))
    copied = dict(score_intervals(many[0], many[1][None], 2, groups))
    naive = dict(score_intervals(many[0], many[1][None], 2))
    for name, (low, high) in once.items():
        assert copied[name] == pytest.approx((low, high), abs=0.1 * (high - low))
        assert naive[name][1] - naive[name][0] < 0.4 * (high - low)
    assert sign_flips(many[2], groups) == pytest.approx(sign_flips(leads), rel=1e-9)
    assert sign_flips(many[2]) < 0.01 < 0.2 < sign_flips(leads)
    one, other = (first == labels)[None] * 1.0, (second == labels)[None] * 1.0
    assert difference_reach(np.repeat(one, copies, 1), np.repeat(other, copies, 1), groups) == pytest.approx(
        difference_reach(one, other)
    )
    needed = images_needed(leads, None, 0.05)
    assert needed
    assert images_needed(many[2], groups, 0.05) == pytest.approx(copies * needed, abs=copies)
    assert effective_images((many[1] == many[0])[None], groups) == pytest.approx(images, rel=0.03)


def test_seeds_that_agree_are_no_further_images() -> None:
    random = np.random.default_rng(0)
    once = random.random((1, 300)) < 0.8
    assert effective_images(once) == 300
    assert effective_images(np.repeat(once, 3, axis=0)) == pytest.approx(300, rel=0.01)
    # seeds whose mistakes have nothing in common say almost as much as other images
    assert 650 < effective_images(random.random((3, 300)) < 0.8) <= 900


def test_nothing_is_claimed_where_nothing_varies() -> None:
    labels = np.array([0, 1] * 10)
    perfect = dict(score_intervals(labels, labels[None], 2))
    assert set(perfect.values()) == {wilson(1, 20)}
    assert set(dict(score_intervals(labels, 1 - labels[None], 2)).values()) == {wilson(0, 20)}
    pairs = np.arange(20) // 2
    assert set(dict(score_intervals(labels, labels[None], 2, pairs)).values()) == {wilson(1, 10)}
    same = np.zeros(20)
    assert difference_reach(same[None], same[None]) == pytest.approx(wilson(0, 20)[1])
    assert difference_reach(same[None] + 1, same[None]) == pytest.approx(wilson(0, 20)[1])
    assert images_needed(np.array([1, 1]), None, 0.05) == 6  # of 2 heads in a row, p is 0.5; of 6, 0.03
    assert sign_flips(same.astype(np.int64)) == mcnemar(0, 0) == 1
    assert images_needed(same.astype(np.int64), None, 0.05) is None
    # a single group says nothing of other groups
    one_group = np.zeros(20, dtype=np.int64)
    wrong = labels[None] ^ (np.arange(20) < 3)
    assert set(dict(score_intervals(labels, wrong, 2, one_group)).values()) == {(0, 1)}
    assert difference_reach(np.arange(20)[None] / 20, same[None], one_group) == np.inf
    assert sign_flips(np.ones(20, dtype=np.int64), one_group) == 1


def test_intervals_of_scores_hold_the_truth_as_often_as_stated() -> None:
    random = np.random.default_rng(0)
    chances = np.array([[0.54, 0.06], [0.02, 0.38]])
    right, support, predicted = np.diag(chances), chances.sum(1), chances.sum(0)
    precision, recall = right / predicted, right / support
    truth = {
        "accuracy": right.sum(),
        "precision": precision @ support,
        "recall": recall @ support,
        "f1": (2 * precision * recall / (precision + recall)) @ support,
        "balanced_accuracy": recall.mean(),
        "macro_f1": (2 * precision * recall / (precision + recall)).mean(),
    }
    studies, held = 600, dict.fromkeys(truth, 0)
    for _ in range(studies):
        labels, guessed = np.divmod(random.choice(4, 300, p=chances.ravel()), 2)
        for name, (low, high) in score_intervals(labels, guessed[None], 2):
            held[name] += low <= truth[name] <= high
    for name, number in held.items():
        assert number / studies == pytest.approx(0.95, abs=0.025), name


@pytest.mark.parametrize("groups", [None, 30])
def test_intervals_and_tests_of_a_difference_hold_what_they_state(groups: int | None) -> None:
    random = np.random.default_rng(1)
    studies, held, alarms = 600, 0, 0
    for _ in range(studies):
        if groups is None:
            leads, codes, truth = random.choice([1, -1, 0], 300, p=[0.06, 0.03, 0.91]), None, 0.03
            alike = random.choice([1, -1, 0], 300, p=[0.05, 0.05, 0.9])
        else:
            # each group is easier for one of the arms
            codes = np.repeat(np.arange(groups), random.integers(4, 13, groups))
            lean = random.normal(size=groups)[codes]
            draw = random.random(len(codes))
            leads = (draw < 0.02 + 0.1 * (lean > 0)).astype(np.int64) - (draw > 1 - 0.04 * (lean < 0))
            truth = 0.07 - 0.02
            alike = (draw < 0.1 * (lean > 0)).astype(np.int64) - (draw > 1 - 0.1 * (lean < 0))
        far = difference_reach(leads[None] / 1, np.zeros((1, len(leads))), codes)
        held += abs(leads.mean() - truth) <= far
        alarms += sign_flips(alike, codes) < 0.05
    assert held / studies == pytest.approx(0.95, abs=0.025)
    assert 0.01 < alarms / studies < 0.065


@pytest.mark.parametrize("kind", ["even", "geometric", "pareto"])
def test_grouped_accuracy_holds_the_truth_however_uneven_the_groups(kind: str) -> None:
    random = np.random.default_rng(5)
    studies, held = 500, 0
    for _ in range(studies):
        if kind == "pareto":
            sizes = np.ceil(2 * (random.pareto(1.2, 40) + 1)).clip(max=2000).astype(int)
        else:
            sizes = np.full(50, 8) if kind == "even" else np.ceil(4 * 1.15 ** np.arange(25)).astype(int)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        latent = np.sqrt(0.3) * random.normal(size=len(sizes))[groups] + np.sqrt(0.7) * random.normal(size=len(groups))
        right = (latent < stats.norm.ppf(0.85))[None]
        low, high = wilson(float(right.mean()), effective_images(right, groups))
        held += low <= 0.85 <= high
    assert 0.925 < held / studies < 0.995


def test_the_images_asked_for_tell_the_arms_apart_four_times_in_five() -> None:
    random = np.random.default_rng(2)
    shares = [0.06, 0.03, 0.91]
    needed = images_needed(np.repeat([1, -1, 0], [60, 30, 910]), None, 0.05)
    assert needed is not None
    # Connor's formula by hand
    assert needed == np.ceil(((1.959964 * 0.3 + 0.841621 * np.sqrt(0.0891)) / 0.03) ** 2)
    found = random.multinomial(needed, shares, 1000)
    shown = np.mean([mcnemar(int(first), int(second)) < 0.05 for first, second, _ in found])
    assert shown == pytest.approx(0.8, abs=0.04)
