"""Agreement against a count by hand."""

import numpy as np
import pytest

from thaw.scoring.agreement import PairAgreement, kappa, measure_agreement


def test_agreement_is_as_counted_by_hand() -> None:
    labels = np.array([0, 1, 2, 0, 1])
    predicted = {"a": np.array([0, 1, 0, 0, 2]), "b": np.array([0, 0, 1, 0, 2]), "c": np.array([0, 1, 2, 1, 2])}
    found = measure_agreement(labels, predicted)
    assert found.all_right == 1
    assert found.none_right == 1
    assert found.only_right == {"a": 0, "b": 0, "c": 1}
    assert found.only_wrong == {"a": 0, "b": 1, "c": 1}
    assert found.pairs[0] == PairAgreement(arms=("a", "b"), same=0.6, kappa=found.pairs[0].kappa)
    assert found.pairs[0].kappa == pytest.approx(2 / 7)


def test_kappa_is_0_by_chance_and_1_for_equal_predictions() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 3, (2, 20_000))
    assert kappa(one, other) == pytest.approx(0, abs=0.02)
    assert kappa(one, one) == kappa(np.zeros(5, int), np.zeros(5, int)) == 1
    assert kappa(np.zeros(5, int), np.ones(5, int)) == 0
