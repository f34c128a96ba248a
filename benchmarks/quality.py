"""Does thaw train as well as anyone would? Its arms beside other ways to train the same network on the same images.

    python3.11 -m venv /tmp/quality-venv
    echo "$PWD/.venv/lib/python3.11/site-packages" > /tmp/quality-venv/lib/python3.11/site-packages/project.pth
    .venv/bin/pip freeze | grep -E "^(torch|torchvision|numpy|pillow|scikit-learn)==" > /tmp/quality-constraints.txt
    /tmp/quality-venv/bin/pip install -c /tmp/quality-constraints.txt fastai elpv-dataset
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/quality.py --out runs/quality

The first four lines install fastai and the ELPV images beside the project's own packages. What is there in --out is not
computed again: stop it, and go on by the same command. --only, --sets and --draws compute parts, on two cores those of
two draws at once; --only without a name prints the tables of what is there. Settings of thaw are compared under names:

    .venv/bin/python benchmarks/quality.py --only thaw --name thaw-12 --thaw-set train.epochs=12 --out runs/quality

Sets named NAME-1280 have 1,280 training images and two draws, unless --draws names others; the others have 320 and
five. Training and test images are drawn from all images of a set, in the proportions of its classes; at most 2,000 are
tested on. Every contestant is a process of its own. The peers, in peers.py, train on all training images; thaw, from a
cold cache, gets the same ones and draws its validation images from them. Seconds are the processor's, decoding
included: of thaw's whole command, audit and report with it, and of the peers without their imports.
"""

import argparse
import functools
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from quality_tables import PEERS, accuracy, print_tables, read_results
from sklearn.model_selection import train_test_split

SETS = ("trash", "flowers", "faces", "celeba", "elpv", "flowers-1280", "faces-1280")
DRAWS, LARGE_DRAWS, MAX_TESTS = 5, 2, 2000
WEIGHTS = Path(__file__).parent.parent / "src/thaw/recipes/assets/mobilenet_v2.safetensors"


def main() -> None:
    """Run what is missing, draw by draw, and print the tables of what is there."""
    given = parse()
    contestants = {name: given.name if name == "thaw" else name for name in given.only}
    parts = [(draw, name) for draw in range(DRAWS) for name in SETS if draw < LARGE_DRAWS or "-" not in name]
    for draw, name in parts if given.draws is None else itertools.product(given.draws, SETS):
        files = {kind: given.out / name / str(draw) / f"{own}.json" for kind, own in contestants.items()}
        missing = {kind: file for kind, file in files.items() if not file.exists()}
        if missing and name in given.sets:
            run_missing(name, draw, missing, given)
    print_tables(read_results(given.out, SETS), given.name)


def run_missing(name: str, draw: int, missing: dict[str, Path], given: argparse.Namespace) -> None:
    """Run contestants on one draw of a set, and write a file for each."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        tests = write_images(name, draw, work / "images", given)
        for kind, file in missing.items():
            found = run_thaw(work, tests, draw, given) if kind == "thaw" else run_peer(kind, work, tests, draw, given)
            keep(found, file)


def keep(found: dict[str, Any], file: Path) -> None:
    """Write what a contestant did, by rename, and say it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(".part")
    written.write_text(json.dumps(found) + "\n")
    written.rename(file)
    right = ", ".join(f"{arm} {accuracy(bits):.4f}" for arm, bits in found["correct"].items())
    print(f"{'/'.join(file.parts[-3:])}: {right}; {found['seconds']:.0f} s", file=sys.stderr, flush=True)


def write_images(name: str, draw: int, folder: Path, given: argparse.Namespace) -> list[str]:
    """Write train/CLASS and test/CLASS; return the test images in ImageFolder's order, as CLASS/FILE."""
    base, _, count = name.partition("-")
    images, labels = read_elpv(given.peers_python) if base == "elpv" else read_shared(given.shared / base)
    train, rest = train_test_split(
        np.arange(len(images)), train_size=int(count or 320), stratify=labels, random_state=draw
    )
    if len(rest) > MAX_TESTS:
        rest, _ = train_test_split(rest, train_size=MAX_TESTS, stratify=labels[rest], random_state=draw)
    suffix = "png" if base == "elpv" else "jpg"
    for split, rows in (("train", train), ("test", rest)):
        for row in rows:
            file = folder / split / labels[row] / f"{row:06d}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(images[row])
    return [f"{labels[row]}/{row:06d}.{suffix}" for row in sorted(rest, key=lambda row: (labels[row], row))]


@functools.cache
def read_shared(folder: Path) -> tuple[list[bytes], NDArray[np.str_]]:
    """All images of a Hugging Face dataset in Parquet, and the names of their classes."""
    tables = [pq.read_table(file, columns=["image", "label"]) for file in sorted((folder / "data").glob("*.parquet"))]
    names = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    images = [image["bytes"] for table in tables for image in table.column("image").to_pylist()]
    return images, np.array(names)[np.concatenate([table.column("label").to_numpy() for table in tables])]


@functools.cache
def read_elpv(python: Path) -> tuple[list[bytes], NDArray[np.str_]]:
    """The solar cells of `elpv-dataset`, `defective` where that is more likely than not."""
    command = [str(python), "-c", "import elpv_dataset; print(elpv_dataset.__path__[0])"]
    folder = Path(subprocess.check_output(command, text=True).strip()) / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    images = [(folder / row[0]).read_bytes() for row in rows]
    return images, np.array(["defective" if float(row[1]) > 0.5 else "sound" for row in rows])


def run_peer(peer: str, work: Path, tests: list[str], draw: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run one of peers.py in the environment that has fastai."""
    out = work / "peer.json"
    command: list[str | Path] = [given.peers_python, Path(__file__).with_name("peers.py"), peer, work / "images", out]
    command += ["--weights", WEIGHTS, "--size", str(given.size), "--epochs", str(given.epochs), "--seed", str(draw)]
    run(command, work)
    found = json.loads(out.read_text())
    classes = sorted({test.partition("/")[0] for test in tests})
    right = [classes[code] == test.partition("/")[0] for code, test in zip(found["predicted"], tests, strict=True)]
    return {"correct": {peer: as_bits(right)}, "best": peer, "seconds": found["seconds"], "wall": found["wall"]}


def run_thaw(work: Path, tests: list[str], draw: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run `thaw study` with the default recipe for people's own images."""
    out = Path(tempfile.mkdtemp(dir=work)) / "run"
    command: list[str | Path] = [sys.executable, "-m", "thaw", "study", work / "images"]
    command += ["--recipe", "photos", "--out", out]
    settings = [f"images.size={given.size}", f"train.epochs={given.epochs}", f"train.seeds=[{draw}]"]
    settings += [f"data.seed={draw}", *given.thaw_set]
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command + [word for setting in settings for word in ("--set", setting)], work)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = pq.read_table(out / "predictions.parquet", columns=["id", "arm", "label", "predicted"]).to_pylist()
    right = {(row["arm"], row["id"]): row["label"] == row["predicted"] for row in rows}
    metrics = json.loads((out / "metrics.json").read_text())
    return {
        "correct": {arm: as_bits(right[arm, f"test/{test}"] for test in tests) for arm in metrics["arms"]},
        "best": metrics["recommended"],
        "learning_rates": {arm: one["learning_rate"] for arm, one in metrics["arms"].items()},
        "seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall": time.perf_counter() - wall,
        "settings": settings,
    }


def run(command: Iterable[str | Path], work: Path) -> None:
    """Run a command, its cache in a folder of its own; show what it says only where it fails."""
    words = [str(word) for word in command]
    environment = {**os.environ, "THAW_CACHE": str(work / "cache")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}")


def as_bits(right: Iterable[bool]) -> str:
    """1 for each test image that is classified right, 0 for the others."""
    return "".join("01"[one] for one in right)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="a file for each part (%(default)s)")
    parser.add_argument("--only", nargs="*", choices=[*PEERS, "thaw"], default=[*PEERS, "thaw"], help="contestants")
    parser.add_argument("--name", default="thaw", help="what thaw's results are filed under (%(default)s)")
    add_settings(parser)
    return parser.parse_args()


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What images, and how thaw is run; search.py takes the same."""
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--draws", nargs="+", type=int, help="seeds of split and training")
    parser.add_argument("--epochs", type=int, default=8, help="of all contestants (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="of the images, in pixels (%(default)s)")
    parser.add_argument("--thaw-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="where the sets lie (%(default)s)")
    parser.add_argument("--peers-python", type=Path, default=Path("/tmp/quality-venv/bin/python"))


if __name__ == "__main__":
    main()
