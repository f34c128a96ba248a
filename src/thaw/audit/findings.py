"""What the audit says: sentences of three severities, each with what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from thaw.data.source import Source
from thaw.data.splits import Splits
from thaw.scoring.comparison import ALPHA
from thaw.scoring.statistics import fewest

LEAK = 0.2
"""Share of test images with a near copy elsewhere from which that is an error; less is a warning."""
BALANCE = 10
"""A class with so many times fewer images than another is a warning."""
FEW = 10
"""A class with fewer training or test images is a warning."""
NAMED = 3
"""Files of a kind that are named."""
ODD = {
    "misnamed": "are in another format than their names say",
    "animated": "are animated; the first frame is used",
    "tiny": "have a side of fewer than 8 pixels",
    "long": "are more than four times as long as wide",
    "grey": "are grey among pictures in colour",
}


@dataclass(frozen=True)
class Finding:
    """One sentence, and how grave it is: an `error` makes results wrong, a `warning` may, a `note` is good to know."""

    severity: str
    what: str


def data_findings(found: dict[str, Any], source: Source, splits: Splits, group: str | None) -> list[Finding]:
    """What is to be said of an audit's numbers, the gravest first; `group` is the column that holds images together."""
    said = [*_copies(found), *_contradictions(found), *_files(found, source), *_classes(found, source, splits)]
    said += _splits(found, splits, group)
    return sorted(said, key=lambda one: ("error", "warning", "note").index(one.severity))


def leak_findings(leak: dict[str, Any]) -> Iterator[Finding]:
    """What is to be said of how much leaked images are worth: an error where it is more than chance could be."""
    low, high = (100 * end for end in leak["interval"])
    accuracy = f"{leak['accuracy']:.1%} as they are split, {leak['accuracy_grouped']:.1%} with copies kept together"
    worth = f"{100 * leak['worth']:.1f} points of test accuracy (95% interval {low:.1f} to {high:.1f})".replace(
        "-", "−"
    )
    if low > 0:
        yield Finding("error", f"the copies across splits are worth {worth}: a linear probe has {accuracy}")
    else:
        yield Finding(
            "note", f"the copies across splits make no difference that shows: {worth}; a linear probe has {accuracy}"
        )


def _copies(found: dict[str, Any]) -> Iterator[Finding]:
    remedy = "keep copies together with data.group, or remove them"
    for kind, alike in (("exact", "are copies, byte for byte, of images"), ("near", "look nearly the same as images")):
        for pair, count in found[kind]["across"].items():
            if not count:
                continue
            first, second = pair.split("/")
            share = count / found["splits"][second]
            grave = second == "test" and (kind == "exact" or share >= LEAK)
            yield Finding(
                "error" if grave else "warning",
                f"{count:,} of {found['splits'][second]:,} {second} images ({share:.1%}) {alike} in {first}; {remedy}",
            )
        if found[kind]["images"]:
            yield Finding(
                "note",
                f"{found[kind]['images']:,} images are in {_count(found[kind]['groups'], 'group', 'groups')} of "
                f"{kind} duplicates",
            )


def _contradictions(found: dict[str, Any]) -> Iterator[Finding]:
    exact, near = found["contradictions"]["exact"], found["contradictions"]["near"]
    listed = {one["kind"]: " and ".join(repr(name) for name in one["ids"][:2]) for one in found["contradicting"][::-1]}
    if exact:
        yield Finding(
            "error",
            f"{_count(exact, 'group', 'groups')} of exact duplicates with different labels, such as "
            f"{listed['exact']}; correct the labels",
        )
    if near:
        example = f", such as {listed['near']}" if "near" in listed else ""
        yield Finding(
            "warning",
            f"{_count(near, 'pair', 'pairs')} of nearly the same images with different labels{example}; look at them",
        )


def _files(found: dict[str, Any], source: Source) -> Iterator[Finding]:
    bad = [one for one in source.skipped if one.bad]
    others = [one for one in source.skipped if not one.bad]
    for skipped, one, many in (
        (bad, "picture cannot be used", "pictures cannot be used"),
        (others, "file or row is left out", "files or rows are left out"),
    ):
        if skipped:
            such = "; ".join(f"{it.id!r}, which {it.reason}" for it in skipped[:NAMED])
            yield Finding("warning", f"{_count(len(skipped), one, many)}, such as {such}")
    for kind, count in found["odd"]["counts"].items():
        example = next(one["id"] for one in (*found["odd"]["files"], {"kind": kind, "id": ""}) if one["kind"] == kind)
        such = f", such as {example!r}" if example else ""
        yield Finding("warning" if kind == "tiny" else "note", f"{count:,} images {ODD[kind]}{such}")


def _classes(found: dict[str, Any], source: Source, splits: Splits) -> Iterator[Finding]:
    least, most = (pick(found["classes"], key=found["classes"].get) for pick in (min, max))
    if found["classes"][most] >= BALANCE * found["classes"][least]:
        yield Finding(
            "warning",
            f"class {most!r} has {found['classes'][most]:,} images and class {least!r} {found['classes'][least]:,}; "
            "read the scores of each class, not accuracy alone",
        )
    for split in ("train", "test"):
        counts = np.bincount(source.labels[splits.rows()[split]], minlength=len(source.classes))
        few = [name for name, count in zip(source.classes, counts, strict=True) if count < FEW]
        if few:
            names = ", ".join(map(repr, few[:3])) + (" and others" if len(few) > 3 else "")
            yield Finding(
                "warning",
                f"{_count(len(few), 'class has', 'classes have')} fewer than {FEW} images in {split}: {names}",
            )


def _splits(found: dict[str, Any], splits: Splits, group: str | None) -> Iterator[Finding]:
    if unused := splits.how.get("unused"):
        yield Finding("note", f"not used: {unused}; name a split in data.validation or data.test to use it")
    two_arms, four_arms = fewest(ALPHA), fewest(ALPHA / 6)  # four make six pairs
    if group is not None and found["test_groups"] < four_arms:
        values = _count(found["test_groups"], "value", "values")
        yield Finding(
            "warning",
            f"the test images have {values} of {group!r}; whatever the images, no difference between two arms can be "
            f"significant with fewer than {two_arms}, none between four with fewer than {four_arms}: make data.test "
            "larger",
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
