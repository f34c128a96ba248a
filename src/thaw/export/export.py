"""Export a bundle as one file from raw images to calibrated probabilities, kept only if it agrees with the bundle."""

import importlib.util
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thaw.bundle.doubt import Answers
from thaw.bundle.load import load
from thaw.bundle.model import Bundle
from thaw.cache.files import write_atomic
from thaw.errors import ExportError
from thaw.export.graph import Classify, FromImages, outputs, program
from thaw.export.samples import Samples, check_samples
from thaw.images.resize import KERNELS
from thaw.nets.layout import set_layout
from thaw.versions import versions

FORMATS = {"onnx": "model.onnx", "torch": "model.pt2", "int8": "model.int8.onnx"}
"""The values of `--to`, and the default name of the file in the bundle."""
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "int8": ("onnx", "onnxscript", "onnxruntime")}
"""Packages of the extra `export` that a format needs."""
TOLERANCE = 1e-3
"""The largest difference from the bundle's probabilities with which an export in full precision is kept."""
AGREED = 0.9
"""The least fraction of images of which such an export says all else that the bundle does."""
SAID = {
    "set": "set: bool (n, classes), the classes that an image may be",
    "decided": "decided: int64 (n,), the class decided for by the threshold",
    "unlike": "unlike: float32 (n,), above 1 where an image is unlike those of training",
}
"""The outputs after the probabilities, in words."""


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    path: Path
    """The exported file."""
    metadata: dict[str, Any]
    """The metadata in the file: classes, preprocessing, provenance, and how it differs from the bundle."""


def export_bundle(
    folder: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    check: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write a bundle as one file from raw images of any size to calibrated probabilities.

    Before the file is kept it classifies real images of mixed sizes; the largest difference from the bundle's
    probabilities goes into its metadata.

    Parameters
    ----------
    folder
        The bundle.
    to
        `onnx`, `torch` (a `.pt2` file of torch.export) or `int8` (ONNX with weights in 8 bits, for CPUs).
    out
        The file to write; by default one in the bundle, such as `model.onnx`.
    check
        A folder of images to check the export on; by default those of the run that the bundle lies in, or embedded
        ones.

    Returns
    -------
    Exported
        The path of the file and its metadata.

    Raises
    ------
    ExportError
        A package is missing, the network cannot be exported, or the export differs from the bundle.
    BundleError
        The bundle cannot be loaded.
    DataError
        `check` has no image that can be read.
    """
    _check_packages(to)
    bundle = load(folder, device="cpu", precision="fp32")
    if bundle.preprocessing.interpolation not in KERNELS:
        raise ExportError(
            f"images of this bundle are resized by {bundle.preprocessing.interpolation!r}, which exports cannot; "
            f"train with images.interpolation set to {' or '.join(KERNELS)}."
        )
    path = Path(out) if out else Path(folder) / FORMATS[to]
    if not path.parent.is_dir():
        raise ExportError(f"there is no folder {path.parent} for {path.name}; create it, or give another --out.")
    samples = check_samples(Path(folder), None if check is None else Path(check))
    expected = bundle.answer(samples.arrays)
    set_layout(bundle.model, channels_last=False)
    metadata = _describe(bundle, to)
    if to == "torch":
        content = _torch(bundle, samples, expected, metadata)
    else:
        from thaw.export import onnx

        if to == "int8":
            from thaw.export.quantise import quantise

            proto, measured = quantise(bundle, Path(folder))
            metadata |= measured
        else:
            proto = onnx.to_onnx(FromImages(bundle), "pictures", outputs(bundle))
        metadata["check"] = compare(onnx.runner(proto), samples, expected, exact=to == "onnx")
        content = onnx.finish(proto, metadata)
    write_atomic(path, content)
    return Exported(path, metadata)


def compare(classify: Classify, samples: Samples, expected: Answers, exact: bool) -> dict[str, Any]:
    """Compare an export's answers for each sample with the bundle's.

    Parameters
    ----------
    classify
        Runs the export: images uint8 (1, height, width, 3) to its outputs, the probabilities (1, classes) first.
    samples
        n images of mixed sizes.
    expected
        What the bundle says of them.
    exact
        Whether the export may differ by rounding alone.

    Returns
    -------
    dict
        The largest difference in probability, how many images have the same class, of how many all else is the same,
        where the bundle says anything else, and which images these were.

    Raises
    ------
    ExportError
        `exact` is set and a probability differs by more than TOLERANCE, or a class differs.
    """
    each = [classify(array[None]) for array in samples.arrays]
    found, *others = (np.concatenate(parts) for parts in zip(*each, strict=True))
    difference = float(np.abs(found - expected.probabilities).max())
    same = found.argmax(1) == expected.probabilities.argmax(1)
    if exact and not (difference <= TOLERANCE and same.all()):
        raise ExportError(
            f"the export differs from its bundle by up to {difference:.2g} in probability and in {int((~same).sum())} "
            f"of {len(same)} classes, so nothing was kept; report it with the backbone's name."
        )
    sizes = [array.shape[1::-1] for array in samples.arrays]
    return {
        "pictures": len(same),
        "from": samples.origin,
        "smallest": min(sizes, key=lambda size: size[0] * size[1]),
        "largest": max(sizes, key=lambda size: size[0] * size[1]),
        "largest_difference": difference,
        "same_class": int(same.sum()),
        **_same_doubt(others, expected, exact),
    }


def _same_doubt(others: list[NDArray[Any]], expected: Answers, exact: bool) -> dict[str, int]:
    """Of how many images sets, decisions and what is unlike are the same; an answer at a threshold may round away."""
    wanted = [part for part in (expected.sets, expected.decided, expected.unlike) if part is not None]
    if not wanted:
        return {}
    same = np.ones(len(wanted[0]), bool)
    for own, other in zip(wanted, others, strict=True):
        flagged = own.dtype.kind == "f"
        equal = (own > 1) == (other > 1) if flagged else own == other
        same &= equal if equal.ndim == 1 else equal.all(1)
        if exact and flagged and not np.allclose(own, other, rtol=0.01, atol=0.01):
            raise ExportError("the export differs from its bundle in what is unlike, so nothing was kept; report it.")
    if exact and same.mean() < AGREED:
        raise ExportError(
            f"the export says the same as its bundle of only {int(same.sum())} of {len(same)} images, so nothing was "
            "kept; report it with the backbone's name."
        )
    return {"same_doubt": int(same.sum())}


def _torch(bundle: Bundle, samples: Samples, expected: Answers, metadata: dict[str, Any]) -> bytes:
    """Return a `.pt2` file with its metadata as the extra file `thaw.json`; adds the check to `metadata`."""
    exported, buffer = program(FromImages(bundle)), io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()

    def classify(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            found = loaded(torch.from_numpy(images))
        return [output.numpy() for output in (found if bundle.doubt else (found,))]

    metadata["check"] = compare(classify, samples, expected, exact=True)
    final = io.BytesIO()
    torch.export.save(exported, final, extra_files={"thaw.json": json.dumps(metadata, ensure_ascii=False)})
    return final.getvalue()


def _describe(bundle: Bundle, to: str) -> dict[str, Any]:
    known = ("backbone", "arm", "weights", "data", "test", "decide", "unlike")
    return {
        "input": "pictures: uint8 (n, height, width, 3), RGB, upright, of any size; transparency laid on white",
        "output": "; ".join(
            [
                "probabilities: float32 (n, classes), in the order of classes",
                *map(SAID.__getitem__, outputs(bundle)[1:]),
            ]
        ),
        "classes": list(bundle.classes),
        "preprocessing": asdict(bundle.preprocessing),
        "temperature": bundle.temperature,
        "test_views": bundle.test_views,
        "decode": bundle.decode,
        "format": to,
        **{key: bundle.config[key] for key in known if key in bundle.config},
        "versions": versions("thaw-vision", "torch", "pillow"),
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
