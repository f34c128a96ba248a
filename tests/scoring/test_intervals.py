"""Linearised intervals: against textbook ones, by coverage, with groups and seeds."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from thaw.scoring.intervals import all_intervals, area_interval, class_scores, positive_interval
from thaw.scoring.ranking import rank_class
from thaw.scoring.statistics import wilson


def guesses(images: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    return labels, np.where(random.random(images) < 0.8, labels, random.integers(0, classes, images))


@pytest.mark.parametrize("classes", [2, 6, 500])
def test_classes_are_scored_as_scikit_learn_does(classes: int) -> None:
    labels, predicted = guesses(900, classes)
    found = class_scores(labels, predicted[None], classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    assert [one.support for one in found] == support.tolist()
    assert [one.precision for one in found] == pytest.approx(precision.tolist())
    assert [one.recall for one in found] == pytest.approx(recall.tolist())
    assert [one.f1 for one in found] == pytest.approx(f1.tolist())
    for code, one in enumerate(found):
        assert one.recall_interval == pytest.approx(wilson(recall[code], support[code]))
        assert one.precision_interval == pytest.approx(wilson(precision[code], (predicted == code).sum()))
        assert one.f1_interval[0] <= one.f1 <= one.f1_interval[1]


def test_copies_of_an_image_in_its_group_teach_nothing_of_a_class() -> None:
    labels, predicted = guesses(300, 3)
    once = class_scores(labels, predicted[None], 3)
    groups = np.repeat(np.arange(300), 10)
    copied = class_scores(np.repeat(labels, 10), np.repeat(predicted, 10)[None], 3, groups)
    seeds = class_scores(labels, np.stack([predicted] * 3), 3)
    for one, many, agreeing in zip(once, copied, seeds, strict=True):
        for name in ("precision_interval", "recall_interval", "f1_interval"):
            assert getattr(many, name) == pytest.approx(getattr(one, name), abs=0.008)
            assert getattr(agreeing, name) == pytest.approx(getattr(one, name))
    alone = class_scores(labels, predicted[None], 3, np.zeros(300, np.int64))
    assert {one.f1_interval for one in alone} == {(0.0, 1.0)}


def test_a_class_without_images_or_answers_says_nothing() -> None:
    found = class_scores(np.array([0, 0, 1]), np.array([[0, 0, 0]]), 3)
    assert found[2].recall_interval == found[2].precision_interval == found[1].precision_interval == (0, 1)
    assert found[1].recall_interval == wilson(0, 1)
    assert found[0].recall_interval == wilson(1, 2)


@pytest.mark.parametrize("groups", [None, 60])
def test_intervals_of_classes_hold_the_truth_as_often_as_stated(groups: int | None) -> None:
    random = np.random.default_rng(3)
    # of three classes; a group is easy or hard as a whole
    truth = {"precision": 0.8, "recall": 0.8, "f1": 0.8}
    held, studies = dict.fromkeys(truth, 0), 400
    for _ in range(studies):
        labels = random.integers(0, 3, 300)
        codes = None if groups is None else np.unique(random.integers(0, groups, 300), return_inverse=True)[1]
        skill = 0.8 if codes is None else np.where(random.random(groups) < 0.5, 0.7, 0.9)[codes]
        predicted = np.where(random.random(300) < skill, labels, (labels + random.integers(1, 3, 300)) % 3)
        one = class_scores(labels, predicted[None], 3, codes)[0]
        for name, value in truth.items():
            low, high = getattr(one, f"{name}_interval")
            held[name] += low <= value <= high
    for name, number in held.items():
        assert number / studies == pytest.approx(0.955, abs=0.025), name


def test_auroc_has_delongs_variance_and_areas_hold_the_truth() -> None:
    random = np.random.default_rng(1)
    studies, held, truth = 300, 0, stats.norm.cdf(1.5 / np.sqrt(2))
    for _ in range(studies):
        positive = random.random(200) < 0.3
        scores = random.normal(size=200) + 1.5 * positive
        found = rank_class(positive, scores)
        low, high = area_interval(found.auroc, found.auroc_influence, int(positive.sum()))
        held += low <= truth <= high
        assert 0 < low < found.auroc < high < 1
    assert held / studies == pytest.approx(0.945, abs=0.03)
    resampled = []
    for _ in range(1000):
        rows = random.integers(0, 200, 200)
        resampled.append(roc_auc_score(positive[rows], scores[rows]))
    assert np.sqrt(found.auroc_influence @ found.auroc_influence) == pytest.approx(np.std(resampled), rel=0.1)


def test_losses_have_students_interval_on_a_logarithmic_scale() -> None:
    values = np.random.default_rng(2).gamma(1, 0.3, 400)
    low, high = positive_interval(values) or (0, 0)
    assert low * high == pytest.approx(values.mean() ** 2)
    plain = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(plain, rel=0.02)
    assert positive_interval(np.repeat(values, 5), np.repeat(np.arange(400), 5)) == pytest.approx((low, high))
    assert positive_interval(values, np.zeros(400, np.int64)) is None


def test_perfect_answers_and_single_groups() -> None:
    labels = np.array([0, 1] * 10)
    logits = 8 * np.eye(2, dtype=np.float32)[labels]
    found = all_intervals(labels, [logits])
    assert found.auroc == found.average_precision == wilson(1, 10)
    assert found.accuracy == wilson(1, 20)
    assert found.top5 is None
    one_group = all_intervals(labels, [logits], np.zeros(20, np.int64))
    assert one_group.auroc == one_group.accuracy == (0, 1)
    assert one_group.log_loss is one_group.brier is None
    many = np.arange(40) % 20
    of_many = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    right = [label in np.argsort(row)[-5:] for label, row in zip(many, of_many, strict=True)]
    assert all_intervals(many, [of_many]).top5 == wilson(float(np.mean(right)), 40)
