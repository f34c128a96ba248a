"""The probe that leaves each image out, against scikit-learn's and against fits to the others, one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from thaw.training.ridge import fit_ridge


def problem(n: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features with scales and means of their own, one of them constant; three classes; seven groups."""
    random = np.random.default_rng(n)
    features = (random.normal(size=(n, width)) * random.uniform(0.1, 9, width) + random.normal(size=width)).astype("f4")
    features[:, 0] = 2.5
    return features, random.integers(0, 3, n), random.permutation(np.arange(n) % 7)


def standardised(features: NDArray[np.float32]) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    deviation = values.std(0)
    return np.asarray((values - values.mean(0)) / np.where(deviation > 0, deviation, 1))


@pytest.mark.parametrize(("n", "width"), [(40, 6), (30, 80)], ids=["many images", "many features"])
def test_the_probe_is_scikit_learns(n: int, width: int) -> None:
    features, labels, _ = problem(n, width)
    found = fit_ridge(features, labels, 3)
    expected = Ridge(alpha=found.penalty).fit(standardised(features), np.eye(3)[labels])
    np.testing.assert_allclose(
        features @ found.weight.T + found.bias, expected.predict(standardised(features)), atol=1e-8
    )


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("n", "width"), [(40, 6), (30, 80)], ids=["many images", "many features"])
def test_leaving_out_equals_fits_without(n: int, width: int, grouped: bool) -> None:
    features, labels, groups = problem(n, width)
    for penalty in (1e-3, 1.0):
        found = fit_ridge(features, labels, 3, groups if grouped else None, (penalty,))
        values, wanted = standardised(features), np.eye(3)[labels]
        for of in np.unique(groups) if grouped else np.arange(n):
            out = (groups if grouped else np.arange(n)) == of
            without = Ridge(alpha=found.penalty).fit(values[~out], wanted[~out])
            np.testing.assert_allclose(found.left_out[out], without.predict(values[out]), atol=1e-8)
        assert found.error == pytest.approx(np.square(found.left_out - wanted).mean())


def test_the_penalty_is_the_one_that_leaves_out_best() -> None:
    features, labels, groups = problem(60, 20)
    tried = [fit_ridge(features, labels, 3, groups, (penalty,)) for penalty in (1e-3, 1e-1, 1e1)]
    best = fit_ridge(features, labels, 3, groups, (1e-3, 1e-1, 1e1))
    assert best.penalty == min(tried, key=lambda one: one.error).penalty


def test_a_probe_of_nothing_says_the_commonest_class() -> None:
    labels = np.array([0, 1, 1, 1, 0, 1])
    found = fit_ridge(np.ones((6, 2), np.float32), labels, 2)
    assert found.left_out.argmax(1).tolist() == [1] * 6
    np.testing.assert_allclose(found.bias, [1 / 3, 2 / 3])
