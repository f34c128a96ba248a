"""Predictions written for a person, a spreadsheet or a program: a table of text, CSV, JSON lines, Parquet."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thaw.bundle.model import Batch, Bundle, Named
from thaw.cache.files import replacing, writing
from thaw.errors import DataError, StorageError
from thaw.progress import say, stage
from thaw.text import escape_bytes, escape_csv, escape_line, short

FORMATS = ("table", "csv", "jsonl", "parquet")
DIGITS = 6
"""Decimals of a probability in CSV and JSON lines."""
Write = Callable[[Batch], None]


def format_of(form: str | None, out: Path | None) -> str:
    """Return the format to write: the one asked for, else the one of the file's extension, else a table of text."""
    if form is None:
        form = "table" if out is None else out.suffix.lower().removeprefix(".")
        if form not in FORMATS:
            raise StorageError(f"{out} has no known extension; name it .csv, .jsonl or .parquet, or give --format.")
    if form == "parquet" and out is None:
        raise StorageError("Parquet cannot go to standard output; name a file with --out.")
    return form


@dataclass(frozen=True)
class Output:
    """Where predictions go, and how they look."""

    form: str
    """One of `FORMATS`."""
    out: Path | None
    """The file to write; None for standard output."""
    top: int | None
    """How many of the most probable classes to write; None for the probability of every class."""


@dataclass(frozen=True)
class Columns:
    """What is written of each image."""

    classes: tuple[str, ...]
    """The names of the classes, in order."""
    top: int | None
    """How many of the most probable classes; None for the probability of every class."""
    said: tuple[str, ...] = ()
    """What else the model says: some of `set`, `decided` and `unlike`."""


def write_predictions(
    bundle: Bundle, images: Iterable[Named], count: int | None, output: Output, heatmaps: Path | None
) -> None:
    """Predict all images, and write each batch as soon as it is predicted.

    Images that cannot be used are named on standard error and skipped.

    Parameters
    ----------
    bundle
        The trained model.
    images
        Images and their names.
    count
        How many there are; None where only reading them tells.
    output
        Where they go.
    heatmaps
        A folder for each image under its heat map; None for no heat maps.

    Raises
    ------
    DataError
        No image can be used.
    StorageError
        A file cannot be written.
    """
    written, bad = 0, 0
    draw = _nothing if heatmaps is None else _heat_writer(bundle, heatmaps)
    lines_show = output.out is None and sys.stdout.isatty()
    progress = contextlib.nullcontext(_nothing) if lines_show else stage("predicting", count, "images")
    columns = Columns(bundle.classes, output.top, tuple(bundle.doubt.names()) if bundle.doubt else ())
    with writer(output, columns) as write, progress as advance:
        for batch in bundle.batches(images):
            write(batch)
            draw(batch)
            for name, why in batch.bad:
                say(f"skipped {escape_line(name)}: {why}")
            written += len(batch.names)
            bad += len(batch.bad)
            advance(len(batch.names) + len(batch.bad))
        if not written:
            what = f"none of the {bad:,} images can be used" if bad else "there are no images"
            raise DataError(f"{what}; give images, such as JPEG or PNG files.")
    if bad:
        say(f"{bad:,} of {written + bad:,} images cannot be used and were skipped")


def _heat_writer(bundle: Bundle, folder: Path) -> Write:
    from thaw.bundle.heat import heat_writer

    return heat_writer(bundle, folder)


@contextlib.contextmanager
def writer(output: Output, columns: Columns) -> Iterator[Write]:
    """Yield a function that writes one batch after the other, to a file or to standard output.

    The file appears only when the block succeeds. With `top` the most probable classes are written, a column for each
    rank; without it every class, a column for each. Raises StorageError where the file cannot be written.
    """
    form, out = output.form, output.out
    if out is None:
        yield _text_writer(form, sys.stdout, columns)
        return
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            if form == "parquet":
                schema = _schema(columns)
                with pq.ParquetWriter(temporary, schema, compression="zstd") as table:
                    yield lambda batch: table.write_table(pa.table(_columns(batch, columns), schema))
            else:
                with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                    yield _text_writer(form, file, columns)


def _text_writer(form: str, file: TextIO, columns: Columns) -> Write:
    header, lines = {
        "table": (_table_header, _table_lines),
        "csv": (_csv_header, _csv_lines),
        "jsonl": (lambda _: "", _json_lines),
    }[form]
    file.write(header(columns))

    def write(batch: Batch) -> None:
        file.write(lines(batch, columns))
        file.flush()

    return write


def _table_header(columns: Columns) -> str:
    width = _width(columns.classes)
    ranks = f"{'p':>6}  {'class':<{width}}  " * min(columns.top or 1, len(columns.classes))
    return ranks + "".join(f"{name:<{_said_width(name, width)}}  " for name in columns.said) + "image\n"


def _table_lines(batch: Batch, columns: Columns) -> str:
    """Write fixed columns: probability and class of each rank, what else the model says, then the image."""
    lines, classes, width = [], columns.classes, _width(columns.classes)
    said = _said(batch, columns)
    for place, order in enumerate(_ranked(batch, columns.top or 1)):
        row, name = batch.probabilities[place], batch.names[place]
        ranks = "".join(f"{row[code]:6.4f}  {escape_line(classes[code]):<{width}}  " for code in order)
        cells = (f"{_cell_of_table(of[place]):<{_said_width(key, width)}}  " for key, of in said.items())
        lines.append(f"{ranks}{''.join(cells)}{escape_line(name)}\n")
    return "".join(lines)


def _cell_of_table(value: Any) -> str:
    if isinstance(value, list):
        return short(escape_line(", ".join(value) or "none"), 32)
    return escape_line(value) if isinstance(value, str) else f"{value:.2f}{' !' if value > 1 else ''}"


def _said_width(name: str, width: int) -> int:
    return {"set": max(width, 12), "decided": max(width, 7), "unlike": 7}[name]


def _width(classes: tuple[str, ...]) -> int:
    return min(max(len(name) for name in (*classes, "class")), 32)


def _csv_header(columns: Columns) -> str:
    return _csv([[escape_csv(name) for name in _schema(columns).names]])


def _csv_lines(batch: Batch, columns: Columns) -> str:
    values = _columns(batch, columns).values()
    return _csv([_cell(value) for value in row] for row in zip(*values, strict=True))


def _csv(rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json_lines(batch: Batch, columns: Columns) -> str:
    lines, classes, top = [], columns.classes, columns.top
    said = _said(batch, columns)
    for place, order in enumerate(_ranked(batch, top or len(classes))):
        row = batch.probabilities[place]
        chances = {classes[code]: round(float(row[code]), DIGITS) for code in (order if top else range(len(classes)))}
        line = {"image": escape_bytes(batch.names[place]), "predicted": classes[order[0]], "probabilities": chances}
        line |= {key: round(float(of[place]), DIGITS) if key == "unlike" else of[place] for key, of in said.items()}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _schema(columns: Columns) -> pa.Schema:
    classes, top = columns.classes, columns.top
    kinds = {"set": pa.list_(pa.string()), "decided": pa.string(), "unlike": pa.float32()}
    said = {name: kinds[name] for name in columns.said}
    if top is None:
        chances = {f"p_{name}": pa.float32() for name in classes}
        return pa.schema({"image": pa.string(), "predicted": pa.string(), **chances, **said})
    ranks = range(1, min(top, len(classes)) + 1)
    pairs = {f"{name}_{rank}": kind for rank in ranks for name, kind in (("class", pa.string()), ("p", pa.float32()))}
    return pa.schema({"image": pa.string(), **pairs, **said})


def _columns(batch: Batch, columns: Columns) -> dict[str, Any]:
    classes, top = columns.classes, columns.top
    names, images = np.array(classes, dtype=object), [escape_bytes(name) for name in batch.names]
    chances = batch.probabilities.astype(np.float32)
    if top is None:
        each = {f"p_{name}": chances[:, code] for code, name in enumerate(classes)}
        return {"image": images, "predicted": names[chances.argmax(1)], **each, **_said(batch, columns)}
    ranked = _ranked(batch, top)
    found: dict[str, Any] = {"image": images}
    for rank in range(ranked.shape[1]):
        found[f"class_{rank + 1}"] = names[ranked[:, rank]]
        found[f"p_{rank + 1}"] = np.take_along_axis(chances, ranked[:, [rank]], 1)[:, 0]
    return found | _said(batch, columns)


def _said(batch: Batch, columns: Columns) -> dict[str, Any]:
    """What else the model says of each image: `set` as lists of classes, `decided` as classes, `unlike` as numbers."""
    names, answers = columns.classes, batch.answers
    said: dict[str, Any] = {}
    if answers.sets is not None:
        said["set"] = [[name for name, inside in zip(names, row, strict=True) if inside] for row in answers.sets]
    if answers.decided is not None:
        said["decided"] = [names[code] for code in answers.decided]
    if answers.unlike is not None:
        said["unlike"] = answers.unlike
    return said


def _ranked(batch: Batch, top: int) -> Any:
    """Return (n, top) indices of the most probable classes, the most probable first; ties in the order of classes."""
    return np.argsort(-batch.probabilities, axis=1, kind="stable")[:, :top]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)  # begins with a bracket, so no spreadsheet takes it for a formula
    return f"{value:.{DIGITS}f}" if isinstance(value, np.floating) else escape_csv(value)


def _nothing(_: object) -> None:
    """Stand in for heat maps, or a progress bar, that are not wanted."""
