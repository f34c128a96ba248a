"""Load a bundle: the trained network and all that using it takes, from its folder alone."""

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import nn

from thaw.bundle import predict as predicting
from thaw.bundle.predict import Named
from thaw.compute.device import Compute, choose_compute
from thaw.errors import BundleError, DataError, ModelError, first_line
from thaw.images.decode import FILTERS
from thaw.images.preprocessing import Preprocessing
from thaw.nets.backbones import build_backbone

FORMAT = 2
"""Of `config.json`; counts up when a bundle can no longer be read by earlier versions."""
MAX_CONFIG = 8 << 20
"""Bytes of a `config.json`; a thousand classes take a tenth of this."""
MAX_HEADER = 16 << 20
"""Bytes of a safetensors header; the network with most tensors takes a twentieth of this."""
NO_BUNDLE = "give a folder such as RUN/models/ARM"
SIDES = (1, 4096)
"""The least and the most pixels of a side."""


@dataclass(frozen=True)
class Bundle:
    """A trained model ready to use."""

    model: nn.Module
    """Normalised float32 images (n, 3, size, size) to logits (n, classes); in evaluation mode, on the CPU, in fp32."""
    classes: tuple[str, ...]
    """The names of the logits, in order."""
    preprocessing: Preprocessing
    """How a picture becomes the model's input."""
    decode: Literal["exact", "fast"]
    """How JPEGs were decoded in training, see `decode_picture`."""
    temperature: float | None
    """Divides the logits before the softmax, so that probabilities are calibrated; None where it was not measured."""
    config: dict[str, Any]
    """All that `config.json` holds: provenance, metrics, versions."""
    compute: Compute
    """Where and in which precision `predict` and `predict_proba` run."""

    def predict(self, pictures: Any) -> NDArray[np.str_]:
        """(n,) class names; see `predict_proba`."""
        predicted: NDArray[np.str_] = np.array(self.classes)[self.predict_proba(pictures).argmax(1)]
        return predicted

    def predict_proba(self, pictures: Any) -> NDArray[np.float64]:
        """(n, classes) probabilities in the order of `classes`, calibrated where the bundle has a temperature.

        `pictures` are paths, encoded bytes, PIL images, arrays uint8 (height, width, 3) or tensors uint8 (3, height,
        width), of any sizes, in any iterable; an array (n, height, width, 3) or a tensor (n, 3, height, width); or one
        picture. Raises DataError naming the first that cannot be used.
        """
        named = (Named(_name(index, one), one) for index, one in enumerate(predicting.listed(pictures)))
        parts = [np.empty((0, len(self.classes)))]
        for batch in predicting.predict(self, named):
            for name, why in batch.bad:
                raise DataError(f"{name} {why}; leave it out or mend it.")
            parts.append(batch.probabilities)
        return np.concatenate(parts)

    @cached_property
    def network(self) -> nn.Module:
        """The model behind its normalisation, laid out for `compute`: pixels (n, size, size, 3) uint8 to logits."""
        return predicting.ready_network(self)


class _Config(BaseModel):
    """What of `config.json` is needed to predict; the rest informs people."""

    model_config = ConfigDict(frozen=True, strict=True)

    backbone: str
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    preprocessing: Preprocessing
    decode: Literal["exact", "fast"]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None

    @model_validator(mode="after")
    def _sound(self) -> "_Config":
        given, (least, most) = self.preprocessing, SIDES
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if not least <= given.size <= most or not given.size / most <= given.crop <= 1:
            raise ValueError(f"preprocessing wants sides that are not between {least} and {most:,} pixels")
        if given.resize not in ("squash", "crop") or given.interpolation not in FILTERS:
            raise ValueError(f"preprocessing is by an unknown way, {given.resize!r} {given.interpolation!r}")
        if not all(0 < value < 1e6 for value in given.std) or not all(abs(value) < 1e6 for value in given.mean):
            raise ValueError("preprocessing has a mean or deviation that is no colour's")
        return self


def load(path: str | os.PathLike[str], device: str = "auto", precision: str = "auto") -> Bundle:
    """Load a bundle, the folder that a study leaves in `RUN/models/ARM`.

    `device` is `auto`, `cpu`, `cuda` or `mps`; `precision` is `auto`, `fp32` or `bf16`, as in a recipe. Nothing
    outside the folder is read, nothing is run from it and nothing is fetched. Raises BundleError, saying what is
    wrong, for anything that is no sound bundle, and RecipeError for a device that is not there.
    """
    folder = Path(path)
    config = read_config(folder)
    try:
        needed = _Config.model_validate_json(inside(folder, "config.json").read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")
        raise BundleError(f"{folder / 'config.json'} is not as thaw writes it ({what}); copy it anew.") from error
    weights = inside(folder, "model.safetensors")
    try:
        # without memory for them at first, so that a small file cannot ask for the largest of networks
        with contextlib.suppress(NotImplementedError), torch.device("meta"):
            _check(weights, build_backbone(needed.backbone, "random", len(needed.classes), seed=0)[0], needed.backbone)
        model, _ = build_backbone(needed.backbone, "random", len(needed.classes), seed=0)
    except ModelError as error:
        raise BundleError(
            f"{folder} needs the backbone {needed.backbone!r}, which the installed torchvision and timm do not have; "
            "install the versions that its config.json names."
        ) from error
    _check(weights, model, needed.backbone)
    with torch.no_grad(), safe_open(weights, "pt") as stored:
        for name, value in model.state_dict().items():
            value.copy_(stored.get_tensor(name))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Bundle(
        model.eval(),
        tuple(needed.classes),
        needed.preprocessing,
        needed.decode,
        needed.temperature,
        config,
        choose_compute(device, precision),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """What a bundle's `config.json` holds. Raises BundleError where there is none that this version can read."""
    file = inside(folder, "config.json")
    try:
        if file.stat().st_size > MAX_CONFIG:
            raise BundleError(f"{file} is larger than {MAX_CONFIG >> 20} MiB, which none of thaw's is; copy it anew.")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read ({first_line(error)}); copy the bundle anew.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise BundleError(
            f"{file} has the format {str(found)[:20]!r}, and this version of thaw reads {FORMAT}; write it anew with "
            "this version, or install the one that wrote it."
        )
    return config


def _check(weights: Path, model: nn.Module, backbone: str) -> None:
    """Raises BundleError unless a file holds tensors of the model's names and shapes, and nothing else."""
    own = model.state_dict()
    try:
        with weights.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > MAX_HEADER:
            raise BundleError(f"{weights} has a header of {header:,} bytes, no network's; copy the bundle anew.")
        with safe_open(weights, "pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{weights} cannot be read ({first_line(error)}); copy the bundle anew.") from error
    for name in sorted(own.keys() | shapes.keys()):
        wanted, found = tuple(own[name].shape) if name in own else "none", shapes.get(name, "none")
        if wanted != found:
            raise BundleError(
                f"{weights} does not fit {backbone}: {name[:80]!r} should have the shape {wanted}, the file has "
                f"{found}; copy the bundle anew."
            )


def inside(folder: Path, name: str) -> Path:
    """A plain file of the bundle; its content may lie in the Hugging Face cache that the folder is part of."""
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}; {NO_BUNDLE}.")
    file = folder / name
    try:
        target = file.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        arms = sorted(path.parent for path in folder.glob("models/*/config.json"))
        such = f"it is a run, so give one of its models: {', '.join(map(str, arms))}" if arms else NO_BUNDLE
        raise BundleError(f"{folder} holds no {name}; {such}.") from error
    own = folder.resolve()
    snapshot = own.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", own.name)
    blobs = own.parent.parent / "blobs" if snapshot else own
    if target.parent not in (own, blobs) or not stat.S_ISREG(mode):
        raise BundleError(f"{file} leads out of its folder or is no plain file; copy the bundle anew.")
    return target


def _name(index: int, picture: Any) -> str:
    return str(picture) if isinstance(picture, str | os.PathLike) else f"picture {index}"
