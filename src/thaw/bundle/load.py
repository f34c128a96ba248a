"""Load a bundle: the trained network and everything needed to use it, from its folder alone."""

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import nn

from thaw.bundle.doubt import DecideConfig, Doubt, UnlikeConfig
from thaw.bundle.model import Bundle
from thaw.compute.device import choose_compute
from thaw.errors import BundleError, ModelError, first_line
from thaw.images.decode import FILTERS
from thaw.images.preprocessing import Preprocessing, sides
from thaw.nets.backbones import build_backbone
from thaw.nets.heads import HeadForm, install_head
from thaw.nets.weights import check_header, sha256
from thaw.recipe import MAX_GRID
from thaw.scoring.unlike import Subspace

FORMAT = 4
"""The format of a bundle; counts up when other versions can no longer read it."""
SUBSPACE = "unlike.safetensors"
"""Beside the weights: the mean and the basis of the subspace of the training images' features."""
MAX_CONFIG = 8 << 20
"""Largest size of a `config.json` in bytes; a thousand classes take a tenth of this."""
NO_BUNDLE = "give a folder such as RUN/models/ARM"
SIDES = (1, 4096)
"""The least and the most pixels of a side."""


class _Config(BaseModel):
    """The part of `config.json` that is needed to predict; the rest informs people."""

    model_config = ConfigDict(frozen=True, strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    backbone: str
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    preprocessing: Preprocessing
    decode: Literal["exact", "fast"]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    head: HeadForm = HeadForm()
    at: str | None = None
    grid: Annotated[int, Field(ge=1, le=MAX_GRID)] = 1
    test_views: Literal[1, 2]
    decide: DecideConfig = DecideConfig()
    unlike: UnlikeConfig | None = None

    @model_validator(mode="after")
    def _sound(self) -> "_Config":
        given, (least, most) = self.preprocessing, SIDES
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        high, wide = sides(given.size)
        if not least <= high <= most or not least <= wide <= most or not max(high, wide) / most <= given.crop <= 1:
            raise ValueError(f"preprocessing has sides that are not between {least} and {most:,} pixels")
        if given.resize not in ("squash", "crop", "letterbox") or given.interpolation not in FILTERS:
            raise ValueError(f"preprocessing has an unknown resize, {given.resize!r} {given.interpolation!r}")
        if not all(0 < value < 1e6 for value in given.std) or not all(abs(value) < 1e6 for value in given.mean):
            raise ValueError("preprocessing has a mean or std that is not a colour's")
        if given.depth is not None and not -1e39 < given.depth[0] < given.depth[1] < 1e39:
            raise ValueError("preprocessing has a depth whose black is not below its white")
        if self.head.nearest > self.head.images:
            raise ValueError("head asks more neighbours than it remembers")
        decide = self.decide
        if decide.floors is not None and len(decide.floors) != len(self.classes):
            raise ValueError("decide has not as many floors as there are classes")
        if (decide.positive is None) != (decide.threshold is None) or decide.positive not in (None, *self.classes):
            raise ValueError("decide has a threshold without its class, or of another class")
        return self


def load(path: str | os.PathLike[str], device: str = "auto", precision: str = "auto") -> Bundle:
    """Load a trained model, such as a study leaves in `RUN/models/ARM`.

    Nothing outside the folder is read, no code in it is run and nothing is downloaded.

    Parameters
    ----------
    path
        The bundle's folder.
    device
        `auto`, `cpu`, `cuda` or `mps`.
    precision
        `auto`, `fp32` or `bf16`; `auto` uses bf16 where the hardware is faster with it.

    Returns
    -------
    Bundle
        The model, with its classes and preprocessing.

    Raises
    ------
    BundleError
        The folder is not a sound bundle, or its weights are damaged; the message says what is wrong.
    RecipeError
        The machine has no such device.
    """
    folder = Path(path)
    config = read_config(folder)
    try:
        needed = _Config.model_validate_json(inside(folder, "config.json").read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")
        raise BundleError(f"{folder / 'config.json'} is not as thaw writes it ({what}); copy it again.") from error
    weights = inside(folder, "model.safetensors")
    try:
        # without memory for them at first, so that a small file cannot ask for the largest of networks
        with contextlib.suppress(NotImplementedError), torch.device("meta"):
            _check(weights, _network(needed)[0], needed.backbone)
        model, head = _network(needed)
    except ModelError as error:
        raise BundleError(
            f"{folder} needs the backbone {needed.backbone!r}, which the installed torchvision and timm do not have; "
            "install the versions that its config.json names."
        ) from error
    _check(weights, model, needed.backbone)
    _check_digest(weights, needed.sha256)
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
        needed.test_views,
        head,
        _doubt(needed, folder, model.get_submodule(head)),
    )


def _network(config: _Config) -> tuple[nn.Module, str]:
    """The network of a bundle, with random numbers for its weights, and the name of its head."""
    model, head = build_backbone(config.backbone, "random", len(config.classes), 0, config.at, config.grid)
    install_head(model, head, config.head)
    return model, head


def _doubt(config: _Config, folder: Path, head: nn.Module) -> Doubt | None:
    """What the model says besides its probabilities; None where it says nothing else."""
    decide, unlike = config.decide, None
    decision = None
    if decide.positive is not None and decide.threshold is not None:
        decision = config.classes.index(decide.positive), decide.threshold
    if config.unlike is not None:
        file = inside(folder, SUBSPACE)
        _check_digest(file, config.unlike.sha256)
        unlike = _subspace(file, head), config.unlike.threshold
    if decide.floors is None and decision is None and unlike is None:
        return None
    return Doubt(decide.floors, decision, unlike).eval()


def _subspace(file: Path, head: nn.Module) -> Subspace:
    """Read `unlike.safetensors`. Raises BundleError where it is not of the features that enter the head."""
    width = next(parameter.shape[1] for parameter in head.parameters() if parameter.dim() > 1)
    try:
        check_header(file)
        with safe_open(file, "np") as stored:
            found = Subspace(*(stored.get_tensor(name) for name in ("mean", "basis")))
    except (OSError, SafetensorError, ValueError) as error:
        raise BundleError(f"{file} cannot be read ({first_line(error)}); copy the bundle again.") from error
    if (
        found.mean.shape != (width,)
        or found.basis.ndim != 2
        or not 0 < found.basis.shape[1] <= len(found.basis) == width
    ):
        raise BundleError(f"{file} does not fit the head, which takes {width} features; copy the bundle again.")
    if not all(part.dtype == np.float32 and np.isfinite(part).all() for part in (found.mean, found.basis)):
        raise BundleError(f"{file} holds numbers that are not finite in fp32; copy the bundle again.")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a bundle's `config.json`. Raises BundleError where this version cannot read it."""
    file = inside(folder, "config.json")
    try:
        if file.stat().st_size > MAX_CONFIG:
            raise BundleError(f"{file} is larger than {MAX_CONFIG >> 20} MiB, which thaw never writes; copy it again.")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read ({first_line(error)}); copy the bundle again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise BundleError(
            f"{file} has the format {str(found)[:20]!r}, but this version of thaw reads {FORMAT}; run the study again "
            "with this version, or install the one that wrote the bundle."
        )
    return config


def _check(weights: Path, model: nn.Module, backbone: str) -> None:
    """Raise BundleError unless a file holds exactly the model's tensors, by name and shape."""
    own = model.state_dict()
    try:
        check_header(weights)
        with safe_open(weights, "pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{weights} cannot be read ({first_line(error)}); copy the bundle again.") from error
    for name in sorted(own.keys() | shapes.keys()):
        wanted, found = tuple(own[name].shape) if name in own else "none", shapes.get(name, "none")
        if wanted != found:
            raise BundleError(
                f"{weights} does not fit {backbone}: {name[:80]!r} should have the shape {wanted}, the file has "
                f"{found}; copy the bundle again."
            )


def _check_digest(weights: Path, wanted: str) -> None:
    """Raise BundleError where a file is not, byte for byte, the one that was saved."""
    try:
        found = sha256(weights)
    except OSError as error:
        raise BundleError(f"{weights} cannot be read ({first_line(error)}); copy the bundle again.") from error
    if found != wanted:
        raise BundleError(f"{weights} is damaged: its SHA-256 is not the one in config.json; copy the bundle again.")


def inside(folder: Path, name: str) -> Path:
    """Return the path of a regular file of the bundle, links resolved.

    A link may lead into the Hugging Face cache that the folder is part of. Raises BundleError for any other link, for
    what is not a regular file, and where there is no such file.
    """
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
        raise BundleError(f"{file} leads out of its folder or is not a regular file; copy the bundle again.")
    return target
