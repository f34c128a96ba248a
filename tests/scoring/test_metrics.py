"""Scores equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from thaw.scoring.metrics import log_probabilities, score


@given(st.integers(2, 6), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_scores_are_scikit_learns(classes: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.normal(size=(count, classes)).astype(np.float32) * 5
    found = score(labels, logits)
    predicted = logits.argmax(1)
    names = list(range(classes))
    scores = sklearn.precision_recall_fscore_support(
        labels, predicted, labels=names, average="weighted", zero_division=0
    )
    assert found.accuracy == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert [found.precision, found.recall, found.f1] == pytest.approx(scores[:3])
    assert np.array_equal(found.confusion, sklearn.confusion_matrix(labels, predicted, labels=names))
    probabilities = np.exp(log_probabilities(logits))
    assert found.loss == pytest.approx(sklearn.log_loss(labels, probabilities, labels=names), rel=1e-6)
