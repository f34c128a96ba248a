"""The audit: what is wrong or odd about the images and their splits, found before anything is trained."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thaw.audit.findings import data_findings, leak_finding
from thaw.audit.issues import find_issues, summarise_issues
from thaw.audit.leak import cached_leak_estimate
from thaw.audit.results import (
    Alike,
    Audit,
    Conflict,
    ConflictingLabels,
    DuplicatePair,
    Duplicates,
    ImageSizes,
    Split,
)
from thaw.cache.arrays import Array
from thaw.data.copies import altered_pairs, upright_pairs
from thaw.data.dataset import Dataset
from thaw.data.duplicates import Pairs, cached_outlines, chain, components
from thaw.data.exposure import judge_exposure
from thaw.data.source import Source
from thaw.data.splits import Splits, group_codes
from thaw.recipe import Data
from thaw.training.features import Features

Rows = NDArray[np.int64]
Across = dict[tuple[int, int], NDArray[np.bool_]]
"""For two splits, (n,) the images of the second that have a copy in the first."""

LISTED = 50
"""Pairs, conflicts and issues that are listed; all are counted."""
SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")
ACROSS = ((0, 1), (0, 2), (1, 2))
PROBED_FROM = 0.01
"""Fraction of leaked test images up to which no probe is trained: accuracy cannot change by more."""


@dataclass(frozen=True)
class AuditResult:
    """A finished audit: its record, and which images belong together."""

    record: Audit
    """Without an estimate of the leak, see `with_leak`."""
    clusters: Rows
    """(n,) codes: images that are copies of each other, exact or near, or in the same group, have the same."""

    @property
    def leaks(self) -> bool:
        """Whether enough test images have copies elsewhere for a probe to measure their effect."""
        return self.record.leaked > PROBED_FROM * self.record.splits["test"]


def audit(dataset: Dataset, data: Data) -> AuditResult:
    """Check files, classes, sizes, duplicates and splits. Labels of test images are only used to compare copies."""
    source, splits = dataset.source, dataset.splits
    looks, device = cached_outlines(dataset.pixels, dataset.key), dataset.pixels.device
    exact = np.unique(np.array(source.digests), return_inverse=True)[1].astype(np.int64)
    part = _parts(splits, len(source.ids))
    count = len(source.ids)
    copies = _Copies(exact, source.labels, part)
    upright = components(count, copies.seen(upright_pairs(looks, device)))
    known = components(count, [chain(exact), chain(upright)])
    altered = copies.seen(altered_pairs(looks, known, device), same_label=False)
    near = components(count, itertools.chain([chain(upright)], altered))
    linked = [chain(exact), chain(near)]
    groups = group_codes(source, data)
    if groups is not None:
        linked.append(chain(groups))
    clusters = components(count, linked)
    exactly, nearly = _exact_across(exact, part), copies.across
    record = Audit(
        images=count,
        splits={split: len(splits.rows()[split]) for split in SPLITS},
        classes={name: int((source.labels == code).sum()) for code, name in enumerate(source.classes)},
        sizes=_sizes(dataset.headers),
        test_groups=None if groups is None else len(np.unique(groups[splits.test])),
        skipped=len(source.skipped),
        unusable=[one for one in source.skipped if one.bad][:LISTED],
        issues=summarise_issues(find_issues(source, dataset.headers, looks.grey, judge_exposure(looks.levels)), LISTED),
        exact=_duplicates(exact, exactly),
        near=_duplicates(near, nearly),
        leaked=int(np.logical_or.reduce([one[pair] for one in (exactly, nearly) for pair in ACROSS[1:]]).sum()),
        conflicting=_conflicting(source, exact, copies),
        pairs=_listed_pairs(source, exact, part, copies),
        leak=None,
        findings=[],
    )
    findings = data_findings(record, source, splits, data.group)
    return AuditResult(record.model_copy(update={"findings": findings}), clusters)


def with_leak(audited: AuditResult, features: Features, dataset: Dataset) -> Audit:
    """Return the audit with an estimate of the leak's effect, where there are enough leaked images for one."""
    if not audited.leaks:
        return audited.record
    leak = cached_leak_estimate(features, dataset.source.labels, dataset.splits, audited.clusters)
    if leak is None:
        return audited.record
    findings = [*audited.record.findings, leak_finding(leak)]
    return audited.record.model_copy(update={"leak": leak, "findings": findings})


@dataclass
class _Copies:
    """What is remembered of near pairs as they pass by, in memory that does not grow with their number."""

    exact: Rows
    labels: Rows
    part: Rows
    conflicts: int = 0
    """Pairs with different labels."""
    closest: dict[str, list[tuple[float, int, int]]] = field(default_factory=lambda: {"across": [], "conflicts": []})
    """The closest pairs across splits, and with different labels."""
    across: Across = field(init=False)
    """Near copies."""

    def __post_init__(self) -> None:
        self.across = {pair: np.zeros(len(self.part), np.bool_) for pair in ACROSS}

    def seen(self, found: Iterator[Pairs], same_label: bool = True) -> Iterator[tuple[Rows, Rows]]:
        """Remember the pairs, except exact copies, and pass them on; some may have labels of their own, as 6 and 9."""
        for first, second, far in found:
            differ = self.exact[first] != self.exact[second]
            first, second, far = first[differ], second[differ], far[differ]
            of_first, of_second = self.part[first], self.part[second]
            for (one, other), copied in self.across.items():
                copied[second[(of_first == one) & (of_second == other)]] = True
                copied[first[(of_second == one) & (of_first == other)]] = True
            conflicts = same_label & (self.labels[first] != self.labels[second])
            self.conflicts += int(conflicts.sum())
            self._keep("across", of_first != of_second, first, second, far)
            self._keep("conflicts", conflicts, first, second, far)
            yield first, second

    def _keep(self, name: str, chosen: NDArray[np.bool_], first: Rows, second: Rows, far: NDArray[np.float32]) -> None:
        kept = np.flatnonzero(chosen)
        kept = kept[np.lexsort((second[kept], first[kept], far[kept]))][:LISTED]
        new = zip(far[kept].tolist(), first[kept].tolist(), second[kept].tolist(), strict=True)
        self.closest[name] = sorted([*self.closest[name], *new])[:LISTED]


def _parts(splits: Splits, count: int) -> Rows:
    part = np.full(count, -1)
    for code, split in enumerate(SPLITS):
        part[splits.rows()[split]] = code
    return part


def _duplicates(codes: Rows, across: Across) -> Duplicates:
    """Count the codes that more than one image has, their images, and the copies across splits."""
    sizes = np.bincount(codes)
    return Duplicates(
        groups=int((sizes > 1).sum()),
        images=int(sizes[sizes > 1].sum()),
        across={f"{SPLITS[one]}/{SPLITS[other]}": int(copied.sum()) for (one, other), copied in across.items()},
    )


def _exact_across(exact: Rows, part: Rows) -> Across:
    found = {}
    for one, other in ACROSS:
        there = np.zeros(int(exact.max()) + 1, np.bool_)
        there[exact[part == one]] = True
        found[one, other] = there[exact] & (part == other)
    return found


def _sizes(headers: Array) -> ImageSizes | None:
    known = headers[headers["format"] != b""]
    sizes = np.stack([known["width"], known["height"]], axis=1)
    if not len(sizes):
        return None
    order = np.argsort(sizes.prod(1), kind="stable")
    smallest, median, largest = (
        (int(width), int(height)) for width, height in (sizes[order[0]], np.median(sizes, axis=0), sizes[order[-1]])
    )
    return ImageSizes(smallest=smallest, median=median, largest=largest)


def _conflicting(source: Source, exact: Rows, copies: _Copies) -> ConflictingLabels:
    codes, counts = np.unique(np.unique(np.stack([exact, source.labels]), axis=1)[0], return_counts=True)
    conflicts = codes[counts > 1]
    groups: list[tuple[Alike, list[int]]] = [
        ("exact", np.flatnonzero(exact == code)[:LISTED].tolist()) for code in conflicts[:LISTED]
    ]
    groups += [("near", [one, other]) for _, one, other in copies.closest["conflicts"]]
    return ConflictingLabels(
        exact=len(conflicts),
        near=copies.conflicts,
        examples=[
            Conflict(
                ids=[str(source.ids[row]) for row in rows],
                labels=[source.classes[source.labels[row]] for row in rows],
                kind=kind,
            )
            for kind, rows in groups[:LISTED]
        ],
    )


def _listed_pairs(source: Source, exact: Rows, part: Rows, copies: _Copies) -> list[DuplicatePair]:
    """Copies across splits, exact ones first, the most alike before the others."""
    first, second = chain(exact)
    apart = part[first] != part[second]
    pairs: list[tuple[Alike, float, int, int]] = [
        ("exact", 0.0, one, other) for one, other in zip(first[apart], second[apart], strict=True)
    ]
    pairs += [("near", far, one, other) for far, one, other in copies.closest["across"]]
    return [
        DuplicatePair(
            a=str(source.ids[one]),
            b=str(source.ids[other]),
            split_a=SPLITS[part[one]],
            split_b=SPLITS[part[other]],
            label_a=source.classes[source.labels[one]],
            label_b=source.classes[source.labels[other]],
            kind=kind,
            distance=round(far, 4),
        )
        for kind, far, one, other in pairs[:LISTED]
    ]
