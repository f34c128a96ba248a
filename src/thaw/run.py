"""The run directory: what a study leaves behind, and what others read."""

import importlib.metadata
import io
import json
import os
import platform
import statistics
import tomllib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from thaw.compute import Compute
from thaw.data.batches import Inputs
from thaw.data.dataset import Dataset
from thaw.data.source import Source
from thaw.data.splits import Splits, group_codes
from thaw.errors import StorageError
from thaw.recipe import Recipe, to_toml
from thaw.scoring.comparison import RULE, compare, prices, recommend
from thaw.scoring.metrics import log_probabilities
from thaw.scoring.statistics import score_intervals
from thaw.store import key_of, write_atomic, write_json

SAMPLES = 6
"""Sample pictures of each class and split that the report shows."""
MISTAKES = 12
"""The most confident mistakes of each arm that are kept for the report."""
SCORES = ("accuracy", "precision", "recall", "f1")
"""The scores that get an interval and a mean over the seeds."""
PACKAGES = ("torch", "torchvision", "timm", "datasets", "numpy", "scipy", "pillow", "pyarrow", "safetensors")


@dataclass(frozen=True)
class Tested:
    """What one arm with one seed said of the test images."""

    arm: str
    seed: int
    logits: NDArray[np.float32]
    """(test images, classes)"""


def open_run(folder: Path, recipe: Recipe) -> Path:
    """Make the run directory and write the resolved recipe into it.

    Raises StorageError when it cannot be written, or holds something other than this study.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = folder / "recipe.toml"
        text = to_toml(recipe)
        if before.exists() and before.read_text(encoding="utf-8") != text:
            differing = _differing(before, text)
            raise StorageError(f"{folder} holds another study ({differing}); give another folder with --out.")
        if not before.exists() and any(folder.iterdir()):
            raise StorageError(f"{folder} is not empty and holds no study; give another folder with --out.")
        write_atomic(before, text)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}; give another folder with --out.") from error
    return folder


def work_folder(run: Path, dataset: Dataset, compute: Compute) -> Path:
    """Where a run keeps its finished pieces; another folder for other data, another precision or other versions."""
    versions = {name: importlib.metadata.version(name) for name in ("thaw-vision", "torch", "torchvision", "timm")}
    given = {"pixels": dataset.key, "source": dataset.source.fingerprint(), "splits": dataset.splits.how}
    return run / "work" / key_of(**given, versions=versions, compute=[compute.device.type, compute.precision])


def finish_run(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    results: dict[str, list[dict[str, Any]]],
    tested: list[Tested],
    audited: dict[str, Any],
    compute: Compute,
    seconds: dict[str, float],
    command: str,
) -> dict[str, Any]:
    """Write everything that the study found, `metrics.json` last; returns what that holds."""
    source, splits = dataset.source, dataset.splits
    preprocessing = asdict(dataset.preprocessing)
    write_predictions(run, tested, source, splits.test)
    write_examples(run, tested, source, splits, dataset.pixels)
    write_json(run / "modules.json", {arm: runs[0].pop("modules") for arm, runs in results.items()})
    heads = {one.pop("head") for runs in results.values() for one in runs}
    write_environment(run, compute)
    accuracy = {arm: np.mean([one["test"]["accuracy"] for one in runs]) for arm, runs in results.items()}
    found = {
        "thaw": importlib.metadata.version("thaw-vision"),
        "recipe": recipe.name,
        "command": command,
        "classes": list(source.classes),
        "best": max(accuracy, key=lambda arm: accuracy[arm]),
        "splits": {split: len(rows) for split, rows in splits.rows().items()},
        "data": {
            "source": recipe.data.source,
            "fingerprint": source.fingerprint(),
            "how": splits.how,
            "group": recipe.data.group,
            "counts": {
                split: {name: int((source.labels[rows] == code).sum()) for code, name in enumerate(source.classes)}
                for split, rows in splits.rows().items()
            },
            "skipped": [asdict(one) for one in source.skipped],
        },
        "audit": audited,
        "images": {**preprocessing, "decode": recipe.images.decode},
        "model": {**recipe.model.model_dump(), "head": heads.pop(), "precision": compute.precision},
        "arms": {arm: _of_arm(recipe, arm, runs) for arm, runs in results.items()},
        "seconds": seconds,
    }
    _add_statistics(found, recipe, dataset, tested)
    write_json(run / "metrics.json", found)
    return found


def _of_arm(recipe: Recipe, arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What `metrics.json` says of an arm: the fields of the first seed's run, and every run."""
    of_run = ("seed", "learning_rate", "edge", "search", "epochs", "test", "seconds")
    return {
        "weights": recipe.weights_of(arm),
        "train": recipe.arms[arm].train,
        **{name: value for name, value in runs[0].items() if name != "seed"},
        "runs": [{name: one[name] for name in of_run} for one in runs],
    }


def _add_statistics(found: dict[str, Any], recipe: Recipe, dataset: Dataset, tested: list[Tested]) -> None:
    """Add to `metrics.json` how sure each score is, how sure each difference, and which arm follows from that."""
    source, test = dataset.source, dataset.splits.test
    labels, arms, codes = source.labels[test], found["arms"], group_codes(source, recipe.data)
    groups = None if codes is None else np.unique(codes[test], return_inverse=True)[1]
    predicted = {arm: np.stack([one.logits.argmax(1) for one in tested if one.arm == arm]) for arm in arms}
    for arm, it in arms.items():
        by_seed = {score: [one["test"][score] for one in it["runs"]] for score in SCORES}
        it["intervals"] = score_intervals(labels, predicted[arm], len(source.classes), groups)
        it["over_seeds"] = {
            score: {
                "mean": statistics.fmean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
            }
            for score, values in by_seed.items()
        }
    accuracy = {arm: it["over_seeds"]["accuracy"]["mean"] for arm, it in arms.items()}
    trained = {arm: it["parameters"]["trainable"] for arm, it in arms.items()}
    spent = {
        arm: statistics.fmean(one["seconds"]["search"] + one["seconds"]["train"] for one in it["runs"])
        for arm, it in arms.items()
    }
    found["comparisons"] = compare({arm: of_seeds == labels for arm, of_seeds in predicted.items()}, groups)
    found["recommended"] = recommend(found["best"], accuracy, trained, found["comparisons"])
    found["rule"] = RULE
    found["prices"] = prices(accuracy, trained, spent)


def write_predictions(run: Path, tested: list[Tested], source: Source, test: NDArray[np.int64]) -> None:
    """`predictions.parquet`: a row for each test image, arm and seed."""
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


def write_examples(run: Path, tested: list[Tested], source: Source, splits: Splits, pixels: Inputs) -> None:
    """`examples.parquet`: the pictures that the report shows, as the network sees them."""
    shown: list[tuple[int, str, str]] = []
    for split, members in splits.rows().items():
        for code in range(len(source.classes)):
            shown += [(row, split, "sample") for row in members[source.labels[members] == code][:SAMPLES]]
    mistaken: dict[int, None] = {}
    for one in tested:
        wrong = np.flatnonzero(one.logits.argmax(1) != source.labels[splits.test])
        confidence = log_probabilities(one.logits).max(1)
        most = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
        mistaken |= dict.fromkeys(splits.test[most].tolist())
    shown += [(row, "test", "mistake") for row in mistaken]
    table = {
        "id": [str(source.ids[row]) for row, _, _ in shown],
        "split": [split for _, split, _ in shown],
        "label": [source.classes[source.labels[row]] for row, _, _ in shown],
        "role": [role for _, _, role in shown],
        "image": [_jpeg(pixels.image(row)) for row, _, _ in shown],
    }
    _write_table(run / "examples.parquet", pa.table(table))


def write_environment(run: Path, compute: Compute) -> None:
    """`environment.json`: versions and the machine."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    write_json(
        run / "environment.json",
        {
            "thaw": importlib.metadata.version("thaw-vision"),
            "python": platform.python_version(),
            **{name: versions[name] for name in ("torch", "torchvision", "timm")},
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "device": torch.cuda.get_device_name(compute.device)
            if compute.device.type == "cuda"
            else compute.device.type,
            "precision": compute.precision,
            "packages": versions,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _differing(before: Path, text: str) -> str:
    try:
        old, new = _flat(tomllib.loads(before.read_text(encoding="utf-8"))), _flat(tomllib.loads(text))
    except (OSError, ValueError):
        return "its recipe cannot be read"
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    shown = "; ".join(f"{key} is {json.dumps(old.get(key))} there, {json.dumps(new.get(key))} here" for key in keys[:3])
    return shown + (f"; {len(keys) - 3} more" if len(keys) > 3 else "")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
