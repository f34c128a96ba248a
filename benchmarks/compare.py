"""The founding study by `notebook.py` and by thaw, on the same images, in turn, in one run; prints both and the ratios.

    .venv/bin/python benchmarks/compare.py ../shared/faces \\
        --weights ../shared/weights/alexnet_tiny_imagenet_fp16.safetensors

Each side runs in a process of its own, thaw with a cold cache. What arms share (decoding by all, activations by those
with a frozen part) is divided evenly among them before an arm is compared.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import datasets
import tomlkit
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from thaw.cache.files import write_atomic
from thaw.report.figures import arm_colour, new_axes
from thaw.report.svg import png
from thaw.run.metrics import read_metrics

HERE = Path(__file__).parent
RECIPE = HERE.parent / "src" / "thaw" / "recipes" / "celeba-hq-gender.toml"


def main() -> None:
    """Cut the images out, run the notebook and thaw at each precision, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a Hugging Face dataset folder with splits train and validation")
    parser.add_argument("--weights", required=True, help="AlexNet's weights, a .safetensors file")
    parser.add_argument("--train", type=int, default=4334)
    parser.add_argument("--validation", type=int, default=333)
    parser.add_argument("--test", type=int, default=333)
    parser.add_argument("--arms", nargs="+", default=["scratch", "head", "last-two-fc"])
    parser.add_argument("--fp32-arms", nargs="*", default=["head", "last-two-fc"], help="arms run in fp32 as well")
    parser.add_argument("--notebook", type=Path, help="reuse the JSON of an earlier notebook run instead of running it")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--figure", type=Path, help="draw them, as docs/speed.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cut(arguments.source, work / "images", arguments.train + arguments.validation, arguments.test)
        sides = {"notebook": notebook(arguments, work)}
        sides["thaw auto"] = thaw(arguments, work, "auto", arguments.arms)
        if arguments.fp32_arms:
            sides["thaw fp32"] = thaw(arguments, work, "fp32", arguments.fp32_arms)
    print_table(sides, arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(sides, indent=1))
    if arguments.figure:
        write_atomic(arguments.figure, png(plot_seconds(sides)))


def cut(source: str, folder: Path, train: int, test: int) -> None:
    """A dataset folder with `train` and `test` images of the source's train and validation, stratified."""
    loaded = datasets.load_dataset(source)
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", train), ("validation", test)):
        part = loaded[split]
        if count < len(part):
            rows, _ = train_test_split(range(len(part)), train_size=count, stratify=part["label"], random_state=0)
            part = part.select(sorted(rows))
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def notebook(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Seconds by arm and stage of the notebook."""
    out = arguments.notebook or work / "notebook.json"
    if not arguments.notebook:
        command = [sys.executable, str(HERE / "notebook.py"), str(work / "images"), "--weights", arguments.weights]
        command += ["--validation", str(arguments.validation), "--arms", *arguments.arms, "--out", str(out)]
        subprocess.run(command, check=True)
    found = json.loads(out.read_text())
    arms = {}
    for arm in arguments.arms:
        seconds = {stage: one["seconds"] for stage, one in found["arms"][arm]["stages"].items()}
        accuracy = found["arms"][arm]["test"]["accuracy"]
        arms[arm] = {"seconds": seconds, "total": sum(seconds.values()), "accuracy": accuracy}
    memory = found["peak_memory_mb"]["process"]
    return {"arms": arms, "total": found["seconds"], "memory": memory, "images": images(found, arguments)}


def images(found: dict[str, Any], arguments: argparse.Namespace) -> dict[str, int]:
    """How many images pass through the network in each arm: the same on both sides."""
    return {arm: sum(one["images"] for one in found["arms"][arm]["stages"].values()) for arm in arguments.arms}


def thaw(arguments: argparse.Namespace, work: Path, precision: str, names: list[str]) -> dict[str, Any]:
    """Seconds by arm and stage of thaw, from a cold cache."""
    recipe = tomllib.loads(RECIPE.read_text())
    recipe["data"] |= {"source": str(work / "images"), "validation": arguments.validation}
    recipe["model"]["weights"] = str(Path(arguments.weights).resolve())
    recipe["train"]["precision"] = precision
    recipe["arms"] = {arm: recipe["arms"][arm] for arm in names}
    file, run = work / f"{precision}.toml", work / f"run-{precision}"
    file.write_text(tomlkit.dumps(recipe))
    environment = {**os.environ, "THAW_CACHE": str(work / f"cache-{precision}")}
    command = [sys.executable, "-m", "thaw", "study", "--recipe", str(file), "--out", str(run)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"thaw failed: {' '.join(command)}")
    total = time.perf_counter() - begun
    metrics = read_metrics(run)
    cached = [arm for arm, found in metrics.arms.items() if found.frontier.nodes]
    arms = {}
    for arm, found in metrics.arms.items():
        spent = found.seconds
        sharing = cached if arm in cached else [arm]
        seconds = {
            "decoding": metrics.seconds.pixels / len(metrics.arms),
            "activations": sum(metrics.arms[other].seconds.prepare for other in sharing) / len(sharing),
            "search": spent.search,
            "train": spent.train,
            "test": spent.test,
        }
        arms[arm] = {"seconds": seconds, "total": sum(seconds.values()), "accuracy": found.test.accuracy}
    return {"arms": arms, "total": total, "memory": usage.ru_maxrss / 1024, "images": {}}


def print_table(sides: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    """A row for each side and arm, and the ratios to the notebook."""
    base = sides["notebook"]
    counts = f"{arguments.train} + {arguments.validation} + {arguments.test} images"
    print(f"{counts}, {platform.machine()}, {os.cpu_count()} cores")
    print(f"{'side':<14}{'arm':<14}{'seconds':>9}{'images/s':>10}{'ratio':>8}  accuracy  stages")
    for side, found in sides.items():
        for arm, one in found["arms"].items():
            row = f"{side:<14}{arm:<14}{one['total']:>9.1f}{base['images'][arm] / one['total']:>10.0f}"
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one["seconds"].items())
            print(f"{row}{base['arms'][arm]['total'] / one['total']:>7.1f}x  {one['accuracy']:.4f}    {stages}")
        name = "whole study" if len(found["arms"]) == len(base["arms"]) else "these arms"
        ratio = sum(base["arms"][arm]["total"] for arm in found["arms"]) / found["total"]
        print(
            f"{side:<14}{name:<14}{found['total']:>9.1f}{'':>10}{ratio:>7.1f}x  peak memory {found['memory']:,.0f} MB"
        )


def plot_seconds(sides: dict[str, dict[str, Any]]) -> Figure:
    """A group of bars for each arm and the whole study, a bar for each side, with its ratio to the notebook."""
    base = sides["notebook"]
    everything = {arm: one["total"] for arm, one in base["arms"].items()} | {"whole study": base["total"]}
    axes = new_axes(7.2, 3.4)
    width = 0.8 / len(sides)
    for place, (side, found) in enumerate(sides.items()):
        seconds = {arm: one["total"] for arm, one in found["arms"].items()}
        if len(found["arms"]) == len(base["arms"]):
            seconds["whole study"] = found["total"]
        rows = [list(everything).index(arm) + (place - (len(sides) - 1) / 2) * width for arm in seconds]
        bars = axes.barh(rows, list(seconds.values()), 0.9 * width, color=arm_colour(place), label=side)
        told = [
            f"{s:,.0f} s" + ("" if side == "notebook" else f", {everything[a] / s:.1f}x") for a, s in seconds.items()
        ]
        axes.bar_label(bars, told, padding=3, fontsize=8)
    axes.set_yticks(range(len(everything)), list(everything))
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False)
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


if __name__ == "__main__":
    main()
