"""A study over 100,000 small pictures, 1% of them broken: seconds of each stage, peak memory, sizes of what it leaves.

    .venv/bin/python benchmarks/many.py ../shared/faces

Real photographs are repeated, each time cropped, relit and shrunk to 40 pixels; the repetitions of one share a split.
As a class folder and as a Parquet table, each with a cache of its own, cold. Peak memory is that of the process, with
the pages of mapped files that were resident; `own` is without these, which the system takes back when it needs them.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from growth import perturbed

from thaw.data.source import read_source
from thaw.recipe import Data
from thaw.run.metrics import read_metrics

SIDE = 40
BROKEN = (
    lambda content: b"",
    lambda content: content[: len(content) // 2],
    lambda content: b"<html>404 not found</html>",
    lambda content: b"\0" * len(content),
)
"""Ways in which every hundredth picture is broken, in turn."""
RECIPE = """
name = "many"
[data]
source = "replaced"
[images]
size = 32
resize = "squash"
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-3, 1e-2]
steps = 10
[train]
batch_size = 256
epochs = 2
precision = "fp32"
[arms.head]
train = "head"
[arms.last-stage]
train = ["features.17", "features.18", "classifier.1"]
"""

Made = list[tuple[int, str, int, bytes]]
"""Number, class, photograph and encoded bytes of some pictures."""


def main() -> None:
    """Make the pictures, study them, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", default=["folder", "parquet"], choices=["folder", "parquet"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "many.toml").write_text(RECIPE)
        begun = time.perf_counter()
        pictures = make_pictures(arguments.source, arguments.count)
        write_folder(work / "folder", pictures)
        write_table(work / "parquet.parquet", pictures)
        print(f"{len(pictures):,} pictures made in {time.perf_counter() - begun:.0f} s", flush=True)
        del pictures
        for kind in arguments.kinds:
            study(work, work / ("folder" if kind == "folder" else "parquet.parquet"))


def make_pictures(source: str, count: int) -> Made:
    """`count` pictures, on all cores."""
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers) as pool:
        parts = pool.map(make_part, [source] * workers, [count] * workers, range(workers), [workers] * workers)
        return sorted((made for part in parts for made in part), key=lambda made: made[0])


def make_part(source: str, count: int, worker: int, workers: int) -> Made:
    """Every `workers`-th picture."""
    images = read_source(Data(source=source))
    made = []
    for number in range(worker, count, workers):
        row, repeat = number % len(images.ids), number // len(images.ids)
        content = perturbed(images.picture(row), np.random.default_rng([row, repeat]), SIDE)
        if number % 100 == 0:
            content = BROKEN[number // 100 % len(BROKEN)](content)
        made.append((number, images.classes[images.labels[row]], row, content))
    return made


def write_folder(root: Path, pictures: Made) -> None:
    """`root/SPLIT/CLASS/NUMBER.jpg`: every tenth photograph for validation, another tenth for test."""
    for number, label, photograph, content in pictures:
        split = {0: "validation", 1: "test"}.get(photograph % 10, "train")
        path = root / split / label / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_table(path: Path, pictures: Made) -> None:
    """A Parquet table with the columns `image`, `label` and `split`, split as the folder is."""
    columns = {
        "image": [content for *_, content in pictures],
        "label": [label for _, label, *_ in pictures],
        "split": [{0: "validation", 1: "test"}.get(photograph % 10, "train") for *_, photograph, _ in pictures],
    }
    pq.write_table(pa.table(columns), path, row_group_size=10_000)


def study(work: Path, source: Path) -> None:
    """Run a study in a process of its own and print what it took and left."""
    run, splits = work / f"run-{source.stem}", ["--set", "data.split=split"] if source.is_file() else []
    command = [sys.executable, "-m", "thaw", "study", str(source), "--recipe", str(work / "many.toml"), *splits]
    environment = {**os.environ, "THAW_CACHE": str(work / f"cache-{source.stem}")}
    begun = time.perf_counter()
    with (work / "said.txt").open("wb") as said:
        process = subprocess.Popen([*command, "--out", str(run)], env=environment, stdout=said, stderr=said)
        own = watch(process, run / "progress.json")
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    lines = (work / "said.txt").read_text().splitlines()
    if status:
        raise SystemExit("\n".join(lines))
    metrics = read_metrics(run)
    skipped = Counter(one.reason.partition(" (")[0] for one in metrics.data.skipped)
    arms = Counter[str]()
    for arm in metrics.arms.values():
        arms.update({stage: getattr(arm.seconds, stage) for stage in ("search", "train", "test")})
    stages = {**{name: s for name, s in metrics.seconds if name not in ("total", "trials")}, **arms}
    print(f"\n{source.stem}: {metrics.splits}, {skipped.total():,} left out: {dict(skipped)}")
    print(f"  {seconds:.1f} s: {', '.join(f'{name} {spent:.1f}' for name, spent in stages.items())}")
    told = ", ".join(f"{stage} {most / 2**20:,.0f}" for stage, most in own.items())
    print(f"  peak memory {usage.ru_maxrss / 1024:,.0f} MiB, own {max(own.values()) / 2**20:,.0f} MiB: {told}")
    sizes = [f"{path.name} {path.stat().st_size / 2**20:.2f}" for path in sorted(run.iterdir()) if path.is_file()]
    print(f"  MiB: {', '.join(sizes)}; {len(lines)} lines of progress")
    for finding in metrics.audit.findings:
        print(f"  {finding.severity}: {finding.what}")
    sys.stdout.flush()


def watch(process: "subprocess.Popen[bytes]", progress: Path) -> dict[str, int]:
    """Wait until a process has ended; by stage of the study, the most memory that it held and that was no file's."""
    seen, stage, most = psutil.Process(process.pid), "start", Counter[str]()
    while seen.status() != psutil.STATUS_ZOMBIE:
        memory = seen.memory_info()
        with contextlib.suppress(OSError, ValueError, KeyError):  # before the first stage
            stage = json.loads(progress.read_text())["stage"]
        most[stage] = max(most[stage], memory.rss - memory.shared)
        time.sleep(0.1)
    return most


if __name__ == "__main__":
    main()
