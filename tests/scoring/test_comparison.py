"""Pairs of arms are compared on the same images, and the rule names the cheapest that is not clearly worse."""

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from thaw.scoring.comparison import Comparison, compare, cost_steps, recommend
from thaw.scoring.statistics import sign_flips


def right(*shares: float, seeds: int = 1, images: int = 400) -> dict[str, np.ndarray]:
    """Which images each arm labels correctly, (seeds, images): mistakes fall on images at random."""
    random = np.random.default_rng(1)
    return {name: random.random((seeds, images)) < share for name, share in zip("abcde", shares, strict=False)}


def test_one_seed_is_the_exact_mcnemar_test_with_holms_correction() -> None:
    arms = right(0.93, 0.92, 0.8)
    found = compare(arms)
    assert [it.arms for it in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for it in found:
        first, second = (arms[name][0] for name in it.arms)
        table = [[0, (first & ~second).sum()], [(second & ~first).sum(), 0]]
        assert it.p == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert it.test == "exact McNemar"
        assert it.difference == pytest.approx(first.mean() - second.mean())
        assert it.interval[0] < it.difference < it.interval[1]
        assert it.images_needed is None if it.p_holm < 0.05 else it.images_needed > 400
    assert {it.p_holm < 0.05 for it in found} == {True, False}
    assert [it.p_holm for it in found] == pytest.approx(multipletests([it.p for it in found], method="holm")[1])


def test_several_seeds_are_summed_on_each_image() -> None:
    arms = right(0.9, 0.8, seeds=3)
    (found,) = compare(arms)
    leads = arms["a"].sum(0) - arms["b"].sum(0)
    assert found.test == "image permutation"
    assert found.p == sign_flips(leads)
    assert found.difference == pytest.approx(arms["a"].mean() - arms["b"].mean())
    assert found.interval[0] < found.difference < found.interval[1]
    # the same model three times is no more evidence than once
    once = {name: of[:1] for name, of in arms.items()}
    thrice = {name: np.repeat(of[:1], 3, axis=0) for name, of in arms.items()}
    assert compare(thrice)[0].p == pytest.approx(compare(once)[0].p)
    assert compare(thrice)[0].interval == pytest.approx(compare(once)[0].interval)


def test_groups_are_flipped_whole() -> None:
    arms, groups = right(0.9, 0.8), np.arange(400) // 20
    (found,) = compare(arms, groups)
    assert found.test == "group permutation"
    assert found.p == sign_flips(arms["a"][0].astype(int) - arms["b"][0], groups)


def test_a_single_arm_has_no_comparison() -> None:
    assert compare(right(0.9)) == []
    assert recommend("a", {"a": 0.9}, {"a": 10}, []) == "a"


def comparison(first: str, second: str, p: float) -> Comparison:
    return Comparison(
        arms=(first, second),
        difference=0.0,
        interval=(0.0, 0.0),
        p=p,
        p_holm=p,
        test="exact McNemar",
        groups=None,
        p_least=0.0,
        images_needed=None,
    )


@pytest.mark.parametrize(
    ("p_head", "p_tail", "named"),
    [(0.001, 0.2, "tail"), (0.05, 0.2, "head"), (0.001, 0.049, "all"), (0.4, 0.01, "head")],
)
def test_the_rule(p_head: float, p_tail: float, named: str) -> None:
    found = [comparison("head", "all", p_head), comparison("all", "tail", p_tail), comparison("head", "tail", 0.9)]
    accuracy = {"head": 0.9, "tail": 0.93, "all": 0.94}
    assert recommend("all", accuracy, {"head": 10, "tail": 100, "all": 1000}, found) == named


@pytest.mark.parametrize(("groups", "arms", "named"), [(5, 2, "all"), (6, 2, "head"), (7, 3, "head"), (6, 3, "all")])
def test_with_too_few_groups_for_any_difference_the_best_is_named(groups: int, arms: int, named: str) -> None:
    codes = np.repeat(np.arange(groups), 10)
    always = np.ones((1, len(codes)), np.bool_)
    right = {"all": always, "head": ~always, "tail": always}
    right["head"][0, :10] = True  # level in one group, so that no p is small enough to tell the arms apart
    right = dict(list(right.items())[:arms])
    found = compare(right, codes)
    accuracy = {arm: float(of_arm.mean()) for arm, of_arm in right.items()}
    assert {it.groups for it in found} == {groups}
    assert recommend("all", accuracy, {"head": 1, "tail": 2, "all": 3}, found) == named


def test_of_equally_cheap_arms_the_more_accurate_is_named() -> None:
    found = [comparison("scratch", "all", 0.3)]
    assert recommend("all", {"scratch": 0.9, "all": 0.91}, {"scratch": 10, "all": 10}, found) == "all"


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
