"""Probes fitted side by side, against scikit-learn's one by one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from thaw.scoring import linear
from thaw.scoring.linear import Fitted, Probe, chunks_of, fit, moments

CPU = torch.device("cpu")
STRENGTHS = (1e-3, 1e-1, 1.0)


def made_up(images: int, classes: int, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Features whose scales differ a thousandfold, far from zero, and labels that they half tell."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, images)
    features = random.normal(size=(images, width)) + random.normal(size=(classes, width))[labels]
    return (features * np.geomspace(0.1, 100, width) + 50).astype(np.float32), labels


def fitted(features: np.ndarray, labels: np.ndarray, parts: list[np.ndarray]) -> list[Fitted]:
    chunks = chunks_of(features, CPU)
    shapes = moments(chunks, parts, len(labels))
    probes = [Probe(part, strength, *shape) for part, strength, shape in zip(parts, STRENGTHS, shapes, strict=True)]
    return fit(chunks, labels, probes)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("held", [1 << 30, 0])
def test_each_probe_is_scikit_learns(classes: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "TOLERANCE", 1e-6)
    monkeypatch.setattr(linear, "CHUNK", 100)
    monkeypatch.setattr(linear, "HELD_BYTES", held)
    features, labels = made_up(730, classes)
    parts = [np.arange(0, 730, 2), np.flatnonzero(labels != classes - 1) if classes > 2 else np.arange(500)]
    parts.append(np.arange(300, 730))
    for part, strength, found in zip(parts, STRENGTHS, fitted(features, labels, parts), strict=True):
        trained = features[part].astype(np.float64)
        mean, deviation = trained.mean(0), trained.std(0)
        known = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        known.fit((trained - mean) / deviation, labels[part])
        expected = np.zeros((730, classes))
        expected[:, known.classes_] = known.predict_proba((features - mean) / deviation)
        np.testing.assert_allclose(found.probabilities(features, np.arange(730)), expected, atol=1e-3)


def test_a_probe_does_not_depend_on_those_beside_it() -> None:
    features, labels = made_up(300, 3)
    parts = [np.arange(100), np.arange(100, 300), np.arange(0, 300, 3)]
    together = fitted(features, labels, parts)
    chunks = chunks_of(features, CPU)
    for part, strength, one in zip(parts, STRENGTHS, together, strict=True):
        (shape,) = moments(chunks, [part], 300)
        (alone,) = fit(chunks, labels, [Probe(part, strength, *shape)])
        rows = np.arange(300)
        np.testing.assert_allclose(alone.probabilities(features, rows), one.probabilities(features, rows), atol=1e-3)


def test_mean_and_deviation_of_each_part() -> None:
    features, _ = made_up(1300, 2)
    features[:, 3] = 7
    parts = [np.arange(1300), np.arange(5, 900)]
    for part, (mean, deviation) in zip(parts, moments(chunks_of(features, CPU), parts, 1300), strict=True):
        exact = features[part].astype(np.float64)
        np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-5)
        np.testing.assert_allclose(deviation, np.maximum(exact.std(0), 1e-6), rtol=1e-4)
