"""The inputs of `thaw predict`: files, folders, globs, tables and standard input, as one stream of named images."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from thaw.bundle.model import Named
from thaw.data.dataset_folder import is_dataset
from thaw.data.delimited import open_delimited
from thaw.data.endings import PICTURES
from thaw.data.folder import walk
from thaw.data.skipped import Skipped
from thaw.data.tables import open_tables
from thaw.errors import DataError, first_line
from thaw.images.decode import BadImageError
from thaw.images.files import below
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
        `**/*.jpg`, a CSV, TSV or Parquet table, a dataset folder, or `-` for the paths in `lines`.
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
        elif path.is_dir() and is_dataset(path):
            rows, number = _dataset(path, column)
            streams.append(rows)
            count = None if count is None else count + number
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
            _check_column(table.schema_arrow, column, path)
            return _values(_batches(table, column, path), column, path, path.parent), table.metadata.num_rows
        with open_delimited(path) as (header, _):
            _check_column(pa.schema([(name, pa.string()) for name in header]), column, path)
        return _delimited(path, column), None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table ({first_line(error)}); fix it or give another.") from error


def _dataset(path: Path, column: str) -> tuple[Iterator[Named], int]:
    """The images of a dataset folder, split by split."""
    opened = open_tables(str(path))
    parts = dict(opened[0]) if opened else {}
    for part in parts.values():
        _check_column(part.features.arrow_schema, column, path)
    streams = [
        _values(_undecoded(part, column).iter(ROWS), column, path / split, path) for split, part in parts.items()
    ]
    return (named for stream in streams for named in stream), sum(map(len, parts.values()))


def _undecoded(part: datasets.Dataset, column: str) -> datasets.Dataset:
    if isinstance(part.features[column], datasets.Image):
        part = part.cast_column(column, datasets.Image(decode=False))
    return part.select_columns([column]).with_format("arrow")


def _delimited(path: Path, column: str) -> Iterator[Named]:
    try:
        with open_delimited(path) as (header, rows):
            place = header.index(column)
            for number, row in enumerate(rows):
                yield _named(row[place], f"{path}#{number}", column, path.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be read further ({first_line(error)}); fix it or give another.") from error


def _batches(table: pq.ParquetFile, column: str, path: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from table.iter_batches(ROWS, columns=[column])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read further ({first_line(error)}); fix it or give another.") from error


def _values(batches: Iterable[pa.RecordBatch | pa.Table], column: str, path: Path, folder: Path) -> Iterator[Named]:
    number = 0
    for batch in batches:
        for value in batch.column(column):
            yield _named(value.as_py(), f"{path}#{number}", column, folder)
            number += 1


def _named(value: Any, number: str, column: str, folder: Path) -> Named:
    """The image of a row, which must lie below the table's folder where it is a file; `number` names it otherwise."""
    content = value.get("bytes") if isinstance(value, dict) else value if isinstance(value, bytes) else None
    where = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    if content is not None:
        return Named(where or number, content)
    if not where:
        return Named(number, BadImageError(f"has no {column}"))
    return Named(where, below(folder, where) or BadImageError(f"lies outside the table's folder {folder}"))


def _check_column(schema: pa.Schema, column: str, path: Path) -> None:
    if column not in schema.names:
        known = ", ".join(schema.names[:20])
        raise DataError(f"{path} has no column {column!r}; it has {known}: name one with --image.")
    kind = schema.field(column).type
    if not (_is_bytes(kind) or _is_text(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
        raise DataError(f"the column {column!r} of {path} holds {kind}, not images; name another with --image.")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
