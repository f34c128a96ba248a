"""The tables of a run: predictions, results, and the images that the report shows."""

import csv
import io
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from thaw.cache.files import replacing, write_atomic, writing
from thaw.compute.batches import consecutive
from thaw.images.encode import encode
from thaw.run.gallery import Gallery
from thaw.run.metrics import Metrics
from thaw.run.results import StudyResult
from thaw.scoring.metrics import block_rows, log_probabilities, log_probabilities_of
from thaw.text import escape_csv

SAMPLES = 6
"""Sample images of each class and split that the report shows."""
MISTAKES = 12
"""The most confident mistakes of each trial that are among the examples."""
PAIRS = 12
"""Pairs of duplicates across splits that are among the examples."""
SCORES = (
    *("accuracy", "precision", "recall", "f1", "balanced_accuracy", "macro_f1", "log_loss", "brier", "auroc"),
    *("average_precision", "top5"),
)
"""The scores in `results.csv`, as `metrics.json` names them."""
TIMES = ("seconds_search", "seconds_train", "seconds_total")
"""The times in `results.csv`: of the search, of the final training, of the whole trial."""
SMALL = 96
"""Pixels of the longer side of an image in the gallery."""


def write_predictions(run: Path, result: StudyResult) -> None:
    """Write `predictions.parquet`: a row for each test image, arm and seed, a trial after the other."""
    source, test = result.dataset.source, result.dataset.splits.test
    names, text = np.array(source.classes), pa.string()
    columns = [(name, text) for name in ("id", "split", "arm")]
    columns += [("seed", pa.int64()), ("label", text), ("predicted", text)]
    schema = pa.schema([*columns, *((f"p_{name}", pa.float64()) for name in source.classes)])
    with (
        writing(run),
        replacing(run / "predictions.parquet") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for one in chain.from_iterable(result.trials().values()):
            for places in consecutive(np.arange(len(test)), block_rows(len(names))):
                rows, logits = test[places], one.logits[places]
                probabilities = np.exp(log_probabilities(logits))
                arrays = [
                    pa.array(source.ids[rows], text),
                    pa.repeat("test", len(rows)),
                    pa.repeat(one.record.arm, len(rows)),
                    pa.repeat(pa.scalar(one.record.seed, pa.int64()), len(rows)),
                    pa.array(names[source.labels[rows]], text),
                    pa.array(names[logits.argmax(1)], text),
                    *map(pa.array, probabilities.T),
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def write_results(run: Path, metrics: Metrics) -> None:
    """Write `results.csv`: a row for each arm and seed, with its main scores on the test images."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "seed", "learning_rate", *SCORES, "trained_parameters", "parameters", *TIMES])
    for arm, it in metrics.arms.items():
        for trial in it.trials:
            scores = (getattr(trial.test, name) for name in SCORES)
            spent = (getattr(trial.seconds, name.removeprefix("seconds_")) for name in TIMES)
            own = it.parameters
            writer.writerow([arm, trial.seed, trial.learning_rate, *scores, own.trainable, own.total, *spent])
    write_atomic(run / "results.csv", out.getvalue())


def write_examples(run: Path, result: StudyResult) -> None:
    """Write `examples.parquet`: samples of every class and split, mistakes and duplicates, as the network sees them."""
    dataset, source, splits = result.dataset, result.dataset.source, result.dataset.splits
    shown: list[tuple[int, str, str]] = []
    for split, members in splits.rows().items():
        for code in range(len(source.classes)):
            shown += [(row, split, "sample") for row in members[source.labels[members] == code][:SAMPLES]]
    mistaken: dict[int, None] = {}
    for one in chain.from_iterable(result.trials().values()):
        most = _confident_mistakes(source.labels[splits.test], one.logits, MISTAKES)
        mistaken |= dict.fromkeys(splits.test[most].tolist())
    shown += [(row, "test", "mistake") for row in mistaken]
    pairs = result.audit.pairs[:PAIRS]
    wanted = {one for pair in pairs for one in (pair.a, pair.b)}
    row_of = {str(name): row for row, name in enumerate(source.ids) if name in wanted}
    for pair in pairs:
        shown += [(row_of[pair.a], pair.split_a, "pair"), (row_of[pair.b], pair.split_b, "pair")]
    table = {
        "id": [str(source.ids[row]) for row, _, _ in shown],
        "split": [split for _, split, _ in shown],
        "label": [source.classes[source.labels[row]] for row, _, _ in shown],
        "role": [role for _, _, role in shown],
        "image": [encode(dataset.pixels.image(row), "JPEG", quality=90) for row, _, _ in shown],
    }
    _write_table(run / "examples.parquet", pa.table(table))


def write_gallery(run: Path, result: StudyResult, gallery: Gallery) -> None:
    """Write `gallery.parquet`: small copies of test images, their slices, and each arm's heat maps."""
    dataset, source, rows = result.dataset, result.dataset.source, result.dataset.splits.test[gallery.test]
    table = {
        "id": source.ids[rows],
        "label": np.array(source.classes)[source.labels[rows]],
        "image": [_small(dataset.pixels.image(row)) for row in rows],
        **{f"slice:{it.column}": np.array(it.values)[it.codes[gallery.test]] for it in result.test_slices()},
        **_heat(gallery, rows),
    }
    _write_table(run / "gallery.parquet", pa.table(table))


def write_label_errors(run: Path, result: StudyResult, gallery: Gallery) -> None:
    """Write `label_errors.parquet`: the images whose labels are most probably wrong, with their heat maps."""
    dataset, source, splits = result.dataset, result.dataset.source, result.dataset.splits
    errors, first = result.label_errors, gallery.label_errors
    rows, names = errors.rows[first], np.array(source.classes)
    split_of = np.full(len(source.ids), "", dtype=object)
    for split, members in splits.rows().items():
        split_of[members] = split
    table = {
        "id": source.ids[rows],
        "split": pa.array(split_of[rows], pa.string()),
        "label": names[source.labels[rows]],
        "suggested": names[errors.suggested[first]],
        "p_label": errors.p_label[first],
        "p_suggested": errors.p_suggested[first],
        "score": errors.score[first],
        "image": pa.array([_small(dataset.pixels.image(row)) for row in rows], pa.binary()),
        **_heat(gallery, rows),
    }
    _write_table(run / "label_errors.parquet", pa.table(table))


def write_corrections(run: Path, result: StudyResult) -> None:
    """Write `label_errors.csv`: every label that counts as an error, the most probable first, for a person to correct.

    `p_wrong` is the probability that the label is wrong; `corrected` is empty, and read back
    by `thaw study --labels`.
    """
    dataset, source, found = result.dataset, result.dataset.source, result.label_errors
    split_of = {row: split for split, members in dataset.splits.rows().items() for row in members.tolist()}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "split", "label", "suggested", "p_wrong", "corrected"])
    for place in np.flatnonzero(found.errors).tolist():
        row, suggested = int(found.rows[place]), int(found.suggested[place])
        label, other = source.classes[source.labels[row]], source.classes[suggested]
        named = [str(source.ids[row]), split_of.get(row, ""), label, other]
        rows.writerow([*map(escape_csv, named), f"{found.chance[place]:.4f}", ""])
    write_atomic(run / "label_errors.csv", text.getvalue())


def _heat(gallery: Gallery, rows: NDArray[np.int64]) -> dict[str, pa.Array]:
    """A column of heat maps, 14 x 14 bytes each or null, for each arm."""
    return {
        f"heat:{arm}": pa.array([maps[row].tobytes() if row in maps else None for row in rows.tolist()], pa.binary())
        for arm, maps in gallery.heat.items()
    }


def _confident_mistakes(labels: NDArray[np.int64], logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    confidence = log_probabilities_of(logits, logits.argmax(1))
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count]


def _small(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    return encode(np.asarray(image), "JPEG", quality=75)


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
