"""The leak: a linear probe's accuracy on test images as they are split, and with copies kept together."""

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from thaw.cache.budget import cache_folder
from thaw.cache.checkpoint import cached_json
from thaw.compute.batches import read_rows
from thaw.data.splits import Splits, draw_groups
from thaw.record import Record
from thaw.scoring.statistics import LEVEL, Interval
from thaw.training.features import Features

Rows = NDArray[np.int64]

DRAWS = 5
"""Times that the splits are drawn with copies kept together, over which the accuracy is averaged."""
PROBED = 10_000
"""Images that the probe uses at most; of more, whole clusters are drawn."""
METHOD = (
    "logistic regression on the backbone's features; the splits as they are against {draws} draws of the same "
    "sizes in which groups and copies stay together; interval over clusters"
)


class LeakEstimate(Record):
    """How much copies of test images in the other splits change the test accuracy of a linear probe."""

    accuracy: float
    """With the images as they are split."""
    accuracy_grouped: float
    """With all copies kept together in one split."""
    effect: float
    """The difference of the two."""
    interval: Interval
    """95% interval of the difference."""
    method: str
    """How the probe was trained and compared."""


def cached_leak_estimate(features: Features, labels: Rows, splits: Splits, clusters: Rows) -> LeakEstimate | None:
    """Return `estimate_leak`, from the cache or computed now."""

    def make() -> dict[str, object] | None:
        found = estimate_leak(features.values, labels, splits, clusters)
        return None if found is None else found.model_dump(mode="json")

    key = features.key_with(labels, clusters, *splits.rows().values())
    found = cached_json(cache_folder() / "leaks", key, make)
    return None if found is None else LeakEstimate.model_validate(found)


def estimate_leak(features: NDArray[np.float32], labels: Rows, splits: Splits, clusters: Rows) -> LeakEstimate | None:
    """Estimate how much test accuracy changes when copies stay in one split.

    The probe's settings are fixed, whatever the test images say. The interval is the linearised one of the difference
    of two ratios over clusters (Korn and Graubard, Analysis of Health Surveys, 1999), the probes taken as they are.

    Parameters
    ----------
    features, labels
        (n, d) and (n,)
    clusters
        (n,) codes; images with the same one stay together.

    Returns
    -------
    LeakEstimate or None
        None where the images cannot be split with copies kept together.
    """
    part = np.full(len(labels), -1)
    for code, rows in enumerate(splits.rows().values()):
        part[rows] = code
    used = _whole_clusters(np.flatnonzero(part >= 0), clusters)
    if not len(used):
        return None
    labels, part, clusters = labels[used], part[used], np.unique(clusters[used], return_inverse=True)[1]
    inputs = read_rows(features, used)
    as_split = _right(inputs, labels, part)
    together = [_right(inputs, labels, drawn) for drawn in _drawn(labels, part, clusters)]
    if as_split is None or not together or any(right is None for right in together):
        return None
    count = int(clusters.max()) + 1
    first, first_moves = _mean(*as_split, clusters, count)
    tests, right = (np.concatenate(found) for found in zip(*filter(None, together), strict=True))
    second, second_moves = _mean(tests, right, clusters, count)
    moves = first_moves - second_moves
    deviation = float(np.sqrt(count / max(count - 1, 1) * (moves @ moves)))
    reach = deviation * float(stats.t.ppf((1 + LEVEL) / 2, max(count - 1, 1)))
    effect = first - second
    return LeakEstimate(
        accuracy=first,
        accuracy_grouped=second,
        effect=effect,
        interval=(effect - reach, effect + reach),
        method=METHOD.format(draws=len(together)),
    )


def _whole_clusters(rows: Rows, clusters: Rows) -> Rows:
    """At most `PROBED` rows, drawn by whole clusters, in order."""
    if len(rows) <= PROBED:
        return rows
    codes, sizes = np.unique(clusters[rows], return_counts=True)
    order = np.random.default_rng(0).permutation(len(codes))
    kept = codes[order[np.cumsum(sizes[order]) <= PROBED]]
    return rows[np.isin(clusters[rows], kept)]


def _drawn(labels: Rows, part: Rows, clusters: Rows) -> Iterator[Rows]:
    """For each draw the part, as in `part`, of each row: sizes as in `part`, clusters whole."""
    counts = [int((part == code).sum()) for code in (1, 2)]
    for seed in range(DRAWS):
        # 0 validation, 1 test and 2 the rest to 1, 2 and 0
        yield (draw_groups(labels, clusters, counts, np.random.default_rng(seed)) + 1) % 3


def _right(inputs: NDArray[np.float32], labels: Rows, part: Rows) -> tuple[Rows, NDArray[np.bool_]] | None:
    """The rows of the test part, and on which of them a probe of the train part is right; None where it cannot be."""
    train, test = np.flatnonzero(part == 0), np.flatnonzero(part == 2)
    if not len(test) or len(np.unique(labels[train])) < 2:
        return None
    known, asked = inputs[train], inputs[test]
    mean, scale = known.mean(0), np.maximum(known.std(0), 1e-6)
    for values in (known, asked):  # in place: known may be most of what a probe is allowed
        values -= mean
        values /= scale
    probe = LogisticRegression(C=0.1, tol=1e-3, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that stops early is as good for comparing
        probe.fit(known, labels[train])
    return test, probe.predict(asked) == labels[test]


def _mean(rows: Rows, right: NDArray[np.bool_], clusters: Rows, count: int) -> tuple[float, NDArray[np.float64]]:
    """The fraction of right answers, and by how much each cluster moves it."""
    mean = float(right.mean())
    return mean, np.bincount(clusters[rows], right - mean, minlength=count) / len(rows)
