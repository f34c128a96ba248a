"""Baselines beside scikit-learn's dummy classifier, and by drawing answers many times."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.dummy import DummyClassifier

from thaw.scoring.baselines import baselines, imbalance


@pytest.mark.parametrize("classes", [2, 6, 500])
def test_the_commonest_class_scores_as_scikit_learns_dummy(classes: int) -> None:
    random = np.random.default_rng(0)
    chances = random.dirichlet(np.ones(classes))
    training, test = (
        np.concatenate([np.arange(classes), random.choice(classes, number, p=chances)]) for number in (3000, 900)
    )
    found = baselines(
        [str(code) for code in range(classes)], *(np.bincount(of, minlength=classes) for of in (training, test))
    )
    dummy = DummyClassifier(strategy="most_frequent").fit(training[:, None], training)
    predicted, always = dummy.predict(test[:, None]), found.commonest
    weighted = metrics.precision_recall_fscore_support(test, predicted, average="weighted", zero_division=0)
    assert found.commonest_class == str(predicted[0])
    assert (always.precision, always.recall, always.f1) == pytest.approx(weighted[:3])
    assert always.accuracy == pytest.approx(metrics.accuracy_score(test, predicted))
    assert always.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(test, predicted))
    assert always.macro_f1 == pytest.approx(metrics.f1_score(test, predicted, average="macro", zero_division=0))
    assert always.log_loss is None
    second = slice(None) if classes > 2 else 1
    certain = dummy.predict_proba(test[:, None])
    assert always.brier == pytest.approx(metrics.brier_score_loss(test, certain[:, second], labels=range(classes)))

    prior = DummyClassifier(strategy="prior").fit(training[:, None], training).predict_proba(test[:, None])
    often = found.frequencies
    assert often.log_loss == pytest.approx(metrics.log_loss(test, prior))
    assert often.brier == pytest.approx(metrics.brier_score_loss(test, prior[:, second], labels=range(classes)))
    one_hot = np.eye(classes)[test][:, second]
    assert often.auroc == metrics.roc_auc_score(one_hot, prior[:, second])
    assert often.average_precision == pytest.approx(metrics.average_precision_score(one_hot, prior[:, second]))
    if classes > 6:
        commonest = np.argsort(-np.bincount(training), kind="stable")[:5]
        assert often.top5 == always.top5 == pytest.approx(np.isin(test, commonest).mean())
    else:
        assert often.top5 is always.top5 is None


def test_frequencies_score_as_answers_drawn_many_times() -> None:
    random = np.random.default_rng(1)
    training, test = np.array([600, 300, 100]), np.array([3000, 1000, 1000])
    found = baselines("abc", training, test).frequencies
    labels = np.repeat(np.arange(3), test)
    drawn = [random.choice(3, len(labels), p=training / 1000) for _ in range(40)]
    names = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "macro_f1": lambda *pair: metrics.f1_score(*pair, average="macro"),
        "precision": lambda *pair: metrics.precision_score(*pair, average="weighted"),
        "f1": lambda *pair: metrics.f1_score(*pair, average="weighted"),
    }
    for name, measured in names.items():
        assert getattr(found, name) == pytest.approx(np.mean([measured(labels, one) for one in drawn]), abs=0.003), name


def test_imbalance_is_said_of_rare_classes_only() -> None:
    told = imbalance(["no", "yes"], np.array([977, 23]))
    assert told == "always answering 'no' is right on 97.7%, and 'yes' has 23 of 1,000 images (2.3%)"
    assert not imbalance(["a", "b"], np.array([60, 40]))
    assert not imbalance([str(code) for code in range(50)], np.full(50, 10))
    assert "'c' has 30 of 1,000" in imbalance(["a", "b", "c"], np.array([500, 470, 30]))
