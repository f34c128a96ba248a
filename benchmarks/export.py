"""Do exports agree with the trained model? 200 photographs of mixed sizes and formats, backbones of many families.

    .venv/bin/python benchmarks/export.py ../shared/faces --alexnet WEIGHTS.safetensors [--backbones NAME ...] [--int8]

Each backbone goes through a study of real faces whose test set is those 200 pictures, so that `predictions.parquet`
holds what the trained model itself said of them. Then its bundle, its ONNX file in onnxruntime and its torch.export
file, loaded in a fresh process that never imports thaw, are asked the same. A row prints the largest difference of a
probability, and the pictures of another class, for each; how far the trained network itself in fp32 is from itself in
double precision; and the standard deviation of its probabilities, without which agreement would be easy. AlexNet and
MobileNetV2 start from weights, with a new head; where none are at hand all of a random network is trained. Half of the
networks resize by "squash", half by "crop".
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image

import thaw
from thaw.data.source import Source, read_source
from thaw.export.export import export_bundle
from thaw.images.decode import decode_picture, upright_rgb
from thaw.images.preprocessing import Normalise
from thaw.recipe import Data

BACKBONES = """
    torchvision/alexnet            torchvision/mobilenet_v2       torchvision/vgg11
    torchvision/resnet18           torchvision/densenet121        torchvision/squeezenet1_1
    torchvision/efficientnet_b0    torchvision/regnet_y_400mf     torchvision/shufflenet_v2_x1_0
    torchvision/swin_t             torchvision/vit_b_32           timm/convnext_atto
    timm/mobilevit_xxs             timm/fastvit_t8                timm/poolformer_s12
    timm/mixer_s32_224             timm/vit_tiny_patch16_224      timm/efficientvit_b0
"""
LEARNED, TESTED = 72, 200
SIDES = (12, 1500)
ROTATED = 6
"""EXIF's orientation of a picture whose top is to the right."""
FRESH = """
import sys, numpy, torch
network = torch.export.load(sys.argv[1]).module()
pictures = numpy.load(sys.argv[2])
with torch.inference_mode():
    found = [network(torch.from_numpy(pictures[name])).numpy() for name in pictures.files]
assert not [name for name in sys.modules if name.split(".")[0] in ("thaw", "torchvision", "timm")]
numpy.save(sys.argv[3], numpy.concatenate(found))
"""
"""torch.export's file by torch alone."""


def main() -> None:
    """Train and export every backbone, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="labelled photographs, such as ../shared/faces")
    parser.add_argument("--alexnet", help="weights of AlexNet, else random ones")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES.split())
    parser.add_argument("--int8", action="store_true", help="also int8, with its accuracy on the test pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["THAW_CACHE"] = str(folder / "cache")
        write_pictures(folder / "pictures", read_source(Data(source=given.source)), LEARNED, TESTED)
        print(f"{TESTED} photographs with longer sides of {SIDES[0]} to {SIDES[1]:,} pixels: {', '.join(KINDS)}")
        print(f"{'':32}{'':26}{'':9}  largest difference from the trained model; other class")
        head = f"{'backbone':32}{'weights, resize':26}{'accuracy':>9}{'bundle':>12}{'onnx':>12}{'torch':>12}"
        print(f"{head}{'fp64':>9}{'spread':>9}", flush=True)
        weights = {"torchvision/mobilenet_v2": "thaw:mobilenet_v2", "torchvision/alexnet": given.alexnet or "random"}
        for index, backbone in enumerate(given.backbones):
            run = folder / backbone.replace("/", "-")
            started, resize = weights.get(backbone, "random"), ("squash", "crop")[index % 2]
            with contextlib.redirect_stderr(io.StringIO()):
                study(run, backbone, started, resize, folder / "pictures")
            told = f"{started.partition(':')[2] or Path(started).stem[:12]}, {resize}"
            print(f"{backbone:32}{told:26}{line(run, given.int8)}", flush=True)


def line(run: Path, int8: bool) -> str:
    """The accuracy of a run's model, and how far its bundle and exports are from it; in columns."""
    told = f"{thaw.read_run(run).metrics['arms']['trained']['test']['accuracy']:9.3f}"
    found = differences(run)
    for name in ("bundle", "onnx", "torch"):
        largest, others = found[name]
        told += f"{largest:9.0e};{others:2}"
    told += f"{found['fp64'][0]:9.0e}{found['spread'][0]:9.2f}"
    if int8:
        accuracy = export_bundle(run / "models" / "trained", "int8").metadata["accuracy"]
        told += f"  int8 {accuracy['int8']:.3f} (bundle {accuracy['bundle']:.3f})"
    return told


def study(run: Path, backbone: str, weights: str, resize: str, pictures: Path) -> None:
    """Train one arm of a backbone on the pictures, in fp32."""
    recipe = run.with_suffix(".toml")
    recipe.write_text(
        f'[data]\nsource = "{pictures}"\n[images]\nresize = "{resize}"\n'
        f'[model]\nbackbone = "{backbone}"\nweights = "{Path(weights).resolve() if "/" in weights else weights}"\n'
        f"[search]\nlearning_rates = [{'1e-3' if weights == 'random' else '1e-2'}]\nsteps = 1\n"
        '[train]\nprecision = "fp32"\nbatch_size = 8\nepochs = 2\n'
        f'[arms.trained]\ntrain = "{"all" if weights == "random" else "head"}"\n'
    )
    thaw.run_study(thaw.load_recipe(str(recipe)), run)


def differences(run: Path) -> dict[str, tuple[float, int]]:
    """For bundle, exports and double precision, the largest difference of a probability from what the trained model
    itself said of the test pictures, and how many of these get another class; how far its probabilities spread.
    """
    found = thaw.read_run(run)
    folder, rows = run / "models" / "trained", found.predictions.to_pylist()
    bundle = thaw.load(folder, device="cpu", precision="fp32")
    files = [Path(found.recipe.data.source) / row["id"] for row in rows]
    arrays = [np.array(upright_rgb(Image.open(io.BytesIO(file.read_bytes()))))[None] for file in files]
    trained = np.array([[row[f"p_{name}"] for name in bundle.classes] for row in rows])
    answers = {
        "bundle": bundle.predict_proba(files),
        "onnx": by_onnx(folder, arrays),
        "torch": by_torch(folder, arrays),
        "fp64": in_double(bundle, files),
    }
    return {
        name: (float(np.abs(said - trained).max()), int((said.argmax(1) != trained.argmax(1)).sum()))
        for name, said in answers.items()
    } | {"spread": (float(trained[:, 0].std()), 0)}


def by_onnx(folder: Path, arrays: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """What onnxruntime says of the raw pictures."""
    session = onnxruntime.InferenceSession(export_bundle(folder, "onnx").path)
    return np.concatenate([session.run(None, {"pictures": array})[0] for array in arrays])


def by_torch(folder: Path, arrays: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """What torch says of the raw pictures, in a process that has nothing else."""
    path = export_bundle(folder, "torch").path
    raw, answers = folder / "pictures.npz", folder / "answers.npy"
    named: dict[str, Any] = {f"{index:04d}": array for index, array in enumerate(arrays)}
    np.savez(raw, **named)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", FRESH, str(path), str(raw), str(answers)], check=True, env=environment)
    return np.load(answers)


def in_double(bundle: thaw.Bundle, files: list[Path]) -> NDArray[np.float64]:
    """What the bundle's network says in double precision of the same pixels."""
    normalise, found = Normalise(bundle.preprocessing), []
    model = bundle.model.double()
    with torch.inference_mode():
        for file in files:
            pixels = decode_picture(file.read_bytes(), bundle.preprocessing, bundle.decode)
            found.append(torch.softmax(model(normalise(torch.from_numpy(pixels)[None]).double()), 1).numpy())
    return np.concatenate(found)


def write_pictures(folder: Path, source: Source, learned: int, tested: int) -> None:
    """A class folder of photographs: so many to train on and for validation each, and others to test with.

    Each of the latter has a size and a format of its own.
    """
    random = np.random.default_rng(0)
    rows = random.permutation(len(source.ids))[: learned * 2 + tested]
    for place, row in enumerate(rows):
        split = "train" if place < learned else "validation" if place < 2 * learned else "test"
        into = folder / split / source.classes[source.labels[row]]
        into.mkdir(parents=True, exist_ok=True)
        content, ending = source.picture(int(row)), "jpg"
        if split == "test":
            kind = list(KINDS)[place % len(KINDS)]
            content, ending = encode(content, kind, random), kind.split()[0].lower()
        (into / f"{place:04d}.{ending}").write_bytes(content)


def encode(content: bytes, kind: str, random: np.random.Generator) -> bytes:
    """A photograph brought to a size drawn between a few pixels and many hundred, in one of KINDS."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    longer, stretch = np.exp(random.uniform(*np.log(SIDES))), random.uniform(0.25, 1)
    size = (max(1, round(longer)), max(1, round(longer * stretch)))
    picture = picture.resize(size if random.integers(2) else size[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    KINDS[kind](picture, buffer)
    return buffer.getvalue()


def fading(picture: Image.Image) -> Image.Image:
    """The same, the more transparent the further down."""
    opacity = Image.linear_gradient("L").resize(picture.size)
    return Image.merge("RGBA", (*picture.split(), opacity))


def turned(picture: Image.Image, buffer: io.BytesIO) -> None:
    """Write a JPEG that has to be turned."""
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    picture.save(buffer, "JPEG", quality=90, exif=exif)


KINDS: dict[str, Callable[[Image.Image, io.BytesIO], None]] = {
    "JPEG": lambda picture, buffer: picture.save(buffer, "JPEG", quality=90),
    "JPG grey": lambda picture, buffer: picture.convert("L").save(buffer, "JPEG"),
    "JPG CMYK": lambda picture, buffer: picture.convert("CMYK").save(buffer, "JPEG"),
    "JPG turned": turned,
    "PNG": lambda picture, buffer: picture.save(buffer, "PNG"),
    "PNG palette": lambda picture, buffer: picture.quantize(64).save(buffer, "PNG"),
    "PNG transparent": lambda picture, buffer: fading(picture).save(buffer, "PNG"),
    "WEBP": lambda picture, buffer: picture.save(buffer, "WEBP"),
    "GIF": lambda picture, buffer: picture.save(buffer, "GIF"),
    "BMP": lambda picture, buffer: picture.save(buffer, "BMP"),
    "TIFF": lambda picture, buffer: picture.save(buffer, "TIFF"),
}
"""By name, what writes a picture in a format; the name's first word is the ending of the file."""


if __name__ == "__main__":
    begun = time.perf_counter()
    main()
    print(f"{time.perf_counter() - begun:.0f} s")
