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
from thaw.text import escape_bytes, escape_csv, escape_line

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
    with writer(output, bundle.classes) as write, progress as advance:
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
def writer(output: Output, classes: tuple[str, ...]) -> Iterator[Write]:
    """Yield a function that writes one batch after the other, to a file or to standard output.

    The file appears only when the block succeeds. With `output.top` the most probable classes are written, a column for
    each rank; without it every class, a column for each. Raises StorageError where the file cannot be written.
    """
    form, out, top = output.form, output.out, output.top
    if out is None:
        yield _text_writer(form, sys.stdout, classes, top)
        return
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            if form == "parquet":
                schema = _schema(classes, top)
                with pq.ParquetWriter(temporary, schema, compression="zstd") as table:
                    yield lambda batch: table.write_table(pa.table(_columns(batch, classes, top), schema))
            else:
                with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                    yield _text_writer(form, file, classes, top)


def _text_writer(form: str, file: TextIO, classes: tuple[str, ...], top: int | None) -> Write:
    header, lines = {
        "table": (_table_header, _table_lines),
        "csv": (_csv_header, _csv_lines),
        "jsonl": (lambda *_: "", _json_lines),
    }[form]
    file.write(header(classes, top))

    def write(batch: Batch) -> None:
        file.write(lines(batch, classes, top))
        file.flush()

    return write


def _table_header(classes: tuple[str, ...], top: int | None) -> str:
    return f"{'p':>6}  {'class':<{_width(classes)}}  " * min(top or 1, len(classes)) + "image\n"


def _table_lines(batch: Batch, classes: tuple[str, ...], top: int | None) -> str:
    """Write fixed columns: probability and class of each rank, then the image."""
    lines, width = [], _width(classes)
    for name, row, order in zip(batch.names, batch.probabilities, _ranked(batch, top or 1), strict=True):
        ranks = "".join(f"{row[code]:6.4f}  {escape_line(classes[code]):<{width}}  " for code in order)
        lines.append(f"{ranks}{escape_line(name)}\n")
    return "".join(lines)


def _width(classes: tuple[str, ...]) -> int:
    return min(max(len(name) for name in (*classes, "class")), 32)


def _csv_header(classes: tuple[str, ...], top: int | None) -> str:
    return _csv([[escape_csv(name) for name in _schema(classes, top).names]])


def _csv_lines(batch: Batch, classes: tuple[str, ...], top: int | None) -> str:
    columns = _columns(batch, classes, top).values()
    return _csv([_cell(value) for value in row] for row in zip(*columns, strict=True))


def _csv(rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json_lines(batch: Batch, classes: tuple[str, ...], top: int | None) -> str:
    lines = []
    for name, row, order in zip(batch.names, batch.probabilities, _ranked(batch, top or len(classes)), strict=True):
        chances = {classes[code]: round(float(row[code]), DIGITS) for code in (order if top else range(len(classes)))}
        line = {"image": escape_bytes(name), "predicted": classes[order[0]], "probabilities": chances}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _schema(classes: tuple[str, ...], top: int | None) -> pa.Schema:
    if top is None:
        chances = {f"p_{name}": pa.float32() for name in classes}
        return pa.schema({"image": pa.string(), "predicted": pa.string(), **chances})
    ranks = range(1, min(top, len(classes)) + 1)
    pairs = {f"{name}_{rank}": kind for rank in ranks for name, kind in (("class", pa.string()), ("p", pa.float32()))}
    return pa.schema({"image": pa.string(), **pairs})


def _columns(batch: Batch, classes: tuple[str, ...], top: int | None) -> dict[str, Any]:
    names, images = np.array(classes, dtype=object), [escape_bytes(name) for name in batch.names]
    chances = batch.probabilities.astype(np.float32)
    if top is None:
        each = {f"p_{name}": chances[:, code] for code, name in enumerate(classes)}
        return {"image": images, "predicted": names[chances.argmax(1)], **each}
    ranked = _ranked(batch, top)
    columns: dict[str, Any] = {"image": images}
    for rank in range(ranked.shape[1]):
        columns[f"class_{rank + 1}"] = names[ranked[:, rank]]
        columns[f"p_{rank + 1}"] = np.take_along_axis(chances, ranked[:, [rank]], 1)[:, 0]
    return columns


def _ranked(batch: Batch, top: int) -> Any:
    """Return (n, top) indices of the most probable classes, the most probable first; ties in the order of classes."""
    return np.argsort(-batch.probabilities, axis=1, kind="stable")[:, :top]


def _cell(value: Any) -> str:
    return f"{value:.{DIGITS}f}" if isinstance(value, np.floating) else escape_csv(value)


def _nothing(_: object) -> None:
    """Stand in for heat maps, or a progress bar, that are not wanted."""
