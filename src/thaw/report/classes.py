"""How an arm does on each class, and which classes it takes for each other, from `metrics.json`."""

from collections import Counter
from typing import NamedTuple

from thaw.report.figures import MAX_NAMED
from thaw.run.metrics import Metrics
from thaw.scoring.intervals import ClassScores

WHOLE = 1000
"""Classes of the recommended arm that the page lists; of the other arms it lists `PART` where there are more."""
PART = 100
PAIRS = 15
"""Confused pairs that the page lists of an arm."""


class Confused(NamedTuple):
    """Images of one class that an arm takes for another, over all its seeds."""

    true: str
    predicted: str
    images: int
    fraction: float
    """Of the images of the true class."""
    reverse: int
    """Images of the other class taken for this one."""


def many(metrics: Metrics) -> bool:
    """Whether there are more classes than a confusion matrix has room for."""
    return len(metrics.classes) > MAX_NAMED


def class_rows(metrics: Metrics, arm: str) -> list[tuple[str, ClassScores]]:
    """Return the classes that the page lists of an arm: in order where they are few, else the lowest F1 first."""
    rows = list(zip(metrics.classes, metrics.arms[arm].classes, strict=True))
    if not many(metrics):
        return rows
    rows.sort(key=lambda row: (row[1].f1, -row[1].support))
    return rows[: WHOLE if arm == metrics.recommended else PART]


def confused_pairs(metrics: Metrics, arm: str) -> list[Confused]:
    """Return the pairs of classes that an arm confuses most often, the worst first."""
    cells: Counter[tuple[int, int]] = Counter()
    support: Counter[int] = Counter()
    for trial in metrics.arms[arm].trials:
        for true, predicted, images in trial.test.confusion:
            cells[true, predicted] += images
            support[true] += images
    wrong = [(pair, images) for pair, images in cells.items() if pair[0] != pair[1] and images]
    wrong.sort(key=lambda one: (-one[1], -one[1] / support[one[0][0]], one[0]))
    return [
        Confused(
            metrics.classes[true],
            metrics.classes[predicted],
            images,
            images / support[true],
            cells[predicted, true],
        )
        for (true, predicted), images in wrong[:PAIRS]
    ]
