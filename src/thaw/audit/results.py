"""What the audit finds, as records."""

from typing import Literal

from thaw.audit.issues import Issues
from thaw.audit.leak import LeakEstimate
from thaw.data.skipped import Skipped
from thaw.record import Record

Split = Literal["train", "validation", "test"]
Alike = Literal["exact", "near"]


class Finding(Record):
    """A sentence on what the audit found, and how serious that is."""

    severity: Literal["error", "warning", "note"]
    """An `error` makes results wrong, a `warning` may do so, a `note` is good to know."""
    what: str
    """The sentence, without a full stop."""


class ImageSizes(Record):
    """Width and height in pixels."""

    smallest: tuple[int, int]
    """Of the image with the fewest pixels."""
    median: tuple[int, int]
    """The median width and the median height."""
    largest: tuple[int, int]
    """Of the image with the most pixels."""


class Duplicates(Record):
    """Images that are copies of each other."""

    groups: int
    """Groups of two or more copies."""
    images: int
    """Images in these groups."""
    across: dict[str, int]
    """For two splits, such as `train/test`, the images of the second that have a copy in the first."""


class Conflict(Record):
    """Copies with different labels."""

    ids: list[str]
    """The images."""
    labels: list[str]
    """Their labels, in the same order."""
    kind: Alike
    """Whether they have the same bytes (`exact`) or look nearly the same (`near`)."""


class ConflictingLabels(Record):
    """Copies whose labels differ."""

    exact: int
    """Groups of exact copies with more than one label, of which at least one is wrong."""
    near: int
    """Pairs of near duplicates with different labels; not those of which one is mirrored, turned or cropped, which can
    change what it shows."""
    examples: list[Conflict]
    """The first 50: exact copies, then the most similar pairs."""


class DuplicatePair(Record):
    """Two copies in different splits."""

    a: str
    """One image."""
    b: str
    """The other image."""
    split_a: Split
    """The split of the one."""
    split_b: Split
    """The split of the other."""
    label_a: str
    """The label of the one."""
    label_b: str
    """The label of the other."""
    kind: Alike
    """Whether they have the same bytes (`exact`) or look nearly the same (`near`)."""
    distance: float
    """0 to 0.12: cosine distance of their outlines, or where one is mirrored, turned or cropped, 1 less the correlation
    of their pixels."""


class Audit(Record):
    """What is wrong or odd about the images and their splits."""

    images: int
    """Images that are used."""
    splits: dict[Split, int]
    """Images in each split."""
    classes: dict[str, int]
    """Images of each class."""
    sizes: ImageSizes | None
    """The sizes of the images before preprocessing; None where no file tells its own."""
    test_groups: int | None
    """Groups among the test images; None without a group column."""
    skipped: int
    """Files or rows that are left out."""
    unusable: list[Skipped]
    """Those of them that were meant to be images: the first 50."""
    issues: Issues
    """Images that are used, but odd."""
    exact: Duplicates
    """Images with the same bytes."""
    near: Duplicates
    """Images that look nearly the same, or would if one were mirrored, turned, cropped or without its frame. A lower
    bound: other changes are not recognised."""
    leaked: int
    """Test images with an exact or near copy in train or validation."""
    conflicting: ConflictingLabels
    """Copies with different labels."""
    pairs: list[DuplicatePair]
    """Copies in different splits, the first 50: exact ones, then the most similar."""
    leak: LeakEstimate | None
    """How much the leaked images change test accuracy; None where they are too few to tell, or cannot be separated."""
    findings: list[Finding]
    """What to know about all this, the most serious first."""
