"""Scores equal scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from thaw.scoring.metrics import answer_scores, log_probabilities, score


def answers(classes: int, images: int, seed: int = 0) -> tuple[Any, Any]:
    """Labels with every class among them, unevenly, and logits that often agree."""
    random = np.random.default_rng(seed)
    chances = random.dirichlet(np.ones(classes))
    labels = np.concatenate([np.arange(classes), random.choice(classes, images, p=chances)])
    logits = random.normal(size=(len(labels), classes)) + 2.5 * np.eye(classes)[labels]
    return labels, logits.astype(np.float32)


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
    matrix = sklearn.confusion_matrix(labels, predicted, labels=names)
    assert found.confusion == [(*cell, matrix[cell]) for cell in np.ndindex(matrix.shape) if matrix[cell]]
    probabilities = np.exp(log_probabilities(logits))
    assert found.log_loss == pytest.approx(sklearn.log_loss(labels, probabilities, labels=names), rel=1e-6)
    macro = sklearn.f1_score(labels, predicted, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(macro)


@pytest.mark.parametrize("classes", [2, 6, 500])
def test_every_score_is_scikit_learns(classes: int) -> None:
    labels, logits = answers(classes, 700)
    found = score(labels, logits)
    chances, predicted = np.exp(log_probabilities(logits)), logits.argmax(1)
    second = slice(None) if classes > 2 else 1
    one_hot = np.eye(classes)[labels][:, second]
    expected = {
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "precision": sklearn.precision_score(labels, predicted, average="weighted", zero_division=0),
        "recall": sklearn.recall_score(labels, predicted, average="weighted"),
        "f1": sklearn.f1_score(labels, predicted, average="weighted"),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn.f1_score(labels, predicted, average="macro"),
        "log_loss": sklearn.log_loss(labels, chances),
        "brier": sklearn.brier_score_loss(labels, chances[:, second], labels=range(classes)),
        "auroc": sklearn.roc_auc_score(one_hot, chances[:, second], average="macro"),
        "average_precision": sklearn.average_precision_score(one_hot, chances[:, second], average="macro"),
    }
    if classes > 6:
        expected["top5"] = sklearn.top_k_accuracy_score(labels, logits, k=5)
    else:
        assert found.top5 is None
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_scores_of_images_are_those_of_a_loop(classes: int, seed: int) -> None:
    labels, logits = answers(classes, 20, seed)
    found = answer_scores(labels, logits)
    for row, (label, chances) in enumerate(zip(labels, np.exp(log_probabilities(logits)), strict=True)):
        assert found.log_loss[row] == pytest.approx(-np.log(chances[label]))
        squared = sum((chance - (code == label)) ** 2 for code, chance in enumerate(chances))
        assert found.brier[row] == pytest.approx(squared / (2 if classes == 2 else 1))
        if classes >= 10:
            assert found.top5 is not None
            assert found.top5[row] == (label in np.argsort(chances)[-5:])
