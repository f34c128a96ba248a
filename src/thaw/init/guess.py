"""A look at somebody's data: which columns hold the images, classes, splits and groups, and what the images are."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaw.data.endings import PICTURES, SPLITS
from thaw.data.shapes import Shapes, look_at_shapes
from thaw.data.source import Source, read_source
from thaw.data.splits import Splits, make_splits, split_parts, unused_splits, used_splits
from thaw.data.tables import INDEX, open_tables
from thaw.errors import DataError
from thaw.images.files import open_image
from thaw.recipe import Data
from thaw.scoring.slices import as_numbers
from thaw.text import listed

TRIED = 20
"""Values of a column that are looked at to tell whether it holds images."""
FEW = 50
"""A column without a telling name holds classes if it has at most as many different values."""
LABEL_NAMES = (
    *("label", "labels", "class", "classes", "target", "targets", "category", "categories"),
    *("species", "breed", "diagnosis", "y"),
)
GROUP_NAMES = frozenset(
    [
        *("group", "person", "patient", "subject", "individual", "identity", "participant", "donor", "animal", "case"),
        *("scene", "video", "clip", "sequence", "session", "burst", "family", "role", "user"),
    ]
)
"""Words in the names of columns whose values should not straddle splits."""


@dataclass(frozen=True)
class Look:
    """What a source seems to hold."""

    data: Data
    """The settings that read it."""
    why: dict[str, str]
    """For each key of `data` that was guessed, the reason; for one that was left out, why it is."""
    source: Source
    splits: Splits
    shapes: Shapes
    """Of some of its images."""


@dataclass(frozen=True)
class Column:
    """A column of a table, over all its splits."""

    name: str
    feature: Any
    """What `datasets` says of it."""
    values: pa.ChunkedArray

    def different(self) -> list[Any]:
        """Its different values, without nulls and empty strings, in the order in which they come."""
        kind = self.values.type
        plain = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
        if not any(is_kind(kind) for is_kind in plain) and not pa.types.is_floating(kind):
            return []
        return [value for value in pc.unique(self.values).to_pylist() if value not in (None, "") and value == value]


def look_at(name: str) -> Look:
    """Guess how to read the source `name` and what its images are like.

    Raises DataError when it cannot be read, or no column looks like images or classes.
    """
    opened = open_tables(name)
    settings, why = ({}, {}) if opened is None else _guess_columns(_columns(opened[0]), opened[1], name)
    if opened is None:
        why = {"label": "the names of the folders"}
    data = Data(source=name, **settings)
    source = read_source(data)
    parts: dict[str, Any] = split_parts(source, data)
    group = settings.pop("group", None)
    splits = make_splits(source, Data(source=name, **settings))
    data = Data(source=name, **settings, **parts)
    if group is not None:
        try:
            splits = make_splits(source, Data(source=name, **settings, group=group))
            data = Data(source=name, **settings, **parts, group=group)
        except DataError as error:
            why["group"] = f"{group!r} looks like one, but {str(error).partition(';')[0].rstrip('.')}"
    why |= {part: splits.how[part] for part in ("validation", "test")}
    if unused := unused_splits(source, used_splits(source, data)):
        why["source"] = f"not used: {unused['unused']}"
    return Look(data, why, source, splits, look_at_shapes(source))


def _columns(tables: datasets.DatasetDict) -> list[Column]:
    """The columns that all splits share, images undecoded."""
    shared: dict[str, Any] = dict(next(iter(tables.values())).features)
    found = []
    for name, feature in shared.items():
        if not name.startswith(INDEX) and all(name in part.features for part in tables.values()):
            chunks = [part.data.table.column(name) for part in tables.values()]
            found.append(Column(name, feature, pa.chunked_array([c for chunk in chunks for c in chunk.chunks])))
    return found


def _guess_columns(columns: list[Column], folder: Path, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings of `data` and the reason for each."""
    known = ", ".join(column.name for column in columns)
    pictures = {column.name: reason for column in columns if (reason := _pictures(column, folder))}
    if not pictures:
        raise DataError(
            f"no column of {source} holds images or names image files that lie beside it; it has {known}: "
            "add a column of paths relative to the table."
        )
    image = next(
        (name for name in pictures if name.lower() in ("image", "img", "picture", "photo")), next(iter(pictures))
    )
    others = [column for column in columns if column.name not in pictures]
    settings: dict[str, Any] = {"image": image}
    why = {"image": pictures[image]}
    if split := next((column for column in others if _names_splits(column)), None):
        settings["split"] = split.name
        why["split"] = f"its values are {', '.join(map(str, split.different()))}"
        others.remove(split)
    label, why["label"] = _label([column for column in others if not _groups(column)] or others, source, known)
    settings["label"] = label.name
    others.remove(label)
    if group := next((column for column in others if _groups(column)), None):
        settings["group"] = group.name
        why["group"] = (
            f"by its name, one of {len(group.different()):,} things that images share; none of them straddles "
            "two splits"
        )
    return settings, why


def _pictures(column: Column, folder: Path) -> str:
    """Why a column seems to hold images; empty where it does not."""
    kind = column.values.type
    if isinstance(column.feature, datasets.Image) or (
        pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}
    ):
        return "it holds images"
    values = pc.drop_null(column.values.slice(0, 10 * TRIED)).to_pylist()[:TRIED]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "its values are encoded images" if any(_opens(value) for value in values) else ""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        files = [value for value in values if Path(value).suffix.lower() in PICTURES and _is_file(folder / value)]
        return f"its values are image files, such as {files[0]!r}" if files else ""
    return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text too long for a path
        return False


def _opens(content: bytes) -> bool:
    try:
        with open_image(content):
            return True
    except Exception:  # decoders of broken files raise anything
        return False


def _names_splits(column: Column) -> bool:
    different = {str(value).lower() for value in column.different()}
    return len(different) > 1 and different <= SPLITS.keys()


def _groups(column: Column) -> bool:
    """Whether a column seems to say what images share: by its name, and by values that come several times."""
    different = len(column.different())
    return not _words(column.name).isdisjoint(GROUP_NAMES) and 5 <= different <= 0.9 * len(column.values)


def _words(name: str) -> set[str]:
    """Of a column's name, in lower case: `className` and `class_name` have the same."""
    return set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))


def _label(columns: list[Column], source: str, known: str) -> tuple[Column, str]:
    """The column that seems to hold the classes, and why."""
    called = [column for column in columns if column.name.lower() in LABEL_NAMES and len(column.different()) > 1]
    possible = [column for column in columns if column in called or _could_be_classes(column)]
    named = [column for wanted in LABEL_NAMES for column in possible if wanted in _words(column.name)]
    if named:
        return named[0], f"by its name; it has {len(named[0].different()):,} different values"
    if labelled := [column for column in possible if isinstance(column.feature, datasets.ClassLabel)]:
        return labelled[0], "the dataset says that it holds classes"
    few = [column for column in possible if len(column.different()) <= FEW]
    few.sort(key=lambda column: as_numbers(column.values) is not None)
    if not few:
        raise DataError(f"no column of {source} looks like classes; it has {known}: call the one that does `label`.")
    also = f"; {listed([repr(c.name) for c in few[1:]])} could be too" if few[1:] else ""
    return few[0], f"a guess: it has {len(few[0].different()):,} different values that repeat{also}"


def _could_be_classes(column: Column) -> bool:
    if not 2 <= len(column.different()) <= max(2, min(1000, len(column.values) // 2)):
        return False
    numbers = as_numbers(column.values)
    return numbers is None or bool((numbers[~np.isnan(numbers)] % 1 == 0).all())
