"""How time and peak memory grow with the number of images: the founding study's transfer arms, each count cold.

    .venv/bin/python benchmarks/growth.py ../shared/faces \\
        --weights ../shared/weights/alexnet_tiny_imagenet_fp16.safetensors

Real photographs are repeated, each repetition perturbed (a crop and another brightness), into class folders; smaller
counts are the first pictures of the largest. Every count runs in a process and with a cache of its own. Peak memory is
that of the process, with the pages of mapped files that were resident.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tomlkit
from PIL import Image, ImageEnhance

from thaw.data.source import read_source
from thaw.recipe import Data
from thaw.run.metrics import read_metrics

RECIPE = Path(__file__).parents[1] / "src" / "thaw" / "recipes" / "celeba-hq-gender.toml"


def main() -> None:
    """Write the pictures, run each count, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--weights", required=True, help="AlexNet's weights, a .safetensors file")
    parser.add_argument("--counts", nargs="+", type=int, default=[1000, 2000, 4000, 8000, 16000, 32000])
    parser.add_argument("--arms", nargs="+", default=["head", "last-two-fc"])
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    peaks = {}
    print(
        f"{'images':>7}{'seconds':>9}{'decoding':>10}{'activations':>13}{'training':>10}{'images/s':>10}  peak memory"
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures = write_pictures(arguments.source, work / "all", max(arguments.counts))
        for count in arguments.counts:
            for label, path in pictures[:count]:
                target = work / f"{count}" / label / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
            peaks[count] = study(work, count, arguments)
    if 4000 in peaks:
        print(f"{max(peaks):,} images need {peaks[max(peaks)] / peaks[4000]:.2f} times the memory of 4,000")


def write_pictures(source: str, folder: Path, count: int, side: int | None = None) -> list[tuple[str, Path]]:
    """Label and file of `count` JPEGs, enlarged to `side` pixels where that is given, on all cores."""
    with ProcessPoolExecutor() as pool:
        workers = os.cpu_count() or 1
        shares = [(source, folder, count, side, worker, workers) for worker in range(workers)]
        parts = pool.map(write_part, *zip(*shares, strict=True))
        return sorted((item for part in parts for item in part), key=lambda item: item[1].name)


def write_part(
    source: str, folder: Path, count: int, side: int | None, worker: int, workers: int
) -> list[tuple[str, Path]]:
    """Every `workers`-th picture."""
    images = read_source(Data(source=source))
    written = []
    for number in range(worker, count, workers):
        row, repeat = number % len(images.ids), number // len(images.ids)
        label = images.classes[images.labels[row]]
        path = folder / f"{number:06d}-{label}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(perturbed(images.picture(row), np.random.default_rng([row, repeat]), side))
        written.append((label, path))
    return written


def perturbed(content: bytes, random: np.random.Generator, side: int | None) -> bytes:
    """A picture cropped by up to a tenth on each side and up to a fifth lighter or darker, then enlarged."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    left, top, right, bottom = random.uniform(0, 0.1, 4) * (*picture.size, *picture.size)
    picture = picture.crop((int(left), int(top), int(picture.width - right), int(picture.height - bottom)))
    if side is not None:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    ImageEnhance.Brightness(picture).enhance(random.uniform(0.8, 1.2)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def study(work: Path, count: int, arguments: argparse.Namespace) -> int:
    """Run one count and print its row; returns the peak memory in KiB."""
    recipe = tomllib.loads(RECIPE.read_text())
    recipe["data"] |= {"source": str(work / f"{count}"), "validation": 0.1, "test": 0.1}
    recipe["model"]["weights"] = str(Path(arguments.weights).resolve())
    recipe["train"]["precision"] = arguments.precision
    recipe["arms"] = {arm: recipe["arms"][arm] for arm in arguments.arms}
    file, run, cache = work / f"{count}.toml", work / f"run-{count}", work / f"cache-{count}"
    file.write_text(tomlkit.dumps(recipe))
    command = [sys.executable, "-m", "thaw", "study", "--recipe", str(file), "--out", str(run)]
    begun = time.perf_counter()
    environment = {**os.environ, "THAW_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"thaw failed: {' '.join(command)}")
    total = time.perf_counter() - begun
    metrics = read_metrics(run)
    spent = [arm.seconds for arm in metrics.arms.values()]
    decoding, activations = metrics.seconds.pixels, sum(one.prepare for one in spent)
    training = sum(one.search + one.train + one.test for one in spent)
    row = f"{count:>7,}{total:>9.1f}{decoding:>10.1f}{activations:>13.1f}{training:>10.1f}{count / total:>10.0f}"
    print(f"{row}  {usage.ru_maxrss / 1024:,.0f} MiB", flush=True)
    shutil.rmtree(cache)
    return usage.ru_maxrss


if __name__ == "__main__":
    main()
