"""The inputs of `thaw predict`: files, folders, globs, tables and standard input, as one stream of named images."""

import csv
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from thaw.bundle.model import Named
from thaw.data.folder import PICTURES, walk
from thaw.data.skipped import Skipped
from thaw.errors import DataError, first_line
from thaw.images.decode import BadImageError
from thaw.progress import say

TABLES = (".csv", ".tsv", ".parquet")
"""Extensions of files that are read as tables, in lower case."""
ROWS = 64
"""Rows of a Parquet table that are read at a time."""


def find_images(given: Iterable[str], column: str, lines: TextIO) -> tuple[Iterator[Named], int | None]:
    """Find the images that a command names.

    Parameters
    ----------
    given
        Each an image, a folder (searched recursively for files with an image's extension), a pattern such as
        `**/*.jpg`, a CSV, TSV or Parquet table, or `-` for the paths in `lines`.
    column
        The column of a table that holds paths below the table's folder, or encoded images.
    lines
        Paths, one a line.

    Returns
    -------
    tuple
        An iterator over the images in the order given, and how many there are: None where only reading them tells.

    Raises
    ------
    DataError
        Something is not there, holds no image or cannot be read.
    """
    streams: list[Iterator[Named]] = []
    count: int | None = 0
    for argument in given:
        path = Path(argument)
        if argument == "-":
            streams.append(Named(name, name) for line in lines if (name := line.rstrip("\r\n")))
            count = None
        elif path.suffix.lower() in TABLES and path.is_file():
            rows, number = _table(path, column)
            streams.append(rows)
            count = None if count is None or number is None else count + number
        else:
            files = _files(argument)
            streams.append(Named(name, name) for name in files)
            count = None if count is None else count + len(files)
    return (named for stream in streams for named in stream), count


def _files(argument: str) -> list[str]:
    if os.path.isdir(argument):
        skipped: list[Skipped] = []
        found = [name for name in walk(argument, argument, skipped) if Path(name).suffix.lower() in PICTURES]
        for one in skipped:
            say(f"skipped {os.path.join(argument, one.id)}: {one.reason}")
        if not found:
            raise DataError(f"the folder {argument} holds no image; give one that does, or a table of images.")
        return sorted(found)
    if os.path.exists(argument):
        return [argument]
    if found := [name for name in glob.glob(argument, recursive=True) if not os.path.isdir(name)]:
        return sorted(found)
    raise DataError(f"there is no {argument}; give images, folders, patterns, tables, or - for one path a line.")


def _table(path: Path, column: str) -> tuple[Iterator[Named], int | None]:
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.ParquetFile(path)
            _check_column(table.schema_arrow.names, column, path)
            kind = table.schema_arrow.field(column).type
            if not (
                _is_bytes(kind) or _is_text(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
            ):
                raise DataError(f"the column {column!r} of {path} holds {kind}, not images; name another with --image.")
            return _parquet(table, column, path), table.metadata.num_rows
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        with path.open(encoding="utf-8-sig", newline="") as opened:
            _check_column(next(csv.reader(opened, delimiter=separator), []), column, path)
        return _csv(path, column, separator), None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table ({first_line(error)}); fix it or give another.") from error


def _csv(path: Path, column: str, separator: str) -> Iterator[Named]:
    root = path.parent.resolve()
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            for number, row in enumerate(csv.DictReader(opened, delimiter=separator)):
                if name := row.get(column):
                    yield Named(name, _below(root, name))
                else:
                    yield Named(f"{path}#{number}", BadImageError(f"has no {column}"))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read further ({first_line(error)}); fix it or give another.") from error


def _parquet(table: pq.ParquetFile, column: str, path: Path) -> Iterator[Named]:
    root, number = path.parent.resolve(), 0
    try:
        for batch in table.iter_batches(ROWS, columns=[column]):
            for value in batch.column(0):
                one = value.as_py()
                content = one.get("bytes") if isinstance(one, dict) else one if isinstance(one, bytes) else None
                where = one.get("path") if isinstance(one, dict) else one if isinstance(one, str) else None
                name = where or f"{path}#{number}"
                number += 1
                if content is not None:
                    yield Named(name, content)
                elif where:
                    yield Named(name, _below(root, where))
                else:
                    yield Named(name, BadImageError(f"has no {column}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read further ({first_line(error)}); fix it or give another.") from error


def _below(root: Path, name: str) -> Path | BadImageError:
    """Return the path of a table's image, which must lie below the table's folder, or why it cannot be used."""
    try:
        full = (root / name).resolve()
    except (OSError, ValueError) as error:  # ValueError: a null character
        return BadImageError(f"cannot be read: {first_line(error)}")
    return full if full.is_relative_to(root) else BadImageError(f"lies outside the table's folder {root}")


def _check_column(names: list[str], column: str, path: Path) -> None:
    if column not in names:
        raise DataError(f"{path} has no column {column!r}; it has {', '.join(names[:20])}: name one with --image.")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
