"""CSV and TSV tables: every cell is the text as written."""

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path, PurePath

import pyarrow as pa

from thaw.data.endings import PICTURES
from thaw.errors import DataError, first_line

GAPS = frozenset(["", "nan", "NaN"])
"""Cells that hold nothing; other words that pandas takes so, such as None and NA, may be classes."""
ROWS = 10_000
"""Rows that are held as Python's text at a time."""


def read_delimited(path: Path) -> pa.Table:
    """Read a whole CSV or TSV table.

    Returns
    -------
    pa.Table
        A column of text for each column that has a name; null where a cell is missing, empty, `nan` or `NaN`.

    Raises
    ------
    DataError
        If the file is not such a table, or has no header.
    """
    with open_delimited(path) as (header, rows):
        named = [place for place, name in enumerate(header) if name]
        schema = pa.schema([(header[place], pa.string()) for place in named])
        batches = []
        while chunk := list(islice(rows, ROWS)):
            columns = list(zip(*chunk, strict=True))
            texts = ([None if cell in GAPS else cell for cell in columns[place]] for place in named)
            arrays = [pa.array(cells, pa.string()) for cells in texts]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        return pa.Table.from_batches(batches, schema)


@contextmanager
def open_delimited(path: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Open a CSV or TSV table: its header, and an iterator over its rows, each as long as the header.

    A column without a name, as pandas writes its index, has the name "". Raises DataError, also while rows are read.
    """
    with _one_sentence(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        rows = (row for row in reader if row)
        header = ["" if name.startswith("Unnamed: ") else name for name in next(rows, [])]
        first = next(rows, None)
        _check_header(path, header, first)
        whole = rows if first is None else chain([first], rows)
        yield header, (_fit(row, len(header), reader.line_num, path) for row in whole)


def _check_header(path: Path, header: list[str], first: list[str] | None) -> None:
    twice = [name for name, times in Counter(header).items() if times > 1 and name]
    if twice:
        raise DataError(f"{path} has {len(twice):,} names of columns twice, such as {twice[0]!r}; rename one of each.")
    for name, below in zip(header, first or header, strict=False):
        if _names_picture(name) and _names_picture(below):
            raise DataError(
                f"{path} has no header: its first line names the image {name!r}; add a line before it with the names "
                "of the columns, such as image,label."
            )


def _names_picture(cell: str) -> bool:
    return PurePath(cell).suffix.lower() in PICTURES


def _fit(row: list[str], width: int, line: int, path: Path) -> list[str]:
    """A row as wide as the header: what is missing at its end is empty, and only empty cells may be too many."""
    if any(row[width:]):
        raise DataError(
            f"{path} has {len(row):,} cells in line {line:,} and {width:,} in its first; put cells that hold a "
            "separator between double quotes."
        )
    return row[:width] + [""] * (width - len(row))


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as a table ({first_line(error)}); fix the file or give another."
        ) from error
