"""Calibration against a loop over images and against torch's own minimiser."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from thaw.scoring.calibration import calibrate, cross_fitted_gains, error_by_chance, fit_temperature, reliability


def answers(images: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the probabilities of some logits, and those logits times `sharpness`."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (images, classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(classes, p=row) for row in p])
    return labels, (logits * sharpness).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5])
def test_error_is_that_of_a_loop_over_images(classes: int) -> None:
    labels, logits = answers(300, classes, 2.0)
    error, bins = reliability(labels, logits)
    p = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    held: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(p, labels, strict=True):
        place = next(place for place in range(15) if row.max() <= (place + 1) / 15 + 1e-12)
        held[place].append((row.max(), row.argmax() == label))
    expected = sum(abs(sum(sure for sure, _ in own) - sum(right for _, right in own)) for own in held) / 300
    assert error == pytest.approx(expected)
    assert [it.count for it in bins] == [len(own) for own in held]
    assert all((it.accuracy is None) == (it.count == 0) for it in bins)


def test_temperature_is_the_one_that_torch_finds() -> None:
    labels, logits = answers(500, 4, 3.0)
    log_temperature = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = torch.from_numpy(logits).double() / log_temperature.exp()
        loss = functional.cross_entropy(scaled, torch.from_numpy(labels))
        loss.backward()
        return loss

    optimizer.step(step)
    assert fit_temperature(labels, logits) == pytest.approx(float(log_temperature.exp().detach()), rel=1e-3)


def test_overconfidence_is_corrected_by_validation_alone() -> None:
    labels, logits = answers(2000, 3, 3.0)
    found = calibrate(labels, logits, answers(2000, 3, 3.0, seed=1))
    assert found.temperature == pytest.approx(3, rel=0.15)
    assert found.ece_after < 0.04 < 0.1 < found.ece
    without = calibrate(labels, logits, None)
    assert without.temperature is without.ece_after is None
    assert "train.rehearse" in without.reason
    assert without.ece == found.ece


def test_an_arm_that_is_always_right_on_validation_gets_no_temperature() -> None:
    labels = np.array([0, 1, 0, 1])
    logits = np.array([[9, 0], [0, 9], [9, 0], [0, 9]], dtype=np.float32)
    found = calibrate(labels, logits, (labels, logits))
    assert found.temperature is found.ece_after is None
    assert found.reason.startswith("all 4 validation images are classified correctly")
    assert calibrate(labels, logits, (1 - labels, logits)).temperature > 1


def test_a_temperature_that_does_not_help_other_images_is_left_out() -> None:
    labels, logits = answers(400, 3, 1.0)
    few, few_logits = answers(30, 3, 1.0, seed=4)
    found = calibrate(labels, logits, (few, few_logits))
    assert found.temperature is found.ece_after is None
    assert found.gain_interval[0] <= 0
    assert found.reason.startswith("it does not clearly lower the log loss")


def test_gain_is_that_of_images_which_did_not_choose() -> None:
    labels, logits = answers(60, 3, 3.0)
    gain, (low, high) = cross_fitted_gains(labels, logits)
    folds = np.random.default_rng(0).permutation(60) % 5
    gains = np.empty(60)
    for fold in range(5):
        out = folds == fold
        temperature = fit_temperature(labels[~out], logits[~out])
        for row in np.flatnonzero(out):
            losses = [
                functional.cross_entropy(torch.from_numpy(logits[row] / by), torch.tensor(labels[row]))
                for by in (1, temperature)
            ]
            gains[row] = losses[0] - losses[1]
    assert gain == pytest.approx(gains.mean(), rel=1e-3)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 59, gains.mean(), stats.sem(gains)), rel=1e-3)
    # copies in one group are left out together, and teach nothing
    groups = np.repeat(np.arange(60), 4)
    copied = cross_fitted_gains(np.repeat(labels, 4), np.repeat(logits, 4, 0), groups)
    assert copied[0] == pytest.approx(gain, rel=1e-3)
    assert copied[1] == pytest.approx((low, high), rel=1e-3)
    assert cross_fitted_gains(labels, logits, np.zeros(60, np.int64)) is None
    alone = calibrate(labels, logits, (labels, logits), np.zeros(60, np.int64))
    assert alone.temperature is None
    assert "all of one group" in alone.reason


@pytest.mark.parametrize("classes", [2, 5])
def test_error_by_chance_is_that_of_true_confidence(classes: int) -> None:
    _, logits = answers(200, classes, 1.0)
    mean, limit = error_by_chance(logits)
    p = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    random, errors = np.random.default_rng(5), []
    for _ in range(300):
        labels = np.array([random.choice(classes, p=row / row.sum()) for row in p])
        errors.append(reliability(labels, logits)[0])
    assert mean == pytest.approx(np.mean(errors), abs=0.004)
    assert limit == pytest.approx(np.quantile(errors, 0.95), abs=0.01)
    assert calibrate(labels, logits, None).ece_by_chance == mean
