"""Label curves: means, and intervals that are those of the tables."""

import numpy as np
import pytest
from scipy import stats

from thaw.scoring.contributions import contributions
from thaw.scoring.intervals import all_intervals, positive_interval
from thaw.scoring.labels import Share, label_curves, score_interval


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_accuracy_are_those_of_the_tables(seeds: int, grouped: bool) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    logits = [
        random.normal(size=(300, 3)).astype(np.float32) + np.eye(3, dtype=np.float32)[labels] for _ in range(seeds)
    ]
    groups = np.arange(300) // 4 if grouped else None
    values = np.stack([contributions("accuracy", labels, of_seed) for of_seed in logits])
    assert score_interval("accuracy", values, groups) == all_intervals(labels, logits, groups).accuracy


def test_intervals_of_a_mean_are_students_and_end_where_the_metric_does() -> None:
    values = np.random.default_rng(0).exponential(size=(1, 50))
    mean, error = values.mean(), stats.sem(values[0])
    expected = -np.array(stats.t.interval(0.95, 49, mean, error))[::-1]
    assert score_interval("log_loss", -values) == pytest.approx(expected)
    low, high = positive_interval(values[0]) or (0, 0)
    assert -np.array(score_interval("log_loss", -values))[::-1] == pytest.approx([low, high], rel=0.1)
    assert score_interval("auroc", np.array([[0.9, 1.0, 1.1, 0.97]]))[1] == 1.0
    assert score_interval("auroc", np.array([[0.9, 1.0]]), np.zeros(2, np.int64)) == (0.0, 1.0)


def test_the_gain_is_paired_by_image() -> None:
    random = np.random.default_rng(0)
    whole = {arm: (random.random((1, 400)) < 0.8) * 1.0 for arm in ("head", "all")}
    half = {arm: of * (random.random((1, 400)) < 0.9) for arm, of in whole.items()}
    shares = [
        Share(0.5, 60, half, {"head": 1.0, "all": 2.0}),
        Share(1.0, 120, whole, {"head": 2.0, "all": 4.0}),
    ]
    found = label_curves("accuracy", shares)
    for arm, curve in found.arms.items():
        lead = (whole[arm] - half[arm])[0]
        assert curve.gain == pytest.approx(lead.mean())
        assert curve.gain_interval == pytest.approx(stats.t.interval(0.95, 399, lead.mean(), stats.sem(lead)))
        assert [(one.images, one.fraction) for one in curve.points] == [(60, 0.5), (120, 1.0)]
        assert [one.score for one in curve.points] == [half[arm].mean(), whole[arm].mean()]
        assert curve.points[0].scores == [half[arm].mean()]
    assert found.arms["all"].points[1].seconds == 4.0
