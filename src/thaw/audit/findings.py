"""What the audit says: sentences of three severities, each with what to do."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from thaw.audit.leak import LeakEstimate
from thaw.audit.results import Audit, Finding
from thaw.data.folder import NOT_NAMED, OF_SYSTEM
from thaw.data.source import Source
from thaw.data.splits import COPIES, Splits
from thaw.scoring.baselines import imbalance
from thaw.scoring.comparison import ALPHA
from thaw.scoring.statistics import fewest
from thaw.text import count

LEAK = 0.2
"""Fraction of test images with a near copy elsewhere from which that is an error; less is a warning."""
BALANCE = 10
"""A class with this many times fewer images than another is a warning."""
FEW = 10
"""A class with fewer training or test images is a warning."""
NAMED = 3
"""Files of a kind that are named."""
ISSUES = {
    "misnamed": "are in another format than their names say",
    "animated": "are animated; the first frame is used",
    "tiny": "have a side of fewer than 8 pixels",
    "long": "are more than four times as long as wide",
    "grey": "are grey among images in colour",
    "low_information": "are one colour",
    "dark": "are nearly black",
    "light": "are nearly white",
}
SERIOUS = ("tiny", "low_information")
"""Kinds of issues that leave nothing to learn from; others are notes."""
SEVERITIES = ("error", "warning", "note")


def data_findings(audit: Audit, source: Source, splits: Splits, group: str | None) -> list[Finding]:
    """Put an audit's numbers into sentences, the most serious first; `group` is the recipe's group column."""
    findings = [*_copies(audit, group), *_conflicts(audit), *_files(audit, source)]
    findings += (Finding(severity="warning", what=what) for what in source.warnings)
    findings += [*_classes(audit, source, splits), *_splits(audit, splits, group)]
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def leak_finding(leak: LeakEstimate) -> Finding:
    """Say how much leaked images change test accuracy: an error where it is more than chance explains."""
    low, high = (100 * end for end in leak.interval)
    accuracy = f"{leak.accuracy:.1%} as they are split, {leak.accuracy_grouped:.1%} with copies kept together"
    effect = f"{100 * leak.effect:.1f} points (95% interval {low:.1f} to {high:.1f})".replace("-", "−")
    if low > 0:
        what = f"the copies across splits raise test accuracy by {effect}: a linear probe reaches {accuracy}"
        return Finding(severity="error", what=what)
    what = (
        f"the copies across splits do not change test accuracy significantly: by {effect}; a linear probe reaches "
        f"{accuracy}"
    )
    return Finding(severity="note", what=what)


def _copies(audit: Audit, group: str | None) -> Iterator[Finding]:
    remedy = "remove them" if group else f'keep copies together with data.group = "{COPIES}", or remove them'
    for kind, copies, alike in (
        ("exact", audit.exact, "are copies, byte for byte, of images"),
        ("near", audit.near, "look nearly the same as images"),
    ):
        for pair, number in copies.across.items():
            if not number:
                continue
            first, second = pair.split("/")
            images = {str(split): size for split, size in audit.splits.items()}[second]
            fraction = number / images
            serious = second == "test" and (kind == "exact" or fraction >= LEAK)
            perhaps = ", perhaps mirrored, turned or cropped" if kind == "near" else ""
            what = f"{number:,} of {images:,} {second} images ({fraction:.1%}) {alike} in {first}{perhaps}; {remedy}"
            yield Finding(
                severity="error" if serious else "warning",
                what=what,
            )
        if copies.images:
            groups = count(copies.groups, "group")
            least = "at least " if kind == "near" else ""
            yield Finding(severity="note", what=f"{least}{copies.images:,} images are in {groups} of {kind} duplicates")


def _conflicts(audit: Audit) -> Iterator[Finding]:
    found = audit.conflicting
    listed = {one.kind: " and ".join(repr(name) for name in one.ids[:2]) for one in found.examples[::-1]}
    if found.exact:
        yield Finding(
            severity="error",
            what=f"{count(found.exact, 'group')} of exact duplicates with different labels, such as "
            f"{listed['exact']}; correct the labels",
        )
    if found.near:
        example = f", such as {listed['near']}" if "near" in listed else ""
        yield Finding(
            severity="warning",
            what=f"{count(found.near, 'pair')} of nearly the same images with different labels{example}; look at them",
        )


def _files(audit: Audit, source: Source) -> Iterator[Finding]:
    bad = [one for one in source.skipped if one.bad]
    others = [one for one in source.skipped if not one.bad and one.reason not in (NOT_NAMED, OF_SYSTEM)]
    for skipped, one, many in (
        (bad, "image cannot be used", "images cannot be used"),
        (others, "file or row is left out", "files or rows are left out"),
    ):
        if skipped:
            such = "; ".join(f"{it.id!r}, which {it.reason}" for it in skipped[:NAMED])
            yield Finding(severity="warning", what=f"{count(len(skipped), one, many)}, such as {such}")
    beside = Counter(Path(one.id).suffix.lower() or "none" for one in source.skipped if one.reason == NOT_NAMED)
    if beside:
        endings = ", ".join(f"{ending} {number:,}" for ending, number in beside.most_common(5))
        what = f"{count(beside.total(), 'file')} that are not named like images are left out, by ending: {endings}"
        yield Finding(severity="note", what=what)
    if made := [one.id for one in source.skipped if one.reason == OF_SYSTEM]:
        what = f"{count(len(made), 'folder')} of file servers or archives left out, such as {made[0]!r}"
        yield Finding(severity="note", what=what)
    for kind, number in audit.issues.counts.items():
        example = next((one.id for one in audit.issues.examples if one.kind == kind), "")
        such = f", such as {example!r}" if example else ""
        yield Finding(severity="warning" if kind in SERIOUS else "note", what=f"{number:,} images {ISSUES[kind]}{such}")


def _classes(audit: Audit, source: Source, splits: Splits) -> Iterator[Finding]:
    least, most = (pick(audit.classes, key=audit.classes.__getitem__) for pick in (min, max))
    if why := imbalance(list(audit.classes), np.array(list(audit.classes.values()))):
        yield Finding(
            severity="warning",
            what=f'{why}: judge by balanced accuracy, and try train.class_weights = "balanced"',
        )
    elif audit.classes[most] >= BALANCE * audit.classes[least]:
        yield Finding(
            severity="warning",
            what=f"class {most!r} has {audit.classes[most]:,} images and class {least!r} {audit.classes[least]:,}; "
            "read the scores of each class, not accuracy alone",
        )
    for split in ("train", "test"):
        counts = np.bincount(source.labels[splits.rows()[split]], minlength=len(source.classes))
        few = [name for name, number in zip(source.classes, counts, strict=True) if number < FEW]
        if few:
            names = ", ".join(map(repr, few[:3])) + (" and others" if len(few) > 3 else "")
            yield Finding(
                severity="warning",
                what=f"{count(len(few), 'class has', 'classes have')} fewer than {FEW} images in {split}: {names}",
            )


def _splits(audit: Audit, splits: Splits, group: str | None) -> Iterator[Finding]:
    if unused := splits.how.get("unused"):
        what = f"not used: {unused}; name a split in data.validation or data.test to use it"
        yield Finding(severity="note", what=what)
    two_arms, four_arms = fewest(ALPHA), fewest(ALPHA / 6)  # four make six pairs
    if audit.test_groups is not None and audit.test_groups < four_arms:
        values = count(audit.test_groups, "value")
        yield Finding(
            severity="warning",
            what=f"the test images have {values} of {group!r}; whatever the images, no difference between two arms can "
            f"be significant with fewer than {two_arms}, none between four with fewer than {four_arms}: make data.test "
            "larger",
        )
