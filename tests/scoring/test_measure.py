"""What a search or a verdict may compare, beside scikit-learn's own."""

from typing import Any, get_args

import numpy as np
import pytest
from sklearn import metrics

from thaw.recipe import Metric
from thaw.scoring.measure import gap_error, measure
from thaw.scoring.metrics import log_probabilities


def expected(metric: str, labels: Any, logits: Any) -> float:
    chances, predicted, classes = np.exp(log_probabilities(logits)), logits.argmax(1), logits.shape[1]
    one_hot = np.eye(classes)[labels][:, 1 if classes == 2 else slice(None)]
    answers = chances[:, 1 if classes == 2 else slice(None)]
    if metric == "accuracy":
        return float(metrics.accuracy_score(labels, predicted))
    if metric == "balanced_accuracy":
        return float(metrics.balanced_accuracy_score(labels, predicted))
    if metric == "macro_f1":
        return float(metrics.f1_score(labels, predicted, average="macro", zero_division=0))
    if metric == "log_loss":
        return -float(metrics.log_loss(labels, chances))
    ranking = metrics.roc_auc_score if metric == "auroc" else metrics.average_precision_score
    return float(ranking(one_hot, answers, average="macro"))


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("classes", [2, 6])
def test_every_metric_is_scikit_learns(metric: Metric, classes: int) -> None:
    random = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), random.choice(classes, 200, p=random.dirichlet(np.ones(classes)))])
    logits = (random.normal(size=(len(labels), classes)) + 1.5 * np.eye(classes)[labels]).astype(np.float32)
    assert measure(metric, labels, logits) == pytest.approx(expected(metric, labels, logits), abs=1e-12)


@pytest.mark.parametrize("metric", get_args(Metric))
def test_classes_without_an_image_count_for_nothing(metric: Metric) -> None:
    labels = np.array([0, 0, 2, 2])
    logits = np.array([[9, 0, 0], [9, 0, 0], [0, 0, 9], [0, 0, 9]], np.float32)
    assert measure(metric, labels, logits) == pytest.approx(0 if metric == "log_loss" else 1, abs=1e-3)


def test_one_class_alone_cannot_be_ranked() -> None:
    assert measure("auroc", np.array([1, 1]), np.array([[0, 1], [1, 0]], np.float32)) == 0.5


def test_the_error_of_a_difference_is_that_of_its_images() -> None:
    """Of accuracies: the standard error of the mean of the images' differences."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 4000)
    first, second = (random.normal(size=(4000, 3)) + 2 * np.eye(3)[labels] for _ in range(2))
    gaps = (first.argmax(1) == labels).astype(float) - (second.argmax(1) == labels)
    expected = gaps.std(ddof=1) / np.sqrt(len(gaps))
    found = gap_error("accuracy", labels, first.astype(np.float32), second.astype(np.float32))
    assert found == pytest.approx(expected, rel=0.35)  # of 20 groups, 16% of error
    assert gap_error("auroc", labels, first.astype(np.float32), first.astype(np.float32)) == 0
