"""Do exports agree with the trained model? 200 real pictures of mixed sizes and formats, backbones of many families.

    .venv/bin/python benchmarks/export.py [--faces FOLDER] [--backbones NAME ...] [--pictures 200] [--time]

Prints, for onnxruntime and for torch.export, the largest difference of a probability and the pictures with another
class. Each network has three classes; its weights are random and its head is scaled so that the pictures' logits
spread by 2, about as a trained network's do: a difference shows as it would there. Half of the networks resize by
"squash", half by "crop", with the interpolation of their own weights.
"""

import argparse
import io
import json
import tempfile
import time
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from thaw.bundle.export import export_bundle
from thaw.bundle.load import load
from thaw.bundle.save import save_bundle
from thaw.images.decode import decode_picture, upright_rgb
from thaw.images.preprocessing import Normalise
from thaw.nets.backbones import build_backbone, default_preprocessing

BACKBONES = """
    torchvision/alexnet            torchvision/vgg11              torchvision/squeezenet1_1
    torchvision/resnet18           torchvision/densenet121        torchvision/mobilenet_v2
    torchvision/shufflenet_v2_x1_0 torchvision/efficientnet_b0    torchvision/regnet_y_400mf
    torchvision/swin_t             torchvision/vit_b_32           timm/convnext_atto
    timm/mobilevit_xxs             timm/nfnet_l0                  timm/efficientvit_b0
    timm/eva02_tiny_patch14_224    timm/mixer_s32_224             timm/fastvit_t8
"""
FORMATS = {"PNG": {}, "JPEG": {"quality": 90}, "WEBP": {}, "GIF": {}, "BMP": {}, "TIFF": {}, "JPEG2000": {}, "PPM": {}}
SIDES = (12, 1500)


def main() -> None:
    """Export every backbone twice and print the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, help="a folder of Parquet files whose column `image` holds photographs")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES.split())
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--time", action="store_true", help="also the milliseconds of a 1024 x 1024 picture")
    given = parser.parse_args()
    contents = pictures(given.pictures, given.faces)
    arrays = [np.array(upright_rgb(Image.open(io.BytesIO(content))))[None] for content in contents]
    sizes = sorted((array.shape[1:3] for array in arrays), key=lambda size: size[0] * size[1])
    print(f"{len(arrays)} pictures from {sizes[0]} to {sizes[-1]} pixels (height, width)")
    print(f"{'backbone':34}{'resize':20}{'onnx':>10}{'classes':>9}{'torch':>10}{'classes':>9}")
    for index, backbone in enumerate(given.backbones):
        with tempfile.TemporaryDirectory() as folder:
            print(
                measure(Path(folder), backbone, ("squash", "crop")[index % 2], contents, arrays, given.time), flush=True
            )


def pictures(count: int, faces: Path | None) -> list[bytes]:
    """Encoded pictures, half drawings and half photographs where given, each of a size and format of its own."""
    with resources.as_file(resources.files("thaw.recipes") / "assets" / "emoji-people.parquet") as table:
        columns = [pq.read_table(table, columns=["image"])["image"]]
    if faces:
        columns.append(pq.read_table(sorted(faces.rglob("*.parquet"))[-1], columns=["image"])["image"])
    random = np.random.default_rng(0)
    found = []
    for index in range(count):
        column = columns[index % len(columns)]
        picture = Image.open(io.BytesIO(column[int(random.integers(len(column)))].as_py()["bytes"])).convert("RGBA")
        longer, stretch = np.exp(random.uniform(*np.log(SIDES))), random.uniform(0.25, 1)
        size = (max(1, round(longer)), max(1, round(longer * stretch)))
        picture = picture.resize(size if random.integers(2) else size[::-1], Image.Resampling.BICUBIC)
        kind, buffer = list(FORMATS)[index % len(FORMATS)], io.BytesIO()
        transparent = kind in ("PNG", "WEBP", "TIFF")
        (picture if transparent else picture.convert("RGB")).save(buffer, kind, **FORMATS[kind])
        found.append(buffer.getvalue())
    return found


def measure(
    folder: Path, backbone: str, resize: str, contents: list[bytes], arrays: list[NDArray[np.uint8]], timed: bool
) -> str:
    """One line: how the exports of a backbone differ from its bundle."""
    make_bundle(folder, backbone, resize, contents)
    bundle = load(folder, device="cpu", precision="fp32")
    expected = bundle.predict_proba(contents)
    preprocessing = bundle.preprocessing
    line = f"{backbone:34}{f'{resize} {preprocessing.interpolation} {preprocessing.size}':20}"
    session = onnxruntime.InferenceSession(export_bundle(folder, "onnx").path)
    loaded = torch.export.load(export_bundle(folder, "torch").path).module()
    with torch.inference_mode():
        for run in (
            lambda array: session.run(None, {"pictures": array})[0],
            lambda array: loaded(torch.from_numpy(array)).numpy(),
        ):
            found = np.concatenate([run(array) for array in arrays])
            other = int((found.argmax(1) != expected.argmax(1)).sum())
            line += f"{np.abs(found - expected).max():10.1e}{other:9}"
            if timed:
                large = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024, 3), dtype=np.uint8)
                line += f"{min(seconds(lambda: run(large)) for _ in range(5)) * 1000:7.0f} ms"  # noqa: B023
    return line


def make_bundle(folder: Path, backbone: str, resize: str, contents: list[bytes]) -> None:
    """A bundle with three classes, its logits of the pictures spread by 2 around 0."""
    model, head = build_backbone(backbone, "random", 3, seed=0)
    preprocessing = replace(default_preprocessing(backbone, "random"), resize=resize)
    squares = np.stack([decode_picture(content, preprocessing, "exact") for content in contents[:32]])
    images = Normalise(preprocessing)(torch.from_numpy(squares))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of these pictures
    with torch.no_grad():
        model.train()(images)
        logits, layer = model.eval()(images), model.get_submodule(head)
        scale = 2 / logits.std(0).mean()
        layer.weight.mul_(scale)
        layer.bias.copy_(scale * (layer.bias - logits.mean(0)))
    config = {
        "format": 2,
        "backbone": backbone,
        "classes": ["a", "b", "c"],
        "preprocessing": json.loads(json.dumps(asdict(preprocessing))),
        "decode": "exact",
        "temperature": 1.3,
    }
    save_bundle(folder, model, config)


def seconds(work: object) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
