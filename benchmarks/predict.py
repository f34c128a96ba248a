"""thaw predict against a loop of PIL, torchvision's transforms and the model, a picture at a time, on the same files.

.venv/bin/python benchmarks/predict.py ../shared/faces --count 5000 [--backbone NAME] [--size 224]

Both run on the same device with the same weights, over the same pictures, in one run; the loop is what a notebook does,
in fp32, and timed from its first picture on. `thaw predict` is timed in the same way, and as a process of its own,
start included, whose peak memory is told at N and at 2N pictures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

import thaw
from thaw.bundle.model import Named
from thaw.bundle.save import save_bundle
from thaw.data.source import read_source
from thaw.nets.backbones import build_backbone
from thaw.recipe import Data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Write the files and a bundle, run both, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--backbone", default="torchvision/alexnet")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bundle", type=Path, help="a bundle that squashes, instead of an untrained backbone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), arguments.count
        files = write_files(arguments.source, folder / "pictures", 2 * count)
        bundle_folder = arguments.bundle or write_bundle(folder / "bundle", arguments.backbone, arguments.size)
        bundle = thaw.load(bundle_folder)
        compute, side = bundle.compute, bundle.preprocessing.size
        print(
            f"{bundle.config['backbone']}, {side} px, {compute.device.type} {compute.precision}, {os.cpu_count()} cores"
        )
        print(f"{count:,} pictures{'':26}      seconds  ms a picture")
        slow, expected = loop(thaw.load(bundle_folder), files[:count])
        row("a loop of PIL, torchvision and the model", slow, count)
        fast, found = in_process(bundle, files[:count])
        row("thaw predict, loaded", fast, count, slow)
        for number in (count, 2 * count):
            fast, peak = command(bundle_folder, files[:number])
            row(f"thaw predict, the command, {number:,}", fast, number, slow * number / count, peak)
        same = (found.argmax(1) == expected.argmax(1)).mean()
        print(f"same class for {same:.2%}; probabilities differ by {np.abs(found - expected).max():.1e} at most")


def row(what: str, seconds: float, count: int, slow: float | None = None, peak: int | None = None) -> None:
    """One line: seconds, milliseconds a picture, and how they compare."""
    line = f"{what:<42}{seconds:9.1f}{seconds / count * 1000:14.2f}"
    line += f"{slow / seconds:8.1f}x" if slow else ""
    print(line + (f"  {peak / 2**20:,.0f} MiB at most" if peak else ""), flush=True)


def write_files(source: str, folder: Path, count: int) -> list[Path]:
    """Pictures of a source as files, over and over until there are `count`."""
    folder.mkdir()
    read = read_source(Data(source=source))
    files = []
    for index in range(count):
        files.append(folder / f"{index:06d}.jpg")
        files[-1].write_bytes(read.picture(index % len(read.ids)))
    return files


def write_bundle(folder: Path, backbone: str, size: int) -> Path:
    """A bundle of an untrained network."""
    model, _ = build_backbone(backbone, "random", 2, seed=0)
    preprocessing = {
        "size": size,
        "resize": "squash",
        "interpolation": "bilinear",
        "crop": 1.0,
        "mean": MEAN,
        "std": STD,
    }
    config: dict[str, Any] = {"backbone": backbone, "classes": ["female", "male"], "decode": "exact"}
    save_bundle(folder, model, {**config, "preprocessing": preprocessing, "temperature": None})
    return folder


def loop(bundle: thaw.Bundle, files: list[Path]) -> tuple[float, np.ndarray]:
    """Seconds for all pictures, after ten to warm up, and the probabilities; in fp32."""
    given, device = bundle.preprocessing, bundle.compute.device
    transform = transforms.Compose(
        [
            transforms.Resize((given.size, given.size)),
            transforms.ToTensor(),
            transforms.Normalize(given.mean, given.std),
        ]
    )
    model = bundle.model.to(device)
    found = []
    with torch.inference_mode():
        for index, file in enumerate([*files[:10], *files]):
            if index == 10:
                begun = time.perf_counter()
            images = transform(Image.open(file).convert("RGB"))[None].to(device)
            found.append(torch.softmax(model(images), 1)[0].cpu().numpy())
    return time.perf_counter() - begun, np.stack(found[10:])


def in_process(bundle: thaw.Bundle, files: list[Path]) -> tuple[float, np.ndarray]:
    """Seconds for all pictures by a loaded bundle, and the probabilities."""
    bundle.predict(files[:64])
    begun = time.perf_counter()
    found = [batch.probabilities for batch in bundle.batches(Named(str(file), file) for file in files)]
    return time.perf_counter() - begun, np.concatenate(found)


def command(bundle: Path, files: list[Path]) -> tuple[float, int]:
    """Seconds and peak resident bytes of `thaw predict` as a process of its own."""
    measured = (
        "import resource, sys, thaw.cli.app\n"
        "try: thaw.cli.app.main()\n"
        "except SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measured, "predict", str(bundle), "-", "--out", str(bundle.parent / "out.parquet")],
        input="".join(f"{file}\n" for file in files),
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - begun, int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
