"""Images whose label is probably wrong: those that a probe trained on the other images contradicts."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from thaw.progress import stage
from thaw.scoring.linear import Probe, chunks_of, fit, moments
from thaw.scoring.metrics import Scores
from thaw.scoring.statistics import Codes

Part = tuple[Codes, Codes]

CPU = torch.device("cpu")
FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Inverse strengths of regularisation that the probe chooses from."""
METHOD = (
    "out-of-fold confidence of a logistic regression on what enters the pretrained backbone's head; a label is "
    "contradicted where another class is at least as sure as it is on average for images that bear its label"
)
GROUPED = "; mean of a probe that holds whole groups out and one that holds single images out"


@dataclass(frozen=True)
class Suspects:
    """Every image that could be checked, the most suspect first."""

    rows: Codes
    """(n,) of the data set."""
    suggested: Codes
    """(n,) the most probable class other than the label."""
    p_label: Scores
    p_suggested: Scores
    score: Scores
    """(n,) from 0, the label is surely wrong, to 1."""
    contradicted: NDArray[np.bool_]
    """(n,) whether the suggestion is as sure as that class usually is."""
    method: str


def out_of_fold(
    features: NDArray[np.float32],
    labels: Codes,
    groups: Codes | None,
    pool: Codes,
    test: Codes,
    device: torch.device = CPU,
) -> Scores:
    """(n, classes) probabilities of each image's classes by a probe that did not see its label.

    `features` (n, d), `labels` (n,) and `groups` (n,) of all images; `pool` the rows of train and validation, each
    judged by a probe that was trained on the rest of them, and `test` those of test, whose labels train nothing. The
    strength of regularisation is the most likely one on the first fold. Where there are groups, two probes'
    probabilities are averaged: without whole groups, so that an error which a group shares does not vouch for itself,
    and without single images, so that their near duplicates can tell. NaN where no other image or group bears the
    class.
    """
    kinds = [_folds(labels[pool], None)] + ([] if groups is None else [_folds(labels[pool], groups[pool])])
    parts = [
        [part for train, held in kind if (part := _judged(pool[train], pool[held], labels)) is not None]
        for kind in kinds
    ]
    last = _judged(pool, test, labels)
    chunks = chunks_of(features, device)
    ((mean, scale),) = moments(chunks, [np.arange(len(labels))], len(labels))

    def probed(wanted: list[tuple[Part, float]]) -> list[Scores]:
        """By probes that did not see them, the probabilities (held, classes) of each part's images."""
        trained = fit(chunks, labels, [Probe(train, strength, mean, scale) for (train, _), strength in wanted])
        advance(len(wanted))
        return [probe.probabilities(features, held) for probe, ((_, held), _) in zip(trained, wanted, strict=True)]

    found = np.full((len(kinds), len(labels), int(labels.max()) + 1), np.nan)
    tries = [(kind, of_kind[0]) for kind, of_kind in enumerate(parts) if of_kind]
    total = len(tries) * len(STRENGTHS) + sum(len(parts[kind]) - 1 + (last is not None) for kind, _ in tries)
    with stage("suspects", total, "probes") as advance:
        tried = probed([(part, strength) for _, part in tries for strength in STRENGTHS])
        rest: list[tuple[int, Part, float]] = []
        for place, (kind, (_, held)) in enumerate(tries):
            ways = tried[len(STRENGTHS) * place :][: len(STRENGTHS)]
            best = int(np.argmin([_loss(way, labels[held]) for way in ways]))
            found[kind, held] = ways[best]
            others = [*parts[kind][1:], *([last] if last else [])]
            rest += [(kind, part, STRENGTHS[best]) for part in others]
        for (kind, (_, held), _), p in zip(rest, probed([(part, way) for _, part, way in rest]), strict=True):
            found[kind, held] = p
    return np.asarray(np.mean(found, axis=0))


def find_suspects(
    features: NDArray[np.float32], labels: Codes, groups: Codes | None, pool: Codes, test: Codes
) -> Suspects:
    """The images whose labels the others contradict, the most suspect first: see `out_of_fold` and `rank`."""
    return rank(out_of_fold(features, labels, groups, pool, test), labels, groups is not None)


def _judged(train: Codes, held: Codes, labels: Codes) -> Part | None:
    """A part without the held-out images of a class that its probe would not know; None where nothing is left."""
    classes = np.unique(labels[train])
    held = held[np.isin(labels[held], classes)]
    return (train, held) if len(classes) > 1 and len(held) else None


def _loss(p: Scores, labels: Codes) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-12)).mean())


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


def rank(p: Scores, labels: Codes, grouped: bool) -> Suspects:
    """Rank the images by how surely the others contradict their labels, as `out_of_fold` says.

    The score is the margin between the label's and the suggestion's probability, brought to 0 to 1, and the rule for
    `contradicted` that of Northcutt, Jiang and Chuang, Confident learning (JAIR 70, 2021).
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
    contradicted = (p_suggested > p_label) & (p_suggested >= thresholds[suggested])
    score = (1 + p_label - p_suggested) / 2
    order = np.argsort(score, kind="stable")
    return Suspects(
        rows[order],
        suggested[order],
        p_label[order],
        p_suggested[order],
        score[order],
        contradicted[order],
        METHOD + GROUPED * grouped,
    )
