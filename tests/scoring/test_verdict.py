"""The verdict names the best arm, a cheaper one only where it is shown to do as well, and costs little to follow."""

import numpy as np
import pytest
from scipy import stats

from thaw.scoring.verdict import judge


def models(
    accuracy: np.ndarray, images: int, seeds: int, deviation: float, random: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which images the models of each arm classify correctly, and their true accuracies, (arms, seeds).

    Probit: an image is as hard for all arms, harder for one of them, or for one of its seeds.
    """
    true = (accuracy[:, None] + deviation * random.normal(size=(len(accuracy), seeds))).clip(0.01, 0.99)
    hard, own = random.normal(size=images), random.normal(size=(len(accuracy), 1, images))
    latent = np.sqrt(0.7) * hard + np.sqrt(0.25) * own + np.sqrt(0.05) * random.normal(size=(*true.shape, images))
    right = (latent < stats.norm.ppf(true)[:, :, None]) * 1.0
    return {f"arm{place}": of for place, of in enumerate(right)}, true


def test_the_best_arm_is_named_with_how_likely_it_is_the_best() -> None:
    values, _ = models(np.array([0.8, 0.9, 0.85]), 2000, 1, 0, np.random.default_rng(0))
    found = judge(values, None, 0.01)
    assert found.best == found.recommended == "arm1"
    assert found.arms["arm1"].probability_best > 0.99
    assert sum(it.probability_best for it in found.arms.values()) == pytest.approx(1)
    assert found.expected == pytest.approx(found.arms["arm1"].score, abs=1e-3)
    assert found.arms["arm0"].regret == pytest.approx(found.arms["arm0"].loss, rel=0.05)
    assert found.arms["arm0"].loss_interval[0] > 0.01


def test_resampling_images_is_the_bootstrap() -> None:
    random = np.random.default_rng(1)
    values, _ = models(np.array([0.85, 0.86, 0.86, 0.84]), 400, 1, 0, random)
    found = judge(values, None, 0.01)
    table = np.stack([of[0] for of in values.values()])
    drawn = np.stack([table[:, random.integers(0, 400, 400)].mean(1) for _ in range(4000)])
    top = drawn.argmax(1)
    for place, it in enumerate(found.arms.values()):
        assert it.probability_best == pytest.approx((top == place).mean(), abs=0.04)
        assert it.regret == pytest.approx((drawn.max(1) - drawn[:, place]).mean(), abs=0.001)
    flattery = (drawn.max(1) - table.mean(1)[top]).mean()
    assert found.arms[found.best].score - found.expected == pytest.approx(flattery, abs=0.001)


def test_a_cheaper_arm_is_named_only_where_it_is_shown_to_do_as_well() -> None:
    random = np.random.default_rng(2)
    costs = {"arm0": 1.0, "arm1": 10.0}
    few, _ = models(np.array([0.9, 0.902]), 300, 1, 0, random)
    many, _ = models(np.array([0.9, 0.902]), 50_000, 1, 0, random)
    undecided, shown = judge(few, costs, 0.01), judge(many, costs, 0.01)
    assert undecided.recommended == undecided.best
    assert (shown.best, shown.recommended) == ("arm1", "arm0")
    assert shown.arms["arm0"].within
    assert shown.arms["arm0"].loss_interval[1] < 0.01
    assert judge(many, None, 0.01).recommended == "arm1"
    assert judge(many, costs, 0.0).recommended == "arm1"
    # one that has learned nothing is not recommended for being cheap
    assert judge(many, costs, 0.01, many["arm1"][0] - 0.001).recommended == "arm1"


def test_the_images_asked_for_would_settle_it() -> None:
    best, cheap = np.ones((1, 500)), np.ones((1, 500))
    best[0, :20], cheap[0, 20:44] = 0, 0  # 4.8 points that only the best has, and 4 that only the cheap one has
    values, costs = {"best": best, "cheap": cheap}, {"best": 2.0, "cheap": 1.0}
    found = judge(values, costs, 0.02).arms["cheap"]
    assert found.loss == pytest.approx(0.008)
    assert found.loss_interval[0] < 0.02 < found.loss_interval[1]
    # (z + z)^2 variance / (margin - loss)^2, for 80% of a one-sided test at 5%
    lead = best[0] - cheap[0]
    assert found.images_needed == np.ceil((1.644854 + 0.841621) ** 2 * lead.var(ddof=1) / 0.012**2)
    random, shown = np.random.default_rng(3), []
    for _ in range(100):
        rows = random.integers(0, 500, found.images_needed)
        again = judge({arm: of[:, rows] for arm, of in values.items()}, costs, 0.02)
        shown.append(again.recommended == "cheap")
    assert 0.7 < np.mean(shown) < 0.9
    # shown to lose more, or less, there is nothing to settle
    assert judge(values, costs, 0.05).arms["cheap"].images_needed is None
    assert judge(values, costs, 0.008).arms["cheap"].images_needed is None  # the loss is the margin


def test_seeds_that_scatter_make_no_arm_sure() -> None:
    random = np.random.default_rng(4)
    one = [judge(models(np.full(2, 0.85), 4000, 1, 0.02, random)[0], None, 0.01) for _ in range(60)]
    three = [judge(models(np.full(2, 0.85), 4000, 3, 0.02, random)[0], None, 0.01) for _ in range(60)]
    sure = [np.mean([found.arms[found.best].probability_best > 0.95 for found in of]) for of in (one, three)]
    assert sure[0] > 0.5  # this model is better, and on other images stays so
    assert sure[1] < 0.3  # this way of training may not be


@pytest.mark.parametrize("arms", [2, 5])
@pytest.mark.parametrize("gap", [0.0, 0.02, 0.05])
def test_following_the_verdict_costs_less_than_half_a_point(gap: float, arms: int) -> None:
    """The whole table is printed by benchmarks/verdict.py."""
    random = np.random.default_rng(5)
    truth = np.linspace(0.9 - gap, 0.9, arms)
    costs = {f"arm{place}": float(place) for place in range(arms)}
    lost = []
    for _ in range(60):
        values, true = models(truth, 800, 1, 0, random)
        own = {arm: of.mean() for arm, of in zip(values, true, strict=True)}
        found = judge(values, costs, 0.01)
        lost.append([max(own.values()) - own[arm] for arm in (found.recommended, found.best, "arm0")])
    verdict, score, cheapest = np.mean(lost, axis=0)
    assert verdict < 0.005
    assert verdict <= min(score, cheapest) + 0.001
