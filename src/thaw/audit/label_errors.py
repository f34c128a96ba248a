"""Label errors: images to which a probe trained on the other images gives another class."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from thaw.cache.arrays import Chunks, Field, cached
from thaw.compute.batches import consecutive, read_rows
from thaw.data.splits import Splits
from thaw.progress import stage
from thaw.record import Record
from thaw.scoring.statistics import Codes
from thaw.training.features import Features

Part = tuple[Codes, Codes]
P = NDArray[np.float64]
Values = Callable[[Codes], NDArray[np.float32]]

FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Inverse strengths of regularisation that the probe chooses from."""
ITERATIONS = 100
PROBED, CHUNK = 10_000, 1024
"""Images that a probe is trained on at most, drawn at random, and that are read at a time: however many images there
are, no more memory is needed."""
METHOD = (
    "out-of-fold probabilities of a logistic regression on the pretrained backbone's features, of "
    f"{PROBED:,} images at most; a label counts as an error where another class is more probable, and at least as "
    "probable as it is on average for images with that label"
)
GROUPED = "; mean of a probe that holds whole groups out and one that holds single images out"


@dataclass(frozen=True)
class LabelErrors:
    """Every image whose label could be checked, the most probable errors first."""

    rows: Codes
    """(n,) of the data set."""
    suggested: Codes
    """(n,) the most probable class other than the label."""
    p_label: P
    """(n,) probability of the label."""
    p_suggested: P
    """(n,) probability of the suggestion."""
    score: P
    """(n,) from 0, the label is certainly wrong, to 1."""
    errors: NDArray[np.bool_]
    """(n,) whether the label counts as an error: the suggestion is as probable as that class usually is."""
    method: str
    """How the labels were checked."""

    def summary(self) -> "LabelErrorSummary":
        """Return what `metrics.json` holds of them."""
        return LabelErrorSummary(count=int(self.errors.sum()), checked=len(self.rows), method=self.method)


class LabelErrorSummary(Record):
    """How many labels are probably wrong; the images are in `label_errors.parquet`."""

    count: int
    """Labels that are probably wrong."""
    checked: int
    """Labels that could be checked."""
    method: str
    """How they were checked."""


def cached_label_errors(features: Features, labels: Codes, groups: Codes | None, splits: Splits) -> LabelErrors:
    """Return `find_label_errors` with train and validation as the pool; the probabilities may come from the cache."""
    pool, test = np.union1d(splits.train, splits.validation), splits.test

    def make(_: int) -> Chunks:
        yield (out_of_fold(features.values, labels, groups, pool, test),), {}

    key, fields = features.key_with(labels, groups, pool, test), [Field((int(labels.max()) + 1,), "float64")]
    return rank(cached("label-errors", key, len(labels), fields, make).arrays[0], labels, groups is not None)


def find_label_errors(
    features: NDArray[np.float32], labels: Codes, groups: Codes | None, pool: Codes, test: Codes
) -> LabelErrors:
    """Find the images whose labels disagree with the other images: see `out_of_fold` and `rank`."""
    return rank(out_of_fold(features, labels, groups, pool, test), labels, groups is not None)


def out_of_fold(features: NDArray[np.float32], labels: Codes, groups: Codes | None, pool: Codes, test: Codes) -> P:
    """Compute each image's class probabilities, (n, classes), by probes that did not see its label; NaN where none can.

    `features` (n, d), `labels` (n,) and `groups` (n,) of all images; `pool` the rows of train and validation, each
    judged by a probe that was trained on the rest of them, and `test` those of test, whose labels train nothing. Where
    there are groups, two probes' probabilities are averaged: without whole groups, so that an error common to
    a group does not confirm itself, and without single images, so that their near duplicates can tell. Images of a
    class that no other image or group has are not checked.
    """
    mean, scale = _moments(features)

    def values(rows: Codes) -> NDArray[np.float32]:
        """The features of some rows, brought to mean 0 and deviation 1 over all images."""
        found = read_rows(features, rows)
        found -= mean
        found /= scale
        return found

    kinds = [_folds(labels[pool], None)] + ([] if groups is None else [_folds(labels[pool], groups[pool])])
    found = []
    with stage("label errors", sum(map(len, kinds)) + len(kinds), "probes") as advance:
        for kind in kinds:
            parts = [(pool[train], pool[held]) for train, held in kind]
            found.append(_probe(values, labels, parts, (pool, test), advance))
    return np.asarray(np.mean(found, axis=0))


def _probe(values: Values, labels: Codes, folds: list[Part], last: Part, advance: Callable[[int], None]) -> P:
    """(n, classes) probabilities by probes that did not see the image; NaN where there is no such probe.

    Each part is the rows to train on and the rows held out. The strength of regularisation is the most likely one on
    the first of the folds that can be judged; the `last` part, the test set's, has no say in it.
    """
    p = np.full((len(labels), int(labels.max()) + 1), np.nan)
    strength: float | None = None
    for whole, held in [*folds, last]:
        train = whole
        if len(whole) > PROBED:
            train = np.sort(np.random.default_rng(0).choice(whole, PROBED, replace=False))
        classes = np.unique(labels[train])
        rows = held[np.isin(labels[held], classes)]
        if len(classes) > 1 and len(rows) and (strength is not None or held is not last[1]):
            tried = STRENGTHS if strength is None else (strength,)
            known = values(train)
            probes = [_fit(known, labels[train], way) for way in tried]
            told = [[probe.predict_proba(few) for probe in probes] for few in map(values, consecutive(rows, CHUNK))]
            ways = [np.concatenate(parts) for parts in zip(*told, strict=True)]
            own = np.searchsorted(classes, labels[rows])
            best = int(np.argmin([-np.log(np.maximum(way[np.arange(len(rows)), own], 1e-12)).mean() for way in ways]))
            strength = tried[best]
            p[rows] = 0
            p[rows[:, None], classes] = ways[best]
        advance(1)
    return p


def _moments(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (d,) and standard deviation (d,), at least 1e-6, of features (n, d)."""
    sums = np.zeros((2, features.shape[1]))
    for rows in consecutive(np.arange(len(features)), CHUNK):
        wide = read_rows(features, rows).astype(np.float64)
        sums += [wide.sum(0), np.square(wide).sum(0)]
    mean, square = sums / len(features)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return mean.astype(np.float32), np.maximum(deviation, 1e-6).astype(np.float32)


def _fit(values: NDArray[np.float32], labels: Codes, strength: float) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a probe that has not quite converged ranks as well
        return LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3).fit(values, labels)


def _folds(labels: Codes, groups: Codes | None) -> list[Part]:
    """Training and held-out places of each fold, stratified by label; whole groups are held out where there are any."""
    folds = min(FOLDS, int(np.bincount(labels).max()), len(labels) if groups is None else len(np.unique(groups)))
    if folds < 2:
        return []
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer images than folds
        split: list[Part] = list(kind(folds, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels, groups))
    return [(train, held) for train, held in split if len(held)]


def rank(p: P, labels: Codes, grouped: bool) -> LabelErrors:
    """Rank the images by how clearly `out_of_fold` probabilities disagree with their labels.

    The score is the margin between the label's and the suggestion's probability, scaled to 0 to 1, and the rule for
    `errors` that of Northcutt, Jiang and Chuang, Confident learning (JAIR 70, 2021).
    """
    rows = np.flatnonzero(~np.isnan(p).any(1))
    p, own = p[rows], labels[rows]
    places = np.arange(len(rows))
    p_label = p[places, own]
    thresholds = np.array([p_label[own == code].mean() if (own == code).any() else 1.0 for code in range(p.shape[1])])
    others = p.copy()
    others[places, own] = -1
    suggested = others.argmax(1)
    p_suggested = p[places, suggested]
    errors = (p_suggested > p_label) & (p_suggested >= thresholds[suggested])
    score = (1 + p_label - p_suggested) / 2
    order = np.argsort(score, kind="stable")
    method = METHOD + (GROUPED if grouped else "")
    return LabelErrors(
        rows[order], suggested[order], p_label[order], p_suggested[order], score[order], errors[order], method
    )
