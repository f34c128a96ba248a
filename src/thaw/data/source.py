"""A source: labelled images, undecoded, in an order that depends on nothing but their content."""

import hashlib
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thaw.cache.arrays import key_of
from thaw.data.mapped import Parts, find_parts, read_part
from thaw.data.skipped import Skipped
from thaw.data.spelling import warn_of_classes, warn_of_names
from thaw.data.tables import BROUGHT, CONTENT, PATH, check_columns, check_same, read_rows
from thaw.errors import DataError
from thaw.images.depth import may_be_deep
from thaw.images.files import open_file, read_file
from thaw.progress import in_order, say, stage, workers
from thaw.recipe import Data
from thaw.text import escape_bytes

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
"""A whole number as it is written, without zeros before it."""
AHEAD = 512
"""Images that threads may read before they are counted."""


@dataclass(frozen=True)
class Source:
    """Labelled images in an order that depends on nothing but their content.

    The same images and labels come in the same order whatever kind of source held them.
    """

    classes: tuple[str, ...]
    ids: NDArray[np.object_]
    """(n,) text: file names below the source's folder, or SPLIT/ROW where images have none; all different."""
    labels: NDArray[np.int64]
    """(n,) indices into `classes`."""
    splits: NDArray[np.str_]
    """(n,) the split that the source puts each row in; `all` where it has none."""
    digests: tuple[str, ...]
    """n content digests, of the encoded images."""
    content: pa.ChunkedArray
    """The encoded bytes of images that lie in memory; null where an image is in a file."""
    paths: tuple[str | None, ...]
    """The files of the others."""
    rows: NDArray[np.int64]
    """(n,) the row of `content`, `paths` and `parts` that holds each image."""
    columns: pa.Table
    """(n,) all other columns, to group and to slice by."""
    skipped: tuple[Skipped, ...]
    parts: Parts | None = None
    """(rows, 2) where in its file an image starts, and its bytes; -1 where it is the whole file. None: all are."""
    deep: NDArray[np.bool_] | None = None
    """(n,) images that may be grey of more than 8 bits, by how they begin. None: none is."""
    warnings: tuple[str, ...] = ()
    """What is probably not meant: two spellings of a class or of a name, classes that are lists of others."""

    def picture(self, row: int) -> bytes:
        """The encoded bytes of one image. Raises OSError where its file cannot be read."""
        return _read(self.content, self.paths, self.parts, int(self.rows[row]))

    def open(self, row: int) -> BinaryIO:
        """The encoded bytes of one image as a file, of which no more is read than is asked for. Raises OSError."""
        held = int(self.rows[row])
        path = self.paths[held]
        is_part = self.parts is not None and self.parts[held, 0] >= 0
        if path is None or is_part or self.content[held].is_valid:
            return io.BytesIO(self.picture(row))
        return open_file(path)

    def fingerprint(self) -> str:
        """A digest of everything that a study sees of this source."""
        return key_of(
            classes=self.classes, images=self.digests, labels=self.labels.tolist(), splits=self.splits.tolist()
        )

    def take(self, rows: NDArray[np.int64], skipped: Iterable[Skipped] = ()) -> "Source":
        """The same source with these rows only, in this order."""
        return replace(
            self,
            ids=self.ids[rows],
            labels=self.labels[rows],
            splits=self.splits[rows],
            digests=tuple(self.digests[row] for row in rows),
            rows=self.rows[rows],
            deep=None if self.deep is None else self.deep[rows],
            columns=self.columns.take(rows),
            skipped=(*self.skipped, *skipped),
        )


def read_source(data: Data) -> Source:
    """Read what `data.source` names. Raises DataError when it cannot be read or has no such columns or labels."""
    table, skipped, mapped = read_rows(data)
    check_columns(table.column_names, data)
    for key, column in (("label", data.label), ("group", data.group)):
        if data.image == column:
            raise DataError(f"data.image and data.{key} both name the column {column!r}; give two columns.")
    if data.image in (data.slices or ()):
        raise DataError(f"data.slices names {data.image!r}, the column of the images; give other columns.")
    classes, labels = _classes(table, data)
    splits = _splits(table, data)
    content = table.column(CONTENT)
    paths = tuple(None if path is None else os.fsdecode(path) for path in table.column(PATH).to_pylist())
    ids = _ids(content, paths, splits, data)
    reasons = dict.fromkeys(_repeated(content, paths, labels, splits), "is listed before, with the same label")
    content, tables, parts = find_parts(content, [file for file, _, _ in mapped])
    paths = tuple(table or path for table, path in zip(tables, paths, strict=True))
    paths, other_accents = _as_files_are(paths)
    digests, deep, unreadable = _digests(content, paths, parts)
    check_same(mapped)
    reasons |= {row: f"cannot be read: {reason}" for row, reason in unreadable.items()}
    reasons |= {int(row): "has no label" for row in np.flatnonzero(labels < 0)}
    reasons |= {int(row): "has no split" for row in np.flatnonzero(splits == "")}
    used = np.delete(np.arange(len(ids)), list(reasons))
    order = used[np.lexsort((ids[used], splits[used], labels[used], np.array(digests, "S32")[used]))]
    if not len(order):
        row, why = min(reasons.items()) if reasons else (0, "")
        such = f", such as {str(ids[row])!r}, which {why}" if reasons else ""
        remedy = "write paths as they are from the table's folder" if Path(data.source).is_file() else "give another"
        raise DataError(f"{data.source} holds no image that can be read{such}; {remedy}.")
    source = Source(
        classes,
        ids,
        labels,
        splits,
        tuple(digests),
        content,
        paths,
        np.arange(len(ids)),
        table.drop_columns([BROUGHT, CONTENT, PATH]),
        skipped,
        parts,
        deep,
        (*other_accents, *warn_of_classes(classes), *warn_of_names(ids[order])),
    )
    left_out = [Skipped(str(ids[row]), why, row in unreadable) for row, why in sorted(reasons.items())]
    return source.take(order, left_out)


def digest_of(content: bytes) -> str:
    """The content digest of an encoded image."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _classes(table: pa.Table, data: Data) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in their fixed order, and a label for each row, -1 where there is none.

    A ClassLabel keeps its order, without names that no row has; whole numbers, written or not, are sorted as numbers
    and names as text.
    """
    column = table.column(data.label)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries().combine_chunks()
        listed = [str(name) for name in column.dictionary.to_pylist()]
        values: list[Any] = [None if code is None else listed[code] for code in column.indices.to_pylist()]
        used = set(values)
        names = [name for name in listed if name in used]
        if unused := [repr(name) for name in listed if name not in used]:
            shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3:,} more" if len(unused) > 3 else "")
            say(f"{data.source} names classes that no row has, which are left out: {shown}")
    else:
        raw = column.to_pylist()
        if any(isinstance(value, (list, dict, bytes)) for value in raw):
            raise DataError(
                f"the column {data.label!r} of {data.source} holds {column.type}, not classes; set data.label."
            )
        raw = [None if value is None or value != value or value == "" else value for value in raw]
        if pa.types.is_floating(column.type):
            if any(value is not None and not value.is_integer() for value in raw):
                raise DataError(
                    f"the column {data.label!r} of {data.source} holds fractions, not classes; set data.label."
                )
            raw = [None if value is None else int(value) for value in raw]
        names = [str(value) for value in _sorted({value for value in raw if value is not None})]
        values = [None if value is None else str(value) for value in raw]
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no class at all"
        raise DataError(f"{data.source} has {found} in the column {data.label!r}; a study needs two or more.")
    if len(names) > 1000 and len(names) > len(values) / 2:
        raise DataError(
            f"the column {data.label!r} of {data.source} has {len(names):,} different values in {len(values):,} rows, "
            "which are no classes; set data.label."
        )
    codes = {name: code for code, name in enumerate(names)}
    return tuple(names), np.array([-1 if value is None else codes[value] for value in values], dtype=np.int64)


def _sorted(values: set[Any]) -> list[Any]:
    """Values in their order; as numbers where each is text that is written like a whole number."""
    numbers = all(
        isinstance(value, str) and re.fullmatch("-?(0|[1-9][0-9]{0,17})", value, re.ASCII) for value in values
    )
    return sorted(values, key=int) if numbers else sorted(values)


def _splits(table: pa.Table, data: Data) -> NDArray[np.str_]:
    if data.split is None:
        return np.array(table.column(BROUGHT).to_pylist(), dtype=np.str_)
    if data.split not in table.column_names:
        raise DataError(f"{data.source} has no column {data.split!r} to name the splits; set data.split.")
    values = table.column(data.split).to_pylist()
    return np.array(["" if value is None or value != value else str(value) for value in values], dtype=np.str_)


def _repeated(
    content: pa.ChunkedArray, paths: tuple[str | None, ...], labels: NDArray[np.int64], splits: NDArray[np.str_]
) -> list[int]:
    """The rows that name a file which a row before names, with the same label and split."""
    seen: set[tuple[str, int, str]] = set()
    repeated = []
    for row, held in enumerate(pc.is_valid(content).to_pylist()):
        path = paths[row]
        if held or path is None:
            continue
        named = (path, int(labels[row]), str(splits[row]))
        if named in seen:
            repeated.append(row)
        seen.add(named)
    return repeated


def _ids(
    content: pa.ChunkedArray, paths: tuple[str | None, ...], splits: NDArray[np.str_], data: Data
) -> NDArray[np.object_]:
    """The files below the source's folder, the names of images that the source holds, else the split and a number.

    All differ: where held images of several splits share names the split comes before each, and `#2` after what is
    there a second time. What is wrong with one row does not change the names of files in others.
    """
    folder, held = _folder(paths, data), pc.is_valid(content).to_pylist()
    names = [path for path, is_held in zip(paths, held, strict=True) if is_held and path is not None]
    prefixed = len(set(names)) < len(names)
    in_split: Counter[str] = Counter()
    times: Counter[str] = Counter()
    ids = []
    for path, split, is_held in zip(paths, splits.tolist(), held, strict=True):
        if path is None:
            name = f"{split}/{in_split[split]:06d}"
        elif is_held:
            name = f"{split}/{path}" if prefixed else path
        else:
            name = os.path.relpath(path, folder) if folder else path
        in_split[split] += 1
        times[name] += 1
        ids.append(escape_bytes(name if times[name] == 1 else f"{name}#{times[name]}"))
    return np.array(ids, dtype=np.object_)


def _folder(paths: tuple[str | None, ...], data: Data) -> str:
    """The folder that names of files are told from: the source's, else the one that they share."""
    files = [path for path in paths if path is not None and os.path.isabs(path)]
    if not files:
        return ""
    given = Path(data.source)
    below = given if given.is_dir() else given.parent
    for folder in (str(below), str(below.resolve())):
        if Path(files[0]).is_relative_to(folder):
            return folder
    return os.path.commonpath([os.path.dirname(path) for path in files])


def _as_files_are(paths: tuple[str | None, ...]) -> tuple[tuple[str | None, ...], list[str]]:
    """Paths with accents composed or decomposed as those of the files are, and a warning where that differs."""
    found, differ = list(paths), list[int]()
    for row, path in enumerate(paths):
        if path is None or path.isascii() or os.path.lexists(path):
            continue
        forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
        if there := next((form for form in forms if os.path.lexists(form)), None):
            found[row] = there
            differ.append(row)
    if not differ:
        return paths, []
    such = f"{paths[differ[0]]!a} for {found[differ[0]]!a}"
    return tuple(found), [f"{len(differ):,} paths are written with other accents than the files, such as {such}"]


def _digests(
    content: pa.ChunkedArray, paths: tuple[str | None, ...], parts: Parts
) -> tuple[list[str], NDArray[np.bool_], dict[int, str]]:
    """The digest of each image's encoded bytes; which may be deep grey; and what cannot be read, with the reason."""
    unreadable: dict[int, str] = {}
    deep = np.zeros(len(paths), np.bool_)

    def digest(row: int) -> str:
        try:
            encoded = _read(content, paths, parts, row)
            deep[row] = may_be_deep(encoded)
            return digest_of(encoded)
        except OSError as error:
            unreadable[row] = error.strerror or str(error)
            return ""

    digests = []
    with workers() as pool, stage("reading", len(paths), "images") as advance:
        for found in in_order(pool, digest, range(len(paths)), AHEAD):
            digests.append(found)
            advance(1)
    return digests, deep, unreadable


def _read(content: pa.ChunkedArray, paths: tuple[str | None, ...], parts: Parts | None, row: int) -> bytes:
    value = content[row].as_py()
    path = paths[row]
    if value is not None:
        return bytes(value)
    if path is None:
        raise FileNotFoundError(0, "neither bytes nor a path")
    if parts is not None and parts[row, 0] >= 0:
        return read_part(path, *parts[row].tolist())
    return read_file(path)
