"""Export a bundle as one file from raw pictures to calibrated probabilities, kept only if it agrees with the bundle."""

import importlib.metadata
import importlib.util
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from thaw.bundle.load import Bundle, load
from thaw.cache.files import write_atomic
from thaw.errors import ExportError
from thaw.export.pictures import Pictures, check_pictures
from thaw.images.preprocessing import Normalise
from thaw.images.resize import KERNELS, resize_to_square
from thaw.nets.layout import set_layout

FORMATS = {"onnx": "model.onnx", "torch": "model.pt2", "int8": "model.int8.onnx"}
"""What `--to` takes, and the name of the file in the bundle unless another is given."""
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "int8": ("onnx", "onnxscript", "onnxruntime")}
"""Packages of the extra `export` that a format takes."""
TOLERANCE = 1e-3
"""The largest difference of a probability from the bundle's with which an export in full precision is kept."""
Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From raw pictures, uint8 (n, height, width, 3), to probabilities (n, classes)."""


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    path: Path
    metadata: dict[str, Any]
    """What the file says of itself: classes, preprocessing, provenance, and how it differs from the bundle."""


class FromPictures(nn.Module):
    """Raw pictures, uint8 RGB (n, height, width, 3) of any size, to calibrated probabilities (n, classes)."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.resize = ToSquares(bundle)
        self.classify = FromSquares(bundle)

    def forward(self, pictures: Tensor) -> Tensor:
        probabilities: Tensor = self.classify(self.resize(pictures))
        return probabilities


class ToSquares(nn.Module):
    """Raw pictures, uint8 RGB (n, height, width, 3) of any size, resized to (n, size, size, 3)."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.preprocessing = bundle.preprocessing

    def forward(self, pictures: Tensor) -> Tensor:
        return resize_to_square(pictures, self.preprocessing)


class FromSquares(nn.Module):
    """Resized pictures, uint8 (n, size, size, 3), to calibrated probabilities (n, classes)."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.normalise = Normalise(bundle.preprocessing)
        self.network = bundle.model
        self.temperature = bundle.temperature or 1.0

    def forward(self, squares: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(squares))
        return torch.softmax(logits / self.temperature, 1)


def export_bundle(
    folder: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    check: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write a bundle as `onnx`, `torch` or `int8`; `out` is the file, by default one in the bundle.

    The file takes raw pictures of any size. Before it is kept it classifies real ones of mixed sizes, from the folder
    `check`, from the run that the bundle lies in, or embedded ones, and the largest difference from the bundle goes
    into its metadata. Raises ExportError when a package is missing, the network cannot be exported, or the export
    differs from the bundle; BundleError and DataError for a bundle or pictures that cannot be used.
    """
    _check_packages(to)
    bundle = load(folder, device="cpu", precision="fp32")
    if bundle.preprocessing.interpolation not in KERNELS:
        raise ExportError(
            f"pictures of this bundle are resized by {bundle.preprocessing.interpolation!r}, which exports cannot; "
            f"train with images.interpolation set to {' or '.join(KERNELS)}."
        )
    path = Path(out) if out else Path(folder) / FORMATS[to]
    if not path.parent.is_dir():
        raise ExportError(f"there is no folder {path.parent} to write {path.name} to; make it, or give another --out.")
    pictures = check_pictures(Path(folder), None if check is None else Path(check))
    expected = bundle.predict_proba(pictures.arrays)
    set_layout(bundle.model, channels_last=False)
    metadata = _describe(bundle, to)
    if to == "torch":
        content = _torch(bundle, pictures, expected, metadata)
    else:
        from thaw.export import onnx as onnx

        if to == "int8":
            from thaw.export.quantise import quantise

            proto, measured = quantise(bundle, Path(folder))
            metadata |= measured
        else:
            proto = onnx.to_onnx(FromPictures(bundle), "pictures", "probabilities")
        metadata["check"] = compare(onnx.runner(proto), pictures, expected, exact=to == "onnx")
        content = onnx.finish(proto, metadata)
    write_atomic(path, content)
    return Exported(path, metadata)


def program(module: nn.Module, side: int | None = None) -> ExportedProgram:
    """A module as one graph for any number of pictures, uint8 (n, side, side, 3), or of any size without `side`."""
    pictures = torch.zeros(2, side or 50, side or 70, 3, dtype=torch.uint8)  # what they show does not matter
    sides = {} if side else {1: Dim("height", min=1), 2: Dim("width", min=1)}
    try:
        with torch.no_grad():
            made = torch.export.export(module.eval(), (pictures,), dynamic_shapes=({0: Dim("n", min=1), **sides},))
    except Exception as error:  # whatever the network does that torch.export has no word for
        what = str(error).strip().split("\n")[0][:200]
        raise ExportError(f"torch.export cannot turn this network into a graph ({what}); use thaw predict.") from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return made


def compare(classify: Classify, pictures: Pictures, expected: NDArray[np.float64], exact: bool) -> dict[str, Any]:
    """How an export's probabilities of each picture differ from the bundle's.

    Raises ExportError where `exact` and one differs by more than TOLERANCE, or a class.
    """
    found = np.concatenate([classify(array[None]) for array in pictures.arrays])
    difference = float(np.abs(found - expected).max())
    same = found.argmax(1) == expected.argmax(1)
    if exact and not (difference <= TOLERANCE and same.all()):
        raise ExportError(
            f"the export differs from its bundle by up to {difference:.2g} in probability and in {int((~same).sum())} "
            f"of {len(same)} classes, so nothing was kept; report it with the backbone's name."
        )
    sizes = [array.shape[1::-1] for array in pictures.arrays]
    return {
        "pictures": len(same),
        "from": pictures.origin,
        "smallest": min(sizes, key=lambda size: size[0] * size[1]),
        "largest": max(sizes, key=lambda size: size[0] * size[1]),
        "largest_difference": difference,
        "same_class": int(same.sum()),
    }


def _torch(bundle: Bundle, pictures: Pictures, expected: NDArray[np.float64], metadata: dict[str, Any]) -> bytes:
    """A `.pt2` file, its metadata as the extra file `thaw.json`; adds the check to `metadata`."""
    exported, buffer = program(FromPictures(bundle)), io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()

    def classify(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = loaded(torch.from_numpy(pictures)).numpy()
        return probabilities

    metadata["check"] = compare(classify, pictures, expected, exact=True)
    final = io.BytesIO()
    torch.export.save(exported, final, extra_files={"thaw.json": json.dumps(metadata, ensure_ascii=False)})
    return final.getvalue()


def _describe(bundle: Bundle, to: str) -> dict[str, Any]:
    known = ("backbone", "arm", "weights", "data", "test")
    return {
        "input": "pictures: uint8 (n, height, width, 3), RGB, upright, of any size; transparency laid on white",
        "output": "probabilities: float32 (n, classes), in the order of classes",
        "classes": list(bundle.classes),
        "preprocessing": asdict(bundle.preprocessing),
        "temperature": bundle.temperature,
        "decode": bundle.decode,
        "format": to,
        **{key: bundle.config[key] for key in known if key in bundle.config},
        "versions": {
            "thaw": importlib.metadata.version("thaw-vision"),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
        },
    }


def _check_packages(to: str) -> None:
    if to not in FORMATS:
        raise ExportError(f"there is no export to {to!r}; use {', '.join(FORMATS)}.")
    missing = [name for name in NEEDS[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"exporting to {to} needs {' and '.join(missing)}, not installed here; run: "
            "pip install 'thaw-vision[export]'"
        )
