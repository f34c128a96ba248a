"""Agreement against scikit-learn and a count by hand."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from thaw.scoring.agreement import agree, kappa


def test_agreement_is_as_counted_by_hand() -> None:
    labels = np.array([0, 1, 2, 0, 1])
    predicted = {"a": np.array([0, 1, 0, 0, 2]), "b": np.array([0, 0, 1, 0, 2]), "c": np.array([0, 1, 2, 1, 2])}
    found = agree(labels, predicted)
    assert found["all_right"] == 1
    assert found["none_right"] == 1
    assert found["only"] == {"a": 0, "b": 0, "c": 1}
    assert found["only_wrong"] == {"a": 0, "b": 1, "c": 1}
    assert found["pairs"][0] == {"arms": ["a", "b"], "same": 0.6, "kappa": pytest.approx(2 / 7)}


def test_kappa_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for classes in (2, 3, 7):
        one = random.integers(0, classes, 200)
        other = np.where(random.random(200) < 0.6, one, random.integers(0, classes, 200))
        assert kappa(one, other) == pytest.approx(cohen_kappa_score(one, other))
    assert kappa(np.zeros(5, int), np.zeros(5, int)) == 1
