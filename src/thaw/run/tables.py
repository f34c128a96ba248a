"""The Parquet files of a run: predictions, and the pictures that the report shows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from thaw.audit.label_errors import LabelErrors
from thaw.cache.files import write_atomic
from thaw.data.dataset import Dataset
from thaw.run.gallery import Gallery
from thaw.run.summary import TestOutputs
from thaw.scoring.metrics import log_probabilities
from thaw.scoring.slices import Slices

SAMPLES = 6
"""Sample pictures of each class and split that the report shows."""
MISTAKES = 12
"""The most confident mistakes of each arm that are kept among the examples."""
PAIRS = 12
"""Pairs of duplicates across splits that are kept among the examples."""
SMALL = 96
"""Pixels of the longer side of a picture in the gallery."""


def write_predictions(run: Path, tested: list[TestOutputs], dataset: Dataset) -> None:
    """`predictions.parquet`: a row for each test image, arm and seed."""
    source, test = dataset.source, dataset.splits.test
    names = np.array(source.classes)
    tables = []
    for one in tested:
        probabilities = np.exp(log_probabilities(one.logits))
        tables.append(
            pa.table(
                {
                    "id": source.ids[test],
                    "split": ["test"] * len(test),
                    "arm": [one.arm] * len(test),
                    "seed": pa.array([one.seed] * len(test), pa.int64()),
                    "label": names[source.labels[test]],
                    "predicted": names[one.logits.argmax(1)],
                    **{f"p_{name}": probabilities[:, code] for code, name in enumerate(source.classes)},
                }
            )
        )
    _write_table(run / "predictions.parquet", pa.concat_tables(tables))


def write_examples(run: Path, tested: list[TestOutputs], pairs: list[dict[str, Any]], dataset: Dataset) -> None:
    """`examples.parquet`: sample pictures of every class and split, and mistakes, as the network sees them."""
    source, splits = dataset.source, dataset.splits
    shown: list[tuple[int, str, str]] = []
    for split, members in splits.rows().items():
        for code in range(len(source.classes)):
            shown += [(row, split, "sample") for row in members[source.labels[members] == code][:SAMPLES]]
    mistaken: dict[int, None] = {}
    for one in tested:
        most = _confident_mistakes(source.labels[splits.test], one.logits, MISTAKES)
        mistaken |= dict.fromkeys(splits.test[most].tolist())
    shown += [(row, "test", "mistake") for row in mistaken]
    row_of = {str(name): row for row, name in enumerate(source.ids)}
    for pair in pairs[:PAIRS]:
        shown += [(row_of[pair[one]], pair[f"split_{one}"], "pair") for one in ("a", "b")]
    table = {
        "id": [str(source.ids[row]) for row, _, _ in shown],
        "split": [split for _, split, _ in shown],
        "label": [source.classes[source.labels[row]] for row, _, _ in shown],
        "role": [role for _, _, role in shown],
        "image": [_jpeg(dataset.pixels.image(row), quality=90) for row, _, _ in shown],
    }
    _write_table(run / "examples.parquet", pa.table(table))


def write_gallery(run: Path, shown: Gallery, slices: list[Slices], dataset: Dataset) -> None:
    """`gallery.parquet`: small pictures of test images, their slices, and where each arm looked."""
    source, rows = dataset.source, dataset.splits.test[shown.gallery]
    table = {
        "id": source.ids[rows],
        "label": np.array(source.classes)[source.labels[rows]],
        "image": [_small(dataset.pixels.image(row)) for row in rows],
        **{f"slice:{it.column}": np.array(it.values)[it.codes[shown.gallery]] for it in slices},
        **_heat(shown, rows),
    }
    _write_table(run / "gallery.parquet", pa.table(table))


def write_label_errors(run: Path, shown: Gallery, suspects: LabelErrors, dataset: Dataset) -> None:
    """`suspects.parquet`: the images whose label is most probably wrong, the most suspect first, and their maps."""
    source, splits, first = dataset.source, dataset.splits, shown.suspects
    rows, names = suspects.rows[first], np.array(source.classes)
    split_of = np.full(len(source.ids), "", dtype=object)
    for split, members in splits.rows().items():
        split_of[members] = split
    table = {
        "id": source.ids[rows],
        "split": pa.array(split_of[rows], pa.string()),
        "label": names[source.labels[rows]],
        "suggested": names[suspects.suggested[first]],
        "p_label": suspects.p_label[first],
        "p_suggested": suspects.p_suggested[first],
        "score": suspects.score[first],
        "image": pa.array([_small(dataset.pixels.image(row)) for row in rows], pa.binary()),
        **_heat(shown, rows),
    }
    _write_table(run / "suspects.parquet", pa.table(table))


def _heat(shown: Gallery, rows: NDArray[np.int64]) -> dict[str, pa.Array]:
    """A column of heat maps, 14 x 14 bytes each or null, for each arm."""
    return {
        f"heat:{arm}": pa.array([maps[row].tobytes() if row in maps else None for row in rows.tolist()], pa.binary())
        for arm, maps in shown.heat.items()
    }


def _confident_mistakes(labels: NDArray[np.int64], logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    confidence = log_probabilities(logits).max(1)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count]


def _small(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    return _jpeg(np.asarray(image), quality=75)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
