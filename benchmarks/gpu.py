"""The founding study on a GPU: cold and warm, every stage, and what of it no program could avoid.

    .venv/bin/python benchmarks/gpu.py ../shared/faces \\
        --weights ../shared/weights/alexnet_tiny_imagenet_fp16.safetensors

30,000 real faces, perturbed and enlarged to 1024x1024 JPEGs, in class folders. The unavoidable parts are measured in
the same run: decoding on all cores, one forward pass of the frozen layers, and the training steps one after the other
on what lies on the device; and each arm's step also compiled, and as a CUDA graph. `--count 200 --side 300 --steps
eager --device cpu` tries the script where there is no GPU.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomlkit
import torch
from bounds import ARMS, BATCH, Values, forward_speed, parts_of, seconds, step_of
from growth import RECIPE, write_pictures
from torch import nn

from thaw.compute.device import Compute, choose_compute
from thaw.data.load import preprocessing_of
from thaw.data.source import read_source
from thaw.images.decode import decode_picture
from thaw.nets.layout import hold_frozen
from thaw.progress import in_order, workers
from thaw.recipe import Recipe, load_recipe
from thaw.run.metrics import read_metrics


def main() -> None:
    """Write the pictures, run the study twice, measure its parts, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--weights", required=True, help="AlexNet's weights, a .safetensors file")
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--decode", default="fast")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--work", type=Path, help="an empty folder for pictures and caches, for some 10 GiB")
    arguments = parser.parse_args()
    compute = choose_compute(arguments.device, arguments.precision)
    name = torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else compute.device.type
    print(f"{arguments.count:,} images of {arguments.side} px, {name}, {compute.precision}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        for label, path in write_pictures(arguments.source, work / "all", arguments.count, arguments.side):
            (work / "images" / label).mkdir(parents=True, exist_ok=True)
            path.rename(work / "images" / label / path.name)
        recipe = write_recipe(work, arguments)
        runs = {state: study(work, state, recipe) for state in ("cold", "warm")}
        parts = unavoidable(load_recipe(str(recipe)), runs["cold"], arguments, compute)
    for state, found in runs.items():
        print(f"{state}: {found['wall']:.1f} s, of which start-up {found['start']:.1f} s; {told(found['stages'])}")
    total = sum(parts.values())
    ratio = (runs["cold"]["wall"] - runs["cold"]["start"]) / total
    print(f"unavoidable: {total:.1f} s ({told(parts)}); cold takes {ratio:.1f} times that after start-up")


def write_recipe(work: Path, arguments: argparse.Namespace) -> Path:
    """The founding recipe with these arms, of pictures in class folders, a fifteenth each to validate and to test."""
    recipe = tomllib.loads(RECIPE.read_text())
    held = max(2, arguments.count // 15)
    recipe["data"] |= {"source": str(work / "images"), "validation": held, "test": held}
    recipe["images"]["decode"] = arguments.decode
    recipe["model"]["weights"] = str(Path(arguments.weights).resolve())
    recipe["train"] |= {"precision": arguments.precision, "device": arguments.device}
    recipe["arms"] = {arm: recipe["arms"][arm] for arm in arguments.arms}
    path = work / "recipe.toml"
    path.write_text(tomlkit.dumps(recipe))
    return path


def study(work: Path, state: str, recipe: Path) -> dict[str, Any]:
    """Seconds in all, before the study began, and by stage of one run of the command."""
    command = [sys.executable, "-m", "thaw", "study", "--recipe", str(recipe), "--out", str(work / state)]
    begun = time.perf_counter()
    subprocess.run(command, env={**os.environ, "THAW_CACHE": str(work / "cache")}, check=True, stdout=sys.stderr)
    wall = time.perf_counter() - begun
    metrics = read_metrics(work / state)
    spent = metrics.seconds
    stages = {stage: value for stage, value in spent if stage not in ("total", "trials")}
    for arm, found in metrics.arms.items():
        stages |= {f"{arm} {stage}": getattr(found.seconds, stage) for stage in ("search", "train", "test")}
    named = sum(stages.values())
    # bundles, figures and the page are written outside of any named stage
    return {"wall": wall, "start": wall - spent.total, "stages": stages | {"other": spent.total - named}}


def unavoidable(
    recipe: Recipe, cold: dict[str, Any], arguments: argparse.Namespace, compute: Compute
) -> dict[str, float]:
    """Seconds of the parts that remain for a perfect program, and a line for each way to take an arm's step."""
    parts = {"decoding": arguments.count / decode_speed(recipe)}
    held = max(2, arguments.count // 15)
    in_search = recipe.search.steps * len(recipe.search.learning_rates)
    batches = in_search + recipe.train.epochs * -(-(arguments.count - held) // BATCH)
    for arm in arguments.arms:
        prefix, middle, trainable, values = parts_of(arm, compute)
        if prefix is not None and "forward" not in parts:
            parts["forward"] = arguments.count / forward_speed(prefix, compute)
        speeds: dict[str, str] = {}
        for name in arguments.steps:
            begun = time.perf_counter()
            try:
                taken = seconds(STEPS[name](middle, trainable, values, compute), 10, compute)
            except RuntimeError as error:
                speeds[name] = f"not to be had ({str(error).splitlines()[0]})"
                continue
            ready = time.perf_counter() - begun - 11 * taken
            speeds[name] = f"{BATCH / taken:,.0f} images/s, {ready:.1f} s to get ready"
            if name == "eager":
                parts[f"steps of {arm}"] = batches * taken
        print(f"step of {arm}, {batches} in a study: " + "; ".join(f"{name} {it}" for name, it in speeds.items()))
    return parts


def decode_speed(recipe: Recipe, count: int = 2000) -> float:
    """Pictures a second, on all cores."""
    source, preprocessing = read_source(recipe.data), preprocessing_of(recipe)
    pictures = [source.picture(row) for row in range(min(count, len(source.ids)))]
    begun = time.perf_counter()
    with workers() as pool:
        for _ in in_order(
            pool, lambda it: decode_picture(it, preprocessing, recipe.images.decode), pictures, ahead=512
        ):
            pass
    return len(pictures) / (time.perf_counter() - begun)


def compiled(middle: nn.Module | None, trainable: nn.Module, values: Values, compute: Compute) -> Callable[[], object]:
    """The study's step with both parts compiled."""
    compiled_middle: Any = middle and torch.compile(middle)
    compiled_trainable: Any = torch.compile(trainable)
    return step_of(compiled_middle, compiled_trainable, values, compute)


def graphed(middle: nn.Module | None, trainable: nn.Module, values: Values, compute: Compute) -> Callable[[], object]:
    """A step recorded once as a CUDA graph: no Python, no launches; random numbers go on from replay to replay."""
    if compute.device.type != "cuda":
        raise RuntimeError("CUDA graphs need a CUDA device")
    middle = None if middle is None else hold_frozen(middle, compute)
    trainable = hold_frozen(trainable, compute)
    trained = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-4, fused=True, capturable=True)
    target = torch.zeros(BATCH, dtype=torch.int64, device=compute.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        entering: Any = values
        with torch.no_grad(), compute.autocast():
            entering = values if middle is None else middle(*values)
        with torch.autocast("cuda", torch.bfloat16, compute.precision == "bf16", cache_enabled=False):
            logits = trainable(*entering)
        nn.functional.cross_entropy(logits.float(), target).backward()
        optimizer.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def told(spent: dict[str, float]) -> str:
    """Stages and seconds, the longest first."""
    return ", ".join(f"{name} {value:.1f}" for name, value in sorted(spent.items(), key=lambda item: -item[1]))


STEPS = {"eager": step_of, "compiled": compiled, "graph": graphed}
"""Ways to take a step: as the study does, and those that are tried here."""


if __name__ == "__main__":
    main()
