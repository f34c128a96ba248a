"""Pairs of arms are compared on the same images, and with other seeds where there are several."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from thaw.scoring.comparison import compare, cost_steps
from thaw.scoring.statistics import sign_flips


def right(*shares: float, seeds: int = 1, images: int = 400) -> dict[str, np.ndarray]:
    """Which images each arm labels correctly, (seeds, images): mistakes fall on images at random."""
    random = np.random.default_rng(1)
    return {name: (random.random((seeds, images)) < share) * 1.0 for name, share in zip("abcde", shares, strict=False)}


def test_one_seed_is_the_exact_mcnemar_test_with_holms_correction() -> None:
    arms = right(0.93, 0.92, 0.8)
    found = compare(arms)
    assert [it.arms for it in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for it in found:
        first, second = (arms[name][0] == 1 for name in it.arms)
        table = [[0, (first & ~second).sum()], [(second & ~first).sum(), 0]]
        assert it.p == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert it.test == "exact McNemar"
        assert it.difference == pytest.approx(first.mean() - second.mean())
        assert it.interval[0] < it.difference < it.interval[1]
        assert it.images_needed is None if it.p_holm < 0.05 else it.images_needed > 400
    assert {it.p_holm < 0.05 for it in found} == {True, False}
    assert [it.p_holm for it in found] == pytest.approx(multipletests([it.p for it in found], method="holm")[1])


def test_several_seeds_count_as_seeds_and_as_images() -> None:
    arms = right(0.9, 0.8, seeds=3)
    (found,) = compare(arms)
    assert found.test == "t"
    assert found.difference == pytest.approx(arms["a"].mean() - arms["b"].mean())
    assert found.interval[0] < found.difference < found.interval[1]
    # the same model three times is no more evidence than once
    once = {name: of[:1] for name, of in arms.items()}
    thrice = {name: np.repeat(of[:1], 3, axis=0) for name, of in arms.items()}
    assert compare(thrice)[0].p == pytest.approx(stats.ttest_rel(once["a"][0], once["b"][0]).pvalue)
    assert compare(thrice)[0].interval == pytest.approx(compare(once)[0].interval)


@pytest.mark.parametrize("seeds", [2, 3])
def test_two_ways_that_only_seeds_tell_apart_are_told_apart_as_rarely_as_stated(seeds: int) -> None:
    random = np.random.default_rng(2)
    alarms = 0
    for _ in range(400):
        accuracy = 0.85 + 0.02 * random.normal(size=(2, seeds, 1))
        shared = np.sqrt(0.8) * random.normal(size=1000) + np.sqrt(0.2) * random.normal(size=(2, seeds, 1000))
        (found,) = compare(dict(zip("ab", (shared < stats.norm.ppf(accuracy)) * 1.0, strict=True)))
        alarms += found.p < 0.05
    assert 0.015 < alarms / 400 < 0.08


def test_groups_are_flipped_whole() -> None:
    arms, groups = right(0.9, 0.8), np.arange(400) // 20
    (found,) = compare(arms, groups)
    assert found.test == "group permutation"
    assert found.p == sign_flips((arms["a"][0] - arms["b"][0]).astype(int), groups)


def test_a_single_arm_has_no_comparison() -> None:
    assert compare(right(0.9)) == []


def test_cost_steps_climb_from_the_cheapest_arm() -> None:
    accuracy = {"all": 0.94, "head": 0.9, "worse": 0.89, "tail": 0.92}
    trained = {"all": 1000, "head": 10, "worse": 50, "tail": 110}
    seconds = {"all": 2.0, "head": 1.0, "worse": 1.0, "tail": 5.0}
    first, second = cost_steps(accuracy, trained, seconds)
    assert (first.cheaper, first.better, second.cheaper, second.better) == ("head", "tail", "tail", "all")
    assert first.points == pytest.approx(2)
    assert (first.parameters, first.seconds) == (100, 4)
    assert (first.parameters_per_point, first.seconds_per_point) == pytest.approx((50, 2))
    assert second.seconds_per_point == pytest.approx(-1.5)
    assert cost_steps({"a": 0.9}, {"a": 1}, {"a": 1.0}) == []
