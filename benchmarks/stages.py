"""Single stages where data is large, each in a process of its own: seconds, and memory beyond what it was given.

    .venv/bin/python benchmarks/stages.py [--rows 200000] [--images 100000 --classes 500]

`read`: a source of tiny images, as a Parquet table and as a CSV with paths. `label errors`: the features and labels of
images of many classes; probes are made up, since fitting them needs the same memory whatever the images. `predictions`:
three trials' logits of that many classes for a tenth of the images. `near pairs`: random outlines, with `--pairs`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from thaw.audit import label_errors
from thaw.audit.label_errors import find_label_errors
from thaw.data.duplicates import components, near_pairs
from thaw.data.source import read_source
from thaw.images.encode import encode
from thaw.recipe import Data
from thaw.run.gallery import choose_images
from thaw.run.tables import write_predictions

FEATURES = 64


def main() -> None:
    """Print a row for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--group", type=int, default=2, help="images of a group, 0 for no groups")
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--stages", nargs="+", default=["parquet", "csv", "label errors", "predictions"])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        STAGES[given.only](Path(given.work), given)
        return
    print(f"{'stage':<14}{'rows':>10}{'classes':>9}{'seconds':>9}{'peak MiB':>10}{'stays MiB':>11}", flush=True)
    with tempfile.TemporaryDirectory() as work:
        for stage in [*given.stages, *(["near pairs"] if given.pairs else [])]:
            environment = {**os.environ, "THAW_CACHE": str(Path(work) / "cache")}
            command = [sys.executable, __file__, *sys.argv[1:], "--only", stage, "--work", work]
            subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


def read(work: Path, given: argparse.Namespace, kind: str) -> None:
    """Read a source of tiny images."""
    image = encode(np.zeros((8, 8, 3), np.uint8), "PNG")
    contents = (image + number.to_bytes(4, "big") for number in range(given.rows))  # all different
    labels = [f"class {number % 10}" for number in range(given.rows)]
    path = work / f"table.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"image": list(contents), "label": labels}), path)
    else:
        names = [f"images/{number // 1000:04d}/{number:08d}.png" for number in range(given.rows)]
        for name, content in zip(names, contents, strict=True):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
        path.write_text("image,label\n" + "".join(rows))
    del contents, labels
    measure(kind, given.rows, 10, lambda: read_source(Data(source=str(path))))


class MadeUp:
    """A probe that was not fitted: a fixed probability of each class, and a little of the features."""

    def __init__(self, classes: int) -> None:
        self.weights = np.random.default_rng(0).standard_normal((FEATURES, classes), dtype=np.float32)

    def predict_proba(self, values: np.ndarray) -> np.ndarray:
        """(n, classes) float32, as scikit-learn returns it."""
        powers = np.exp(values @ self.weights / 8)
        return powers / powers.sum(1, keepdims=True)


def errors(work: Path, given: argparse.Namespace) -> None:
    """Find label errors with probes that cost nothing to fit."""
    label_errors._fit = lambda values, labels, strength: MadeUp(len(np.unique(labels)))
    features = np.random.default_rng(0).standard_normal((given.images, FEATURES), dtype=np.float32)
    labels, rows = np.arange(given.images) % given.classes, np.arange(given.images)
    pool, test = rows[: given.images * 9 // 10], rows[given.images * 9 // 10 :]
    known = (features, labels, rows // given.group if given.group else None, pool, test)
    measure("label errors", given.images, given.classes, lambda: find_label_errors(*known))


def predictions(work: Path, given: argparse.Namespace) -> None:
    """Choose the images of the gallery and write the predictions of three trials."""
    count, random = given.images // 10, np.random.default_rng(0)
    labels = np.arange(count) % given.classes
    results: list[Any] = [
        SimpleNamespace(
            record=SimpleNamespace(arm="head", seed=seed),
            logits=random.standard_normal((count, given.classes), dtype=np.float32),
        )
        for seed in range(3)
    ]
    classes = tuple(f"class {code}" for code in range(given.classes))
    source = SimpleNamespace(ids=np.array([f"{row:08d}.png" for row in range(count)]), classes=classes, labels=labels)
    dataset = SimpleNamespace(source=source, splits=SimpleNamespace(test=np.arange(count)))
    result: Any = SimpleNamespace(dataset=dataset, trials=lambda: {"head": results})
    measure("gallery", count, given.classes, lambda: choose_images(labels, results))
    measure("predictions", count, given.classes, lambda: write_predictions(work, result))
    print(f"{(work / 'predictions.parquet').stat().st_size / 2**20:.1f} MiB of predictions.parquet", flush=True)


def pairs(work: Path, given: argparse.Namespace) -> None:
    """Compare random outlines, each with each."""
    looks = np.random.default_rng(0).standard_normal((given.pairs, 512), dtype=np.float32)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)

    def search() -> object:
        found = near_pairs(looks, torch.device("cpu"))
        return components(len(looks), ((first, second) for first, second, _ in found))

    measure("near pairs", given.pairs, 0, search)


STAGES: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "parquet": lambda work, given: read(work, given, "parquet"),
    "csv": lambda work, given: read(work, given, "csv"),
    "label errors": errors,
    "predictions": predictions,
    "near pairs": pairs,
}


def measure(name: str, rows: int, classes: int, work: Callable[[], object]) -> None:
    """Print a row: CPU seconds, and the memory that is no file's, at most and while the result is held."""
    before, most, ended = own(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.005):
            most = max(most, own() - before)

    watcher, begun = threading.Thread(target=watch), time.process_time()
    watcher.start()
    result = work()
    seconds = time.process_time() - begun
    ended.set()
    watcher.join()
    stays = own() - before
    del result
    print(
        f"{name:<14}{rows:>10,}{classes:>9,}{seconds:>9.1f}{max(most, stays) / 2**20:>10,.0f}{stays / 2**20:>11,.0f}",
        flush=True,
    )


def own() -> int:
    """The bytes that this process holds and that are no file's."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


if __name__ == "__main__":
    main()
