"""Predictions as a person, a spreadsheet or a program reads them: lines of text, CSV, JSON lines, Parquet."""

import contextlib
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thaw.bundle.load import Bundle
from thaw.bundle.predict import Batch, Named, predict
from thaw.cache.files import replacing, writing
from thaw.errors import DataError, StorageError
from thaw.progress import say, stage

FORMATS = ("table", "csv", "jsonl", "parquet")
DIGITS = 6
"""Decimals of a probability in CSV and JSON lines."""
Write = Callable[[Batch], None]


def format_of(form: str | None, out: Path | None) -> str:
    """The format to write: the one asked for, else the one that the file's ending says, else a table to read."""
    if form is None:
        form = "table" if out is None else out.suffix.lower().removeprefix(".")
        if form not in FORMATS:
            raise StorageError(f"{out} ends like no format; name it .csv, .jsonl or .parquet, or give --format.")
    if form == "parquet" and out is None:
        raise StorageError("Parquet cannot go to standard output; name a file with --out.")
    return form


def write_predictions(
    bundle: Bundle,
    pictures: Iterable[Named],
    count: int | None,
    form: str,
    out: Path | None,
    top: int | None,
    heatmaps: Path | None,
) -> None:
    """Predict all pictures, `count` of them where that is known, and write what came out of each batch at once.

    With `heatmaps`, a folder, each picture under its heat map is written there. Those that cannot be used are named on
    standard error and left out. Raises DataError where none can be used.
    """
    written, bad = 0, 0
    draw = _nothing if heatmaps is None else _heat_writer(bundle, heatmaps)
    lines_show = out is None and sys.stdout.isatty()
    progress = contextlib.nullcontext(_nothing) if lines_show else stage("predicting", count, "images")
    with writer(form, out, bundle.classes, top) as write, progress as advance:
        for batch in predict(bundle, pictures):
            write(batch)
            draw(batch)
            for name, why in batch.bad:
                say(f"passed over {_plain(name)}: {why}")
            written += len(batch.names)
            bad += len(batch.bad)
            advance(len(batch.names) + len(batch.bad))
        if not written:
            what = f"none of the {bad:,} images can be used" if bad else "there are no images"
            raise DataError(f"{what}; give pictures, such as JPEG or PNG files.")
    if bad:
        say(f"{bad:,} of {written + bad:,} images cannot be used and were passed over")


def _heat_writer(bundle: Bundle, folder: Path) -> Write:
    from thaw.bundle.heat import heat_writer

    return heat_writer(bundle, folder)


@contextlib.contextmanager
def writer(form: str, out: Path | None, classes: tuple[str, ...], top: int | None) -> Iterator[Write]:
    """A function that writes one batch after the other, to `out` or to standard output.

    `out` takes its name when the block ends well. With `top` the likeliest classes are written, a column for each rank;
    without it all, a column for each class. Raises StorageError where `out` cannot be written.
    """
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
    """Fixed columns: probability and class of each rank, then the picture; control characters are shown as `?`."""
    lines, width = [], _width(classes)
    for name, row, order in zip(batch.names, batch.probabilities, _ranked(batch, top or 1), strict=True):
        ranks = "".join(f"{row[code]:6.4f}  {_plain(classes[code]):<{width}}  " for code in order)
        lines.append(f"{ranks}{_plain(name)}\n")
    return "".join(lines)


def _width(classes: tuple[str, ...]) -> int:
    return min(max(len(name) for name in (*classes, "class")), 32)


def _csv_header(classes: tuple[str, ...], top: int | None) -> str:
    return _csv([[_harmless(name) for name in _schema(classes, top).names]])


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
        line = {"image": _encodable(name), "predicted": classes[order[0]], "probabilities": chances}
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
    names, images = np.array(classes, dtype=object), [_encodable(name) for name in batch.names]
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
    """(n, top) codes of the likeliest classes, the likeliest first; of equals the first."""
    return np.argsort(-batch.probabilities, axis=1, kind="stable")[:, :top]


def _cell(value: Any) -> str:
    return f"{value:.{DIGITS}f}" if isinstance(value, np.floating) else _harmless(value)


def _harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula: one that begins like it gets an apostrophe in front.

    OWASP, CSV injection.
    """
    number = re.fullmatch(r"[+-]?\d+(\.\d+)?", text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not number else text


def _nothing(_: object) -> None:
    """What is done of what nobody asked for."""


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _encodable(name: str) -> str:
    """A file's name with bytes that are no UTF-8 written as `\\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
