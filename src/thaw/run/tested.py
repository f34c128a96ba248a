"""Finished models on new labelled pictures: `thaw test`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from thaw.bundle.load import load, read_config
from thaw.cache.arrays import key_of
from thaw.cache.files import replacing, write_json, writing
from thaw.data.shifted import ShiftedSet, read_shifted
from thaw.errors import BundleError, StorageError
from thaw.progress import stage
from thaw.recipe import Data, Metric
from thaw.record import Record
from thaw.run.looks import enter_look
from thaw.run.metrics import FILE, METRICS, read_metrics
from thaw.scoring.metrics import log_probabilities
from thaw.scoring.shift import Own, SetScores, Shift, score_set
from thaw.text import between, escape_csv
from thaw.versions import versions

FORMAT: Literal[1] = 1
"""Changes when a required key is added, or a key is renamed, removed or means something else."""


class SourceScores(Record):
    """What `thaw test --out` writes: finished models on new labelled images."""

    format: Literal[1]
    """The version of this format."""
    thaw: str
    """The version of thaw that wrote it."""
    model: str
    """The bundle or run that was tested."""
    classes: list[str]
    """The classes, in the order of confusion matrices."""
    fingerprint: str
    """A digest of the images and their labels."""
    group: str | None
    """The column of groups that intervals respect."""
    skipped: int
    """Files or rows that were left out."""
    looks: int | None
    """How many different models and studies have been scored on just these images on this machine, this one included;
    None where the cache is read-only."""
    results: SetScores
    """The scores of each arm."""


@dataclass(frozen=True)
class Tested:
    """Models on a set of images."""

    record: SourceScores
    images: ShiftedSet
    logits: dict[str, NDArray[np.float32]]
    """For each arm (n, classes)."""
    temperatures: dict[str, float | None]

    def sentence(self) -> str:
        """Say in a sentence how the recommended arm, or the only one, does there compared with the study's test set."""
        arms = self.record.results.arms
        return sentence(next(iter(arms)), self.record.results)


def score_source(path: Path, data: Data, device: str, precision: str, *, known: bool = False) -> Tested:
    """Score a bundle, or every bundle of a run, on labelled images, without training.

    Parameters
    ----------
    path
        The folder of a bundle or of a finished run.
    data
        The images and their columns; `data.test` is the split of the source to take, else all is taken.
    device, precision
        As in `thaw.load`.
    known
        Leave out images of classes that the models do not know; else they are an error.

    Returns
    -------
    Tested
        The arms in the order of the run, the recommended one first.

    Raises
    ------
    BundleError
        There is no sound bundle.
    DataError
        The images cannot be read, or have other classes.
    """
    folders, training, metric = _models(path)
    bundles = [load(folder, device, precision) for folder in folders]
    first = bundles[0]
    if any((one.classes, one.preprocessing, one.decode) != (first.classes, first.preprocessing, first.decode)
           for one in bundles):  # fmt: skip
        raise BundleError(f"the bundles of {path} differ in classes or preprocessing; test one at a time.")
    images = read_shifted(data.source, data, first.classes, first.preprocessing, first.decode, known=known)
    logits, temperatures, own = {}, {}, {}
    with stage("testing", len(bundles), "bundles") as advance:
        for folder, bundle in zip(folders, bundles, strict=True):
            arm = str(bundle.config.get("arm", folder.name))
            logits[arm], temperatures[arm] = bundle.logits_of(images.pixels), bundle.temperature
            own[arm] = _own(bundle.config.get("test", {}), metric)
            advance(1)
    shift = Shift("source", data.source, first.classes, images.labels, images.groups, metric, temperatures, training)
    record = SourceScores(
        format=FORMAT,
        thaw=versions("thaw-vision")["thaw-vision"],
        model=str(path),
        classes=list(first.classes),
        fingerprint=key_of(images=images.digests, labels=images.labels.tolist(), classes=first.classes),
        group=data.group if images.groups is not None else None,
        skipped=len(images.skipped),
        looks=enter_look(images.digests, key_of(models=[str(one.config["sha256"]) for one in bundles])),
        results=score_set(shift, {arm: [one] for arm, one in logits.items()}, own),
    )
    return Tested(record, images, logits, temperatures)


def sentence(arm: str, results: SetScores) -> str:
    """Say in a sentence how an arm does on a further test set, compared with the study's own."""
    it, name = results.arms[arm], METRICS[results.metric]
    said = f"`{arm}` has {name} {it.value:.4f}"
    if it.interval:
        said += f" (95% interval {between(it.interval)})"
    said += f" on {results.images:,} images of {results.origin}"
    if it.own is None or it.change is None:
        return f"{said}; what it has on the study's own test set is not known."
    told = f"{abs(it.change):.4f} {'less' if it.change < 0 else 'more'} than the {it.own:.4f} on the study's test set"
    if it.change_interval is None:
        return f"{said}, {told}."
    low, high = it.change_interval
    sure = "" if low > 0 or high < 0 else ", which chance may explain"
    return f"{said}, {told} (95% interval of the change {low:+.4f} to {high:+.4f}){sure}."


def write_scores(out: Path, tested: Tested) -> None:
    """Write the record as JSON. Raises StorageError where it cannot be written."""
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, tested.record.model_dump(mode="json"))


def check_answers(out: Path) -> None:
    """Raise StorageError where a file for `write_answers` has neither of its extensions."""
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise StorageError(f"{out} has no known extension; name it .csv or .parquet.")


def write_answers(out: Path, tested: Tested) -> None:
    """Write a row for each arm and image, as CSV or Parquet by the name: `id`, `arm`, `label`, `predicted`, `p_CLASS`.

    Probabilities are those that the bundle gives, at its temperature. Raises StorageError where the file cannot be
    written.
    """
    names, images = np.array(tested.record.classes, dtype=object), tested.images
    parts = []
    for arm, logits in tested.logits.items():
        chances = np.exp(log_probabilities(logits / np.float32(tested.temperatures[arm] or 1)))
        columns = {
            "id": pa.array(images.ids.tolist(), pa.string()),
            "arm": pa.repeat(arm, len(images.ids)),
            "label": pa.array(names[images.labels], pa.string()),
            "predicted": pa.array(names[logits.argmax(1)], pa.string()),
            **{f"p_{name}": chances[:, code] for code, name in enumerate(names)},
        }
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts)
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as file:
            if out.suffix.lower() == ".parquet":
                pq.write_table(table, file, compression="zstd")
            else:
                csv.write_csv(_spreadsheet(table), file)


def _spreadsheet(table: pa.Table) -> pa.Table:
    """The table with text that no spreadsheet takes for a formula."""
    columns = {
        name: pa.array(map(escape_csv, column.to_pylist())) if pa.types.is_string(column.type) else column
        for name, column in zip(map(escape_csv, table.column_names), table.columns, strict=True)
    }
    return pa.table(columns)


def _models(path: Path) -> tuple[list[Path], NDArray[np.int64] | None, Metric]:
    """The bundles of a run, the recommended first, or the one; training images of each class; the verdict's metric."""
    if not (path / FILE).is_file():
        return [path], None, _metric(path)
    metrics = read_metrics(path)
    arms = sorted(metrics.arms, key=lambda arm: arm != metrics.recommended)
    training = np.array([metrics.data.counts["train"][name] for name in metrics.classes])
    return [path / "models" / arm for arm in arms], training, metrics.verdict.metric


def _metric(bundle: Path) -> Metric:
    """The metric of the verdict of the study that a bundle is of; accuracy where it does not say."""
    try:
        given = tomllib.loads(read_config(bundle)["recipe"])["verdict"]["metric"]
    except (KeyError, TypeError, ValueError):
        return "accuracy"
    return next((metric for metric in METRICS if metric == given), "accuracy")


def _own(test: object, metric: Metric) -> Own | None:
    """What the study measured of a bundle on its own test set; None where `config.json` does not say."""
    sign = -1 if metric == "log_loss" else 1
    try:
        value, interval = test[metric], test["intervals"].get(metric)  # type: ignore[index]
        ends = None if interval is None else sorted(sign * float(end) for end in interval)
        return Own(value=sign * float(value), interval=None if ends is None else (ends[0], ends[1]))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
