"""What each image adds to a metric has the metric as its mean, and scikit-learn's derivative by the image's weight."""

import numpy as np
import pytest
from sklearn import metrics

from thaw.recipe import Metric
from thaw.scoring.contributions import contributions
from thaw.scoring.measure import measure
from thaw.scoring.metrics import log_probabilities


def weighted(metric: Metric, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> float:
    """The metric of weighted images, by scikit-learn; more is better."""
    classes, predicted = logits.shape[1], logits.argmax(1)
    probabilities = np.exp(log_probabilities(logits))
    if metric == "accuracy":
        return float(metrics.accuracy_score(labels, predicted, sample_weight=weights))
    if metric == "balanced_accuracy":
        return float(metrics.balanced_accuracy_score(labels, predicted, sample_weight=weights))
    if metric == "macro_f1":
        return float(metrics.f1_score(labels, predicted, average="macro", sample_weight=weights))
    if metric == "log_loss":
        return -float(metrics.log_loss(labels, probabilities, sample_weight=weights, labels=range(classes)))
    one = metrics.roc_auc_score if metric == "auroc" else metrics.average_precision_score
    of = [1] if classes == 2 else range(classes)
    return float(np.mean([one(labels == code, probabilities[:, code], sample_weight=weights) for code in of]))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    "metric", ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc", "average_precision"]
)
def test_the_mean_is_the_metric_and_each_part_its_derivative(metric: Metric, classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.choice(classes, 60, p=np.array([3, 1, 1, 1])[:classes] / np.array([3, 1, 1, 1])[:classes].sum())
    logits = (random.normal(size=(60, classes)) + 1.5 * np.eye(classes)[labels]).astype(np.float32)
    logits[:20] = np.round(logits[:20])  # ties
    found = contributions(metric, labels, logits)
    whole = measure(metric, labels, logits)
    assert found.shape == (60,)
    assert found.mean() == pytest.approx(whole, rel=1e-6)
    step = 1e-4
    for image in range(0, 60, 7):
        more, less = np.ones(60), np.ones(60)
        more[image], less[image] = 1 + step, 1 - step
        slope = (weighted(metric, labels, logits, more) - weighted(metric, labels, logits, less)) / (2 * step)
        assert (found[image] - whole) / 60 == pytest.approx(slope, abs=2e-6)


def test_answers_that_are_all_alike_rank_nothing() -> None:
    labels, alike = np.array([0, 1, 1, 0, 1]), np.tile(np.float32([0.2, 0.8]), (5, 1))
    assert contributions("auroc", labels, alike) == pytest.approx(np.full(5, 0.5))
    assert contributions("average_precision", labels, alike).mean() == pytest.approx(0.6)
