"""Curves of two classes lie on scikit-learn's, with the point at which the model answers."""

import numpy as np
import pytest
from sklearn import metrics

from thaw.scoring.curves import POINTS, trace_curves


def test_curves_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(3000) < 0.2).astype(np.int64)
    margin = random.normal(size=3000) + 2 * labels - 1.5
    logits = np.stack([-margin / 2, margin / 2], 1).astype(np.float32)
    found = trace_curves(labels, logits)
    assert found is not None
    assert len(found.roc) <= POINTS
    assert len(found.precision_recall) <= POINTS
    fall_out, recall, _ = metrics.roc_curve(labels, margin)
    x, y = np.array(found.roc).T
    assert set(found.roc) <= set(zip(fall_out.tolist(), recall.tolist(), strict=True))
    precision, recall, _ = metrics.precision_recall_curve(labels, margin)
    assert set(found.precision_recall) <= set(zip(recall.tolist(), precision.tolist(), strict=True))
    assert np.trapezoid(y, x) == pytest.approx(metrics.roc_auc_score(labels, margin), abs=0.003)
    assert found.roc[0] == (0, 0)
    assert found.roc[-1] == (1, 1)
    predicted = margin > 0
    assert found.precision_recall_at_half == pytest.approx(
        (metrics.recall_score(labels, predicted), metrics.precision_score(labels, predicted))
    )
    assert found.roc_at_half == pytest.approx((predicted[labels == 0].mean(), metrics.recall_score(labels, predicted)))


def test_other_than_two_classes_have_none() -> None:
    assert trace_curves(np.array([0, 1, 2]), np.eye(3, dtype=np.float32)) is None
    assert trace_curves(np.array([0, 0]), np.eye(2, dtype=np.float32)) is None
    never = trace_curves(np.array([0, 1]), np.array([[2, 0], [1, 0]], np.float32))
    assert never is not None
    assert never.precision_recall_at_half == (0, 0)
