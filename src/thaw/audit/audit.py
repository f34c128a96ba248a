"""The audit: what is wrong or odd about the images and their splits, found before anything is trained."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.audit.duplicates import chain, components, keep_outlines, near_pairs
from thaw.audit.findings import data_findings, leak_findings
from thaw.audit.issues import count_kinds, odd_files
from thaw.cache.arrays import Array
from thaw.data.dataset import Dataset
from thaw.data.source import Source
from thaw.data.splits import Splits, group_codes
from thaw.recipe import Data

Rows = NDArray[np.int64]

LISTED = 50
"""Pairs, contradictions and odd files that are listed; all are counted."""
SPLITS = ("train", "validation", "test")
ACROSS = ((0, 1), (0, 2), (1, 2))
WORTH_PROBING = 0.01
"""Share of test images with copies elsewhere below which no probe is trained: the accuracy cannot change by more."""


@dataclass(frozen=True)
class Audit:
    """What was found, and what a probe needs to tell how much leaked images are worth."""

    found: dict[str, Any]
    """What `metrics.json` holds under `audit`; its `leak` is null until a probe was trained."""
    clusters: Rows
    """(n,) codes: images that are copies of each other, exact or near, or in the same group, have the same."""
    leaks: bool
    """Whether so many test images have copies elsewhere that a probe can tell what they are worth."""


def audit(dataset: Dataset, data: Data) -> Audit:
    """Look at files, classes, sizes, duplicates and splits; no label of a test image is used but to compare copies."""
    source, splits = dataset.source, dataset.splits
    looks, grey = keep_outlines(dataset.pixels, dataset.key)
    odd = odd_files(source, dataset.headers, grey)
    exact = np.unique(np.array(source.digests), return_inverse=True)[1].astype(np.int64)
    part = _parts(splits, len(source.ids))
    copies = _Copies(exact, source.labels, part)
    near = components(len(looks), copies.seen(near_pairs(looks, dataset.pixels.device)))
    linked = [chain(exact), chain(near)]
    groups = group_codes(source, data)
    if groups is not None:
        linked.append(chain(groups))
    clusters = components(len(looks), linked)
    exactly, nearly = _exact_across(exact, part), copies.across
    leaked = int((np.logical_or.reduce([one[pair] for one in (exactly, nearly) for pair in ACROSS[1:]])).sum())
    found = {
        "images": len(source.ids),
        "splits": {split: len(rows) for split, rows in splits.rows().items()},
        "classes": {name: int((source.labels == code).sum()) for code, name in enumerate(source.classes)},
        "sizes": _sizes(dataset.headers),
        "test_groups": None if groups is None else len(np.unique(groups[splits.test])),
        "skipped": len(source.skipped),
        "unusable": [asdict(one) for one in source.skipped if one.bad][:LISTED],
        "odd": {"counts": count_kinds(odd), "files": [asdict(one) for one in odd[:LISTED]]},
        "exact": {**_grouped(exact), "across": _named(exactly)},
        "near": {**_grouped(near), "across": _named(nearly)},
        "leaked": leaked,
        "contradicting": _contradicting(source, exact, copies),
        "contradictions": {"exact": len(_torn(exact, source.labels)), "near": copies.disagreeing},
        "pairs": _listed_pairs(source, exact, part, copies),
        "leak": None,
    }
    found["findings"] = [asdict(one) for one in data_findings(found, source, splits, data.group)]
    return Audit(found, clusters, leaked > WORTH_PROBING * len(splits.test))


def with_worth(found: dict[str, Any], worth: dict[str, Any] | None) -> dict[str, Any]:
    """The audit with what the leaked images are worth, where a probe could tell (see `scoring.leak`)."""
    if worth is None:
        return found
    leak = {"test_images": found["leaked"], **worth}
    return found | {"leak": leak, "findings": [*found["findings"], *map(asdict, leak_findings(leak))]}


@dataclass
class _Copies:
    """What is kept of near pairs while they go by, in memory that does not grow with their number."""

    exact: Rows
    labels: Rows
    part: Rows
    disagreeing: int = 0
    """Pairs with different labels."""
    closest: dict[str, list[tuple[float, int, int]]] = field(default_factory=lambda: {"across": [], "torn": []})
    """The closest pairs across splits, and with different labels."""
    across: dict[tuple[int, int], NDArray[np.bool_]] = field(init=False)
    """For two splits, (n,) the images of the second that have a near copy in the first."""

    def __post_init__(self) -> None:
        self.across = {pair: np.zeros(len(self.part), np.bool_) for pair in ACROSS}

    def seen(self, found: Iterator[tuple[Rows, Rows, NDArray[np.float32]]]) -> Iterator[tuple[Rows, Rows]]:
        """Note the pairs, less those of exact copies, and pass them on."""
        for first, second, far in found:
            differ = self.exact[first] != self.exact[second]
            first, second, far = first[differ], second[differ], far[differ]
            of_first, of_second = self.part[first], self.part[second]
            for (one, other), copied in self.across.items():
                copied[second[(of_first == one) & (of_second == other)]] = True
                copied[first[(of_second == one) & (of_first == other)]] = True
            torn = self.labels[first] != self.labels[second]
            self.disagreeing += int(torn.sum())
            self._keep("across", of_first != of_second, first, second, far)
            self._keep("torn", torn, first, second, far)
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


def _grouped(codes: Rows) -> dict[str, int]:
    """How many codes more than one image has, and how many images these are."""
    sizes = np.bincount(codes)
    return {"groups": int((sizes > 1).sum()), "images": int(sizes[sizes > 1].sum())}


def _exact_across(exact: Rows, part: Rows) -> dict[tuple[int, int], NDArray[np.bool_]]:
    found = {}
    for one, other in ACROSS:
        there = np.zeros(int(exact.max()) + 1, np.bool_)
        there[exact[part == one]] = True
        found[one, other] = there[exact] & (part == other)
    return found


def _named(across: dict[tuple[int, int], NDArray[np.bool_]]) -> dict[str, int]:
    """Images of the second split with a copy in the first."""
    return {f"{SPLITS[one]}/{SPLITS[other]}": int(copied.sum()) for (one, other), copied in across.items()}


def _sizes(headers: Array) -> dict[str, list[int]] | None:
    """Width and height in pixels: of the pictures with the fewest and the most pixels, and the median of each."""
    known = headers[headers["format"] != b""]
    sizes = np.stack([known["width"], known["height"]], axis=1)
    if not len(sizes):
        return None
    order = np.argsort(sizes.prod(1), kind="stable")
    middle = np.median(sizes, axis=0)
    return {
        "smallest": sizes[order[0]].tolist(),
        "median": [int(side) for side in middle],
        "largest": sizes[order[-1]].tolist(),
    }


def _torn(exact: Rows, labels: Rows) -> Rows:
    """The codes of the groups of exact copies that have more than one label."""
    pairs = np.unique(np.stack([exact, labels]), axis=1)[0]
    codes, counts = np.unique(pairs, return_counts=True)
    return codes[counts > 1]


def _contradicting(source: Source, exact: Rows, copies: _Copies) -> list[dict[str, Any]]:
    torn = _torn(exact, source.labels)[:LISTED]
    groups = [("exact", np.flatnonzero(exact == code)[:LISTED].tolist()) for code in torn]
    groups += [("near", [one, other]) for _, one, other in copies.closest["torn"]]
    return [
        {
            "ids": [str(source.ids[row]) for row in rows],
            "labels": [source.classes[source.labels[row]] for row in rows],
            "kind": kind,
        }
        for kind, rows in groups[:LISTED]
    ]


def _listed_pairs(source: Source, exact: Rows, part: Rows, copies: _Copies) -> list[dict[str, Any]]:
    """Copies across splits, exact ones first, the most alike before the others."""
    first, second = chain(exact)
    apart = part[first] != part[second]
    pairs = [("exact", 0.0, one, other) for one, other in zip(first[apart], second[apart], strict=True)]
    pairs += [("near", far, one, other) for far, one, other in copies.closest["across"]]
    return [
        {
            "a": str(source.ids[one]),
            "b": str(source.ids[other]),
            "split_a": SPLITS[part[one]],
            "split_b": SPLITS[part[other]],
            "label_a": source.classes[source.labels[one]],
            "label_b": source.classes[source.labels[other]],
            "kind": kind,
            "distance": round(far, 4),
        }
        for kind, far, one, other in pairs[:LISTED]
    ]
