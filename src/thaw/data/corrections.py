"""Labels that a person corrected: a column of a CSV file, laid over those of a source."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from thaw.data.source import Source
from thaw.errors import DataError
from thaw.progress import say
from thaw.text import count, escape_csv

COLUMNS = ("id", "corrected")
"""The columns that are read; a run's `label_errors.csv` has them, the second empty."""
MAX_BYTES = 1 << 28


def correct_labels(source: Source, file: str | None) -> Source:
    """Return a source with the labels that a file gives instead of its own.

    Parameters
    ----------
    source
        Its images are known by their ids.
    file
        A CSV file with the columns `id` and `corrected`; a row whose `corrected` is empty changes nothing. None
        changes nothing.

    Raises
    ------
    DataError
        The file cannot be read or lacks a column, an id is not in the source or has two corrections, or a correction is
        not a class of the source.
    """
    if file is None:
        return source
    given = _read(file)
    row_of = {escape_csv(str(name)): row for row, name in enumerate(source.ids)}
    row_of |= {str(name): row for row, name in enumerate(source.ids)}
    code_of = {escape_csv(name): code for code, name in enumerate(source.classes)}
    code_of |= {name: code for code, name in enumerate(source.classes)}
    labels = source.labels.copy()
    for name, label in given.items():
        if name not in row_of:
            raise DataError(f"{file} corrects the image {name!r}, which the study does not have; take its row out.")
        if label not in code_of:
            known = ", ".join(map(repr, source.classes[:5])) + (", ..." if len(source.classes) > 5 else "")
            raise DataError(
                f"{file} corrects {name!r} to {label!r}, which is not a class; it should be one of {known}."
            )
        labels[row_of[name]] = code_of[label]
    say(f"{count(int((labels != source.labels).sum()), 'label')} corrected by {file}")
    if len(np.unique(labels)) < 2:
        raise DataError(f"{file} leaves images of one class only; a study needs two or more.")
    return replace(source, labels=labels)


def _read(file: str) -> dict[str, str]:
    """The corrections by id."""
    path, given = Path(file), dict[str, str]()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{file} is larger than {MAX_BYTES >> 20} MiB; leave only the rows with a correction in it."
            )
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text)
            lacking = [column for column in COLUMNS if column not in (rows.fieldnames or [])]
            if lacking:
                raise DataError(f"{file} has no column {lacking[0]!r}; fill in the label_errors.csv of a run.")
            for row in rows:
                name, label = row["id"] or "", (row["corrected"] or "").strip()
                if label and given.setdefault(name, label) != label:
                    raise DataError(f"{file} corrects {name!r} to {given[name]!r} and to {label!r}; keep one row.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV ({error}); give a file in UTF-8.") from error
    return given
