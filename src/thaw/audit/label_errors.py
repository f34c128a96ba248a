"""Label errors: images to which a probe trained on the other images gives another class."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Default
from scipy.optimize import minimize
from scipy.special import expit
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
MOST_SWAPPED = 0.5
"""The fraction of wrong labels is searched for below this; beyond it, right and wrong cannot be told apart."""
TINY = 1e-12
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
    chance: P
    """(n,) the probability that the label is wrong, see `chance_of_error`."""

    def summary(self, classes: Sequence[str], labels: Codes) -> "LabelErrorSummary":
        """Return what `metrics.json` holds of them, from the names of the classes and the label of every image."""
        own = labels[self.rows[self.errors]]
        chances = self.chance[self.errors]
        return LabelErrorSummary(
            count=len(own),
            checked=len(self.rows),
            method=self.method,
            precision=float(chances.mean()) if len(own) else None,
            classes=[
                ClassErrors(label=name, count=int((own == code).sum()), precision=float(chances[own == code].mean()))
                for code, name in enumerate(classes)
                if (own == code).any()
            ],
        )


class ClassErrors(Record):
    """Labels of one class that count as errors."""

    label: str
    """The class that they are labelled as."""
    count: int
    """How many."""
    precision: float
    """The fraction of them that is expected to be wrong indeed."""


class LabelErrorSummary(Record):
    """How many labels are probably wrong; the images are in `label_errors.parquet`, and to correct in
    `label_errors.csv`."""

    count: int
    """Labels that are probably wrong."""
    checked: int
    """Labels that could be checked."""
    method: str
    """How they were checked."""
    precision: float | None = None
    """The fraction of them that is expected to be wrong indeed, an estimate; None where there are none. The others are
    right labels of odd images."""
    classes: list[ClassErrors] = Default(default_factory=list)
    """The same for each class that has any."""


@dataclass(frozen=True)
class _Probe:
    """A fitted probe and the classes that it knows, ascending."""

    model: Any
    classes: Codes


def cached_label_errors(features: Features, labels: Codes, groups: Codes | None, splits: Splits) -> LabelErrors:
    """Return `find_label_errors` with train and validation as the pool; what the probes say may come from the cache."""
    pool, test = np.union1d(splits.train, splits.validation), splits.test

    def make(_: int) -> Chunks:
        yield suggest(out_of_fold(features.values, labels, groups, pool, test), labels), {}

    key = features.key_with(labels, groups, pool, test)
    fields = [Field((), "float64"), Field((), "int64"), Field((), "float64")]
    p_label, suggested, p_suggested = cached("suggested-labels", key, len(labels), fields, make).arrays
    return rank(p_label, suggested, p_suggested, labels, groups is not None)


def find_label_errors(
    features: NDArray[np.float32], labels: Codes, groups: Codes | None, pool: Codes, test: Codes
) -> LabelErrors:
    """Find the images whose labels disagree with the other images: see `out_of_fold`, `suggest` and `rank`."""
    return rank(*suggest(out_of_fold(features, labels, groups, pool, test), labels), labels, groups is not None)


def out_of_fold(
    features: NDArray[np.float32], labels: Codes, groups: Codes | None, pool: Codes, test: Codes
) -> Iterator[tuple[Codes, P]]:
    """Yield images that probes can judge that did not see their labels, with class probabilities, a block at a time.

    Where there are groups, two probes' probabilities are averaged: without whole groups, so that an error common to
    a group does not confirm itself, and without single images, so that their near duplicates can tell. Images of a
    class that no other image or group has are not checked.

    Parameters
    ----------
    features, labels, groups
        (n, d), (n,) and (n,) of all images.
    pool
        The rows of train and validation, each judged by a probe that was trained on the rest of them.
    test
        The rows of test, whose labels train nothing.

    Yields
    ------
    rows, p
        (rows,) and (rows, classes): at most `CHUNK` rows.
    """
    mean, scale = _moments(features)

    def values(rows: Codes) -> NDArray[np.float32]:
        """The features of some rows, brought to mean 0 and deviation 1 over all images."""
        found = read_rows(features, rows)
        found -= mean
        found /= scale
        return found

    kinds = [_folds(labels[pool], None)] + ([] if groups is None else [_folds(labels[pool], groups[pool])])
    fitted = []
    with stage("label errors", sum(map(len, kinds)) + len(kinds), "probes") as advance:
        for kind in kinds:
            parts = [(pool[train], pool[held]) for train, held in kind]
            fitted.append(_fit_probes(values, labels, parts, (pool, test), advance))
    checked = np.flatnonzero(np.all([judge >= 0 for _, judge in fitted], axis=0))
    with stage("label errors", len(checked), "images") as advance:
        for rows in consecutive(checked, CHUNK):
            p, known = np.zeros((len(rows), int(labels.max()) + 1)), values(rows)
            for probes, judge in fitted:
                for number in np.unique(judge[rows]):
                    own = np.flatnonzero(judge[rows] == number)
                    p[own[:, None], probes[number].classes] += probes[number].model.predict_proba(known[own])
            p /= len(fitted)
            yield rows, p
            advance(len(rows))


def _fit_probes(
    values: Values, labels: Codes, folds: list[Part], last: Part, advance: Callable[[int], None]
) -> tuple[list[_Probe], Codes]:
    """Probes, and (n,) the one that judges each image without having seen it; -1 where there is none.

    Each part is the rows to train on and the rows held out. The strength of regularisation is the most likely one on
    the first of the folds that can be judged; the `last` part, the test set's, has no say in it.
    """
    probes, judge = list[_Probe](), np.full(len(labels), -1)
    strength: float | None = None
    for whole, held in [*folds, last]:
        train = whole
        if len(whole) > PROBED:
            train = np.sort(np.random.default_rng(0).choice(whole, PROBED, replace=False))
        classes = np.unique(labels[train])
        rows = held[np.isin(labels[held], classes)]
        if len(classes) > 1 and len(rows) and (strength is not None or held is not last[1]):
            known = values(train)
            tried = [
                (way, _Probe(_fit(known, labels[train], way), classes))
                for way in (STRENGTHS if strength is None else (strength,))
            ]
            strength, probe = tried[0] if len(tried) == 1 else _most_likely(tried, values, labels, rows)
            judge[rows] = len(probes)
            probes.append(probe)
        advance(1)
    return probes, judge


def _most_likely(tried: list[tuple[float, _Probe]], values: Values, labels: Codes, rows: Codes) -> tuple[float, _Probe]:
    """Of strengths and their probes the ones that give the labels of some rows the highest likelihood."""
    p_label: list[list[NDArray[Any]]] = [[] for _ in tried]
    for few in consecutive(rows, CHUNK):
        known = values(few)
        for found, (_, probe) in zip(p_label, tried, strict=True):
            own = np.searchsorted(probe.classes, labels[few])
            found.append(probe.model.predict_proba(known)[np.arange(len(few)), own])
    losses = [-np.log(np.maximum(np.concatenate(found), 1e-12)).mean() for found in p_label]
    return tried[int(np.argmin(losses))]


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


def suggest(blocks: Iterable[tuple[Codes, P]], labels: Codes) -> tuple[P, Codes, P]:
    """Return the label's probability, the most probable other class and its probability, (n,) each.

    `blocks` are as `out_of_fold` yields them. The probability is NaN, and the class -1, where an image is not checked.
    """
    p_label, p_suggested = np.full((2, len(labels)), np.nan)
    suggested = np.full(len(labels), -1)
    for rows, p in blocks:
        places, own = np.arange(len(rows)), labels[rows]
        p_label[rows] = p[places, own]
        p[places, own] = -1
        suggested[rows] = p.argmax(1)
        p_suggested[rows] = p[places, suggested[rows]]
    return p_label, suggested, p_suggested


def rank(p_label: P, suggested: Codes, p_suggested: P, labels: Codes, grouped: bool) -> LabelErrors:
    """Rank the images by how clearly the probabilities of `suggest` disagree with their labels.

    The score is the margin between the label's and the suggestion's probability, scaled to 0 to 1, and the rule for
    `errors` that of Northcutt, Jiang and Chuang, Confident learning (JAIR 70, 2021).
    """
    rows = np.flatnonzero(suggested >= 0)
    p_label, suggested, p_suggested, own = p_label[rows], suggested[rows], p_suggested[rows], labels[rows]
    thresholds = np.ones(int(labels.max()) + 1)
    for same in np.split(np.argsort(own, kind="stable"), np.flatnonzero(np.diff(np.sort(own))) + 1):
        if len(same):
            thresholds[own[same[0]]] = p_label[same].mean()
    errors = (p_suggested > p_label) & (p_suggested >= thresholds[suggested])
    score = (1 + p_label - p_suggested) / 2
    order = np.argsort(score, kind="stable")
    method = METHOD + (GROUPED if grouped else "")
    return LabelErrors(
        rows[order],
        suggested[order],
        p_label[order],
        p_suggested[order],
        score[order],
        errors[order],
        method,
        chance_of_error(p_label, p_suggested, max(2, len(thresholds)))[order],
    )


def chance_of_error(p_label: P, p_suggested: P, classes: int) -> P:
    """Estimate the probability that each label is wrong.

    The true class has the probe's probabilities, raised to some power; the label is that class but for a fraction of
    images, whose label is any other class. The power, which calibrates the probe, and the fraction have the greatest
    likelihood of the labels as they are (Copas, Binary regression models for contaminated data, JRSS B 50, 1988); the
    rest is Bayes' rule. A probe that is sure of most images and contradicted on a few speaks of errors, one that is
    unsure of many of hard images.

    Parameters
    ----------
    p_label, p_suggested
        (n,) by probes that did not see the label. What is left of 1 is taken to be spread evenly over other classes.
    classes
        How many there are.
    """
    if not len(p_label):
        return np.zeros(0)
    others = max(classes - 2, 1)
    left = np.maximum(1 - p_label - p_suggested, 0) / others if classes > 2 else np.zeros(len(p_label))
    logs = np.log(np.maximum([p_label, p_suggested, left], TINY))

    def split(parameters: NDArray[np.float64]) -> tuple[P, P]:
        """The likelihood of each label, as a right one and as a wrong one."""
        power, swapped = np.exp(parameters[0]), MOST_SWAPPED * expit(parameters[1])
        label, suggested, rest = np.exp(power * (logs - logs.max(0)))
        true = label / (label + suggested + (others * rest if classes > 2 else 0))
        return (1 - swapped) * true, swapped * (1 - true) / (classes - 1)

    def loss(parameters: NDArray[np.float64]) -> float:
        return -float(np.log(np.maximum(sum(split(parameters)), TINY)).mean())

    starts = [np.array([power, swapped]) for power in (-1.0, 0.0) for swapped in (-4.0, -1.0)]
    fits = [minimize(loss, start, method="Nelder-Mead") for start in starts]
    right, wrong = split(min(fits, key=lambda fit: float(fit.fun)).x)
    chance: P = wrong / np.maximum(right + wrong, TINY)
    return chance
