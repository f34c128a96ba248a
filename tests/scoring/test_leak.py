"""The effect of a leak: nothing where there is none, what was planted where there is, with its coverage."""

import numpy as np
import pytest

from thaw.audit import leak
from thaw.audit.leak import estimate_leak
from thaw.data.splits import Splits


def drawn(seed: int, clusters: int = 60, each: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and clusters: labels hardly follow from features, but copies share both."""
    random = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), each)
    labels = random.permutation(np.arange(clusters) % 2)[cluster]
    centres = random.normal(size=(clusters, 80))
    centres[:, 0] += labels[::each]
    features = centres[cluster] + 0.05 * random.normal(size=(len(cluster), 80))
    return features.astype(np.float32), labels, cluster


def split(part: np.ndarray) -> Splits:
    train, validation, test = (np.flatnonzero(part == code) for code in range(3))
    return Splits(train, validation, test, {})


def test_copies_that_are_split_at_random_raise_accuracy() -> None:
    features, labels, clusters = drawn(0)
    part = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [150, 30, 60]))
    found = estimate_leak(features, labels, split(part), clusters)
    assert found is not None
    assert found.accuracy > 0.9
    assert found.accuracy_grouped < 0.8
    assert found.interval[0] > 0.05
    assert found.effect == found.accuracy - found.accuracy_grouped


def test_copies_that_stay_together_change_nothing() -> None:
    inside = 0
    for seed in range(20):
        features, labels, clusters = drawn(seed)
        part = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], [37, 8, 15]))[clusters]
        found = estimate_leak(features, labels, split(part), clusters)
        assert found is not None
        inside += found.interval[0] <= 0 <= found.interval[1]
    assert inside >= 17


def test_the_interval_is_what_resampling_clusters_gives() -> None:
    random = np.random.default_rng(3)
    clusters = np.repeat(np.arange(50), 4)
    right = random.random(50)[clusters] > random.random(200)
    mean, shares = leak._mean(np.arange(200), right, clusters, 50)
    resampled = []
    for _ in range(4000):
        counts = np.bincount(random.integers(0, 50, 50), minlength=50)[clusters]
        resampled.append((counts * right).sum() / counts.sum())
    assert mean == right.mean()
    assert abs(np.sqrt(50 / 49 * shares @ shares) / np.std(resampled) - 1) < 0.06


def test_what_cannot_be_kept_together_has_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, _ = drawn(0)
    part = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [150, 30, 60]))
    assert estimate_leak(features, labels, split(part), np.zeros(240, np.int64)) is None
    monkeypatch.setattr(leak, "PROBED", 200)  # the one cluster is larger than a probe may see
    assert estimate_leak(features, labels, split(part), np.zeros(240, np.int64)) is None


def test_large_studies_are_probed_by_whole_clusters() -> None:
    clusters = np.repeat(np.arange(8000), 3)
    kept = leak._whole_clusters(np.arange(24000), clusters)
    assert 9_990 <= len(kept) <= 10_000
    assert (np.unique(clusters[kept], return_counts=True)[1] == 3).all()
