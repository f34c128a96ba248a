"""Variances by where they come from, on simulated studies; the corrected resampled test, beside its definition."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from thaw.scoring.repeats import resampled, variances


@pytest.mark.parametrize("draws", [2, 5, 30])
def test_the_corrected_test_is_that_of_scikit_learns_documentation(draws: int) -> None:
    """Its page on the statistical comparison of models has these lines."""
    differences = np.random.default_rng(draws).normal(0.02, 0.01, draws)
    train, test = 850, 150

    corrected_var = np.var(differences, ddof=1) * (1 / draws + test / train)
    t_stat = np.mean(differences) / np.sqrt(corrected_var)
    p = 2 * stats.t.sf(np.abs(t_stat), draws - 1)
    low, high = stats.t.interval(0.95, draws - 1, loc=np.mean(differences), scale=np.sqrt(corrected_var))

    found = resampled(differences.tolist(), test / train)
    assert found.mean == pytest.approx(differences.mean(), rel=1e-12)
    assert found.p == pytest.approx(p, rel=1e-9)
    assert found.interval == pytest.approx((low, high), rel=1e-9)


def test_a_computation_by_hand() -> None:
    """Of 1, 2, 3, 4, 5 points: the mean is 3, the variance 2.5, and (1/5 + 1/5) of it 1, whose root is 1."""
    found = resampled([0.01, 0.02, 0.03, 0.04, 0.05], 0.2)
    assert found.interval == pytest.approx((0.03 - 0.0277645, 0.03 + 0.0277645), abs=1e-6)  # t is 2.77645 with 4
    assert found.p == pytest.approx(0.039942, abs=1e-6)  # 2 * (1 - CDF of t at 3)


def test_differences_that_are_all_alike() -> None:
    assert resampled([0.0] * 3, 0.2).p == 1
    assert resampled([0.25] * 3, 0.2).interval == (0.25, 0.25)


def simulated(random: np.random.Generator, draws: int, seeds: int, images: int) -> list[NDArray[np.float64]]:
    """Contributions of an arm: split 0.04, seed 0.03, image 1.0 and single answers 0.5, as standard deviations."""
    found = []
    for draw in range(draws):
        trained = seeds if draw == 0 else 1
        split, seed = random.normal(0.0, 0.04), random.normal(0, 0.03, (trained, 1))
        found.append(0.8 + split + seed + random.normal(0, 1.0, images) + random.normal(0, 0.5, (trained, images)))
    return found


@pytest.mark.parametrize("pair", [False, True])
def test_known_components_are_found_on_average(pair: bool) -> None:
    random, images, arms = np.random.default_rng(1), 2000, 2 if pair else 1
    found = [
        variances([simulated(random, 20, 4, images) for _ in range(arms)], [None] * 20, other_images=True)
        for _ in range(150)
    ]
    seeds, image, split = arms * (0.03**2 + 0.5**2 / images), arms * 1.0 / images, arms * 0.04**2
    assert np.mean([one.images for one in found]) == pytest.approx(image, rel=0.02)
    assert np.mean([one.seeds for one in found if one.seeds is not None]) == pytest.approx(seeds, rel=0.15)
    assert np.mean([one.splits for one in found]) == pytest.approx(split, rel=0.15)
    assert np.mean([one.total for one in found]) == pytest.approx(seeds + image + split, rel=0.1)


def test_with_one_seed_its_part_is_in_that_of_the_split() -> None:
    random = np.random.default_rng(2)
    found = [variances([simulated(random, 20, 1, 1000)], [None] * 20, other_images=True) for _ in range(150)]
    assert all(one.seeds is None for one in found)
    assert np.mean([one.splits for one in found]) == pytest.approx(0.04**2 + 0.03**2, rel=0.15)


def test_images_that_stay_are_no_part_of_what_the_draws_do() -> None:
    """A test set of its own for every draw, or one for all: the variance of the means is larger by its part."""
    random = np.random.default_rng(3)
    image = random.normal(0, 1, 200)
    values = [image[None] + random.normal(0, 0.02) for _ in range(10)]
    found = variances([values], [None] * 10, other_images=False)
    assert found.splits == pytest.approx(found.total, rel=1e-9)
    assert found.images == pytest.approx(image.var(ddof=1) / 200, rel=1e-9)


def test_images_of_a_group_count_together() -> None:
    random = np.random.default_rng(4)
    codes = np.repeat(np.arange(20), 10)
    values = [np.repeat(random.normal(size=20), 10)[None] for _ in range(8)]
    alone = variances([values], [None] * 8, other_images=True)
    grouped = variances([values], [codes] * 8, other_images=True)
    assert grouped.images == pytest.approx(alone.images * 10 * 199 / 190, rel=1e-9)  # n - 1 of 200 for g - 1 of 20
