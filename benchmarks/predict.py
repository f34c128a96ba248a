"""thaw predict against a loop of PIL, torchvision's transforms and the model, a picture at a time, on the same files.

.venv/bin/python benchmarks/predict.py ../shared/faces --count 5000

Both run on the same device with the same weights; the loop is what a notebook does. `thaw predict` is timed whole, as a
process of its own, start included, and again from the first picture on. Its peak memory is that of the process, at N
and at 2N pictures.
"""

import argparse
import json
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
from thaw.bundle.predict import Named, predict
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
    parser.add_argument("--bundle", type=Path, help="a bundle that squashes, instead of an untrained backbone")
    parser.add_argument("--loop", type=int, default=500, help="pictures that the loop is timed on")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(arguments.source, folder / "pictures", 2 * arguments.count)
        bundle_folder = arguments.bundle or write_bundle(folder / "bundle", arguments.backbone)
        bundle = thaw.load(bundle_folder)
        compute = bundle.compute
        print(f"{bundle.config['backbone']}, {compute.device.type} {compute.precision}, {os.cpu_count()} cores")
        slow, expected = loop(thaw.load(bundle_folder), files[: arguments.loop])
        print(f"loop of PIL, torchvision and the model  {slow * 1000:8.2f} ms a picture")
        seconds, found = in_process(bundle, files[: arguments.count])
        fast = seconds / arguments.count
        print(
            f"thaw predict, once it is loaded         {fast * 1000:8.2f} ms a picture  {slow / fast:6.1f} times as fast"
        )
        for count in (arguments.count, 2 * arguments.count):
            seconds, peak = command(bundle_folder, files[:count])
            each = seconds / count
            print(
                f"thaw predict, the command, {count:>6,}     {each * 1000:8.2f} ms a picture  {slow / each:6.1f} times "
                f"as fast, {peak / 2**20:,.0f} MiB at most"
            )
        same = (found[: arguments.loop].argmax(1) == expected.argmax(1)).mean()
        largest = np.abs(found[: arguments.loop] - expected).max()
        print(f"same class for {same:.2%}; probabilities differ by {largest:.1e} at most")


def write_files(source: str, folder: Path, count: int) -> list[Path]:
    """Pictures of a source as files, over and over until there are `count`."""
    folder.mkdir()
    read = read_source(Data(source=source))
    files = []
    for index in range(count):
        files.append(folder / f"{index:06d}.jpg")
        files[-1].write_bytes(read.picture(index % len(read.ids)))
    return files


def write_bundle(folder: Path, backbone: str) -> Path:
    """A bundle of an untrained network at 224 pixels."""
    model, _ = build_backbone(backbone, "random", 2, seed=0)
    preprocessing = {
        "size": 224,
        "resize": "squash",
        "interpolation": "bilinear",
        "crop": 1.0,
        "mean": MEAN,
        "std": STD,
    }
    config: dict[str, Any] = {"format": 2, "backbone": backbone, "classes": ["female", "male"], "decode": "exact"}
    save_bundle(folder, model, {**config, "preprocessing": preprocessing, "temperature": None})
    return folder


def loop(bundle: thaw.Bundle, files: list[Path]) -> tuple[float, np.ndarray]:
    """Seconds a picture, after ten to warm up, and the probabilities; in fp32."""
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
    return (time.perf_counter() - begun) / len(files), np.stack(found[10:])


def in_process(bundle: thaw.Bundle, files: list[Path]) -> tuple[float, np.ndarray]:
    """Seconds for all pictures by a loaded bundle, and the probabilities."""
    bundle.predict(files[:64])
    begun = time.perf_counter()
    found = [batch.probabilities for batch in predict(bundle, (Named(str(file), file) for file in files))]
    return time.perf_counter() - begun, np.concatenate(found)


def command(bundle: Path, files: list[Path]) -> tuple[float, int]:
    """Seconds and peak resident bytes of `thaw predict` as a process of its own."""
    measured = (
        "import json, resource, sys, thaw.cli\n"
        "try: thaw.cli.main()\n"
        "except SystemExit: pass\n"
        "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))\n"
    )
    out = bundle.parent / "out.parquet"
    listing = "".join(f"{file}\n" for file in files)
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measured, "predict", str(bundle), "-", "--out", str(out)],
        input=listing,
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - begun, json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
