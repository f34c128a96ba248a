"""Backbones: a torchvision or timm model by name, its weights, a new head, and the preprocessing that belongs to it."""

import contextlib
import difflib
import functools
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from thaw.errors import ModelError, first_line
from thaw.images.preprocessing import Preprocessing as Preprocessing

MAX_HEADER = 16 << 20
"""Bytes of a safetensors header; that of the network with most tensors takes a twentieth of this."""
TORCHVISION_TERMS = {
    "licence": "https://github.com/pytorch/vision#pre-trained-model-license",
    "terms": "torchvision's code is under BSD 3-Clause. Of its weights it says that they may have terms of their own, "
    "derived from the data they were trained on, and states none for these. That was ImageNet-1k, which is offered for "
    "non-commercial research and education.",
}
"""Of the weights for which torchvision states no licence, all trained on ImageNet-1k."""
NAMED = re.compile(r"-([0-9a-f]{8,})\.")
"""The first digits of a file's SHA-256 in its name; timm's `-600e.` counts epochs."""
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
"""Parameter names in torchvision's DenseNet files that its classes no longer use."""


def build_backbone(backbone: str, weights: str | Path, classes: int, seed: int) -> tuple[nn.Module, str]:
    """Build `torchvision/NAME` or `timm/NAME` with a new head of `classes` outputs; returns it and the head's name.

    `weights` is `random`; the name of a set of torchvision's (`IMAGENET1K_V1`, `DEFAULT`); for timm `pretrained` or a
    tag (`a1_in1k`); or a `.safetensors` file with the library's parameter names, of which the head is left out. Random
    numbers follow from `seed` alone, the head's in the same way whatever the weights, and torch's own generators stay
    as they are. Raises ModelError for a backbone or weights that do not exist, cannot be fetched or do not fit.
    """
    library, name = _parse(backbone)
    file = Path(weights) if str(weights).endswith(".safetensors") else None
    named = None if file or weights == "random" else str(weights)
    with _seeded(seed):
        model = (_timm_model if library == "timm" else _torchvision_model)(name, named, file is not None, classes)
    head = _head(model, backbone)
    with _seeded(seed):
        for module in model.get_submodule(head).modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.reset_parameters()
    if file:
        _load(model, head, file, backbone)
    return model, head


def default_preprocessing(backbone: str, weights: str | Path) -> Preprocessing:
    """The preprocessing that belongs to weights as their library states it; without a statement, ImageNet's usual one.

    Builds and downloads nothing. Raises ModelError for a backbone or named weights that do not exist.
    """
    library, name = _parse(backbone)
    named = None if weights == "random" or str(weights).endswith(".safetensors") else str(weights)
    if library == "timm" and (config := _timm_config(name, named)):
        resize = "squash" if config.crop_mode == "squash" else "crop"
        size = config.input_size[-1]
        return Preprocessing(size, resize, config.interpolation, config.crop_pct, tuple(config.mean), tuple(config.std))
    if library == "torchvision" and named:
        transforms = _torchvision_weights(name, named).transforms()
        size, crop = transforms.crop_size[0], transforms.crop_size[0] / transforms.resize_size[0]
        mean, std = tuple(transforms.mean), tuple(transforms.std)
        return Preprocessing(size, "crop", transforms.interpolation.value, crop, mean, std)
    return Preprocessing(224, "crop", "bilinear", 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def content_of(weights: str) -> str | None:
    """The SHA-256 of a weights file; None of weights that are named, whose values their library answers for."""
    file = Path(weights)
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    status = file.stat()
    return _sha256(file, status.st_size, status.st_mtime_ns)


def native_size(backbone: str) -> int:
    """The side in pixels of the images that a backbone is made for."""
    return default_preprocessing(backbone, "random").size


def check_size(backbone: str, size: int) -> None:
    """Raise ModelError where a backbone takes no pictures of `size` pixels; nothing is computed but shapes."""
    native = native_size(backbone)
    if size == native:
        return
    with contextlib.suppress(NotImplementedError), torch.device("meta"):
        model = build_backbone(backbone, "random", 2, seed=0)[0].eval()
        failed = _failure(model, size)
        if failed and not _failure(model, native):  # else its shapes cannot be told without values
            raise ModelError(
                f"{backbone} takes no pictures of {size} px ({first_line(failed)}); leave out images.size, or set "
                f"it to {native}."
            ) from failed


def _failure(model: nn.Module, size: int) -> Exception | None:
    """What the network raises, whatever that is, for a picture of `size` pixels."""
    try:
        model(torch.empty(1, 3, size, size))
    except Exception as error:
        return error
    return None


def origin(backbone: str, weights: str) -> dict[str, str | None]:
    """What a library says of its weights: their `licence`, a name or an address; their repository on the Hugging Face
    `hub`; and `terms`, a sentence or two where no name says it all. Each None where nothing is known.
    """
    library, name = _parse(backbone)
    known: dict[str, str | None] = {"licence": None, "terms": None, "hub": None}
    if weights == "random" or weights.endswith(".safetensors"):
        return known
    if library == "timm":
        config = _timm_config(name, weights)
        return known | {"licence": config.license, "hub": config.hf_hub_id}
    licence = _torchvision_weights(name, weights).meta.get("license")
    return known | ({"licence": licence} if licence else TORCHVISION_TERMS)


def _parse(backbone: str) -> tuple[str, str]:
    """Library and name of a backbone that exists."""
    known = {"torchvision": torchvision.models.list_models(module=torchvision.models), "timm": timm.list_models()}
    library, _, name = backbone.partition("/")
    if name in known.get(library, []):
        return library, name
    names = [f"{library}/{name}" for library, names in known.items() for name in names]
    near = difflib.get_close_matches(backbone, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "write it as torchvision/alexnet or timm/resnet50."
    raise ModelError(f"there is no backbone {backbone!r}; {hint}")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The CPU's random numbers start from `seed`, and afterwards go on as if none had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _head(model: nn.Module, backbone: str) -> str:
    """Name of the layer that gives the logits: what timm says, or the last linear or convolution layer there is."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    classifier: Any = getattr(model, "get_classifier", None)
    head = classifier() if classifier else layers[-1]
    names: list[str] = [name for name, module in model.named_modules() if module is head]
    if names:
        return names[0]
    raise ModelError(f"{backbone} has more than one head, as for distillation; choose a backbone with one.")


def _torchvision_model(name: str, weights: str | None, weights_follow: bool, classes: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # their weights expect other statistics than the images have, to which `transform_input` converts
        options = {"aux_logits": False, "transform_input": True, "init_weights": not (weights or weights_follow)}
    state = _download(name, weights) if weights else None
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    if state is not None:
        head = _head(model, name)
        for key in list(state):
            value = state.pop(key)
            if not key.startswith(f"{head}."):
                state[OLD_DENSENET.sub(r"\1\2", key)] = value
        try:
            model.load_state_dict(state, strict=False)
        except RuntimeError as error:  # those of vision transformers for larger pictures have more positions
            raise ModelError(
                f"the weights {weights!r} are for another form of torchvision/{name} than the one it has at "
                f"{default_preprocessing(f'torchvision/{name}', 'random').size} px; choose other weights."
            ) from error
    return model


def _torchvision_weights(name: str, weights: str) -> WeightsEnum:
    known = torchvision.models.get_model_weights(name)
    if weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise ModelError(f"torchvision/{name} has no weights {weights!r}; use {names}, random or a .safetensors file.")
    return known[weights]


def _download(name: str, weights: str) -> dict[str, Tensor]:
    """Parameters by name from torch.hub's folder, where a missing file is downloaded and its hash checked."""
    chosen = _torchvision_weights(name, weights)
    file = _in_torch_hub(chosen.url)
    _check_named(file)
    try:
        state: dict[str, Tensor] = chosen.get_state_dict(
            progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise ModelError(
            f"the weights {weights!r} of torchvision/{name} could not be downloaded ({first_line(error)}); put "
            f"{chosen.url} at {file} or set the weights to a .safetensors file."
        ) from error
    return state


def _timm_model(name: str, weights: str | None, _: bool, classes: int) -> nn.Module:
    config = _timm_config(name, weights)
    tagged = f"{name}.{config.tag}" if weights and config and config.tag else name
    try:
        model: nn.Module = timm.create_model(tagged, pretrained=weights is not None, num_classes=classes)
    except (OSError, RuntimeError, UnpicklingError, SafetensorError) as error:
        if weights is None:
            raise
        raise ModelError(
            f"the weights {weights!r} of timm/{name} could not be downloaded ({type(error).__name__}); put "
            f"{config.hf_hub_id or config.url} into the Hugging Face cache or set the weights to a .safetensors file."
        ) from error
    if weights and config.hf_hub_id:
        _check_blobs(config.hf_hub_id)
    elif weights and config.url:
        _check_named(_in_torch_hub(config.url))
    return model


def _in_torch_hub(url: str) -> Path:
    """Where torch.hub keeps the file that it downloads from `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _check_named(file: Path) -> None:
    """Raise ModelError where a file in torch.hub's folder has another hash than its name `NAME-HASH.pth` says.

    torch.hub itself compares them at the download at most.
    """
    if named := NAMED.search(file.name):
        _check_hash(file, named[1])


def _check_blobs(repository: str) -> None:
    """Raise ModelError where a file of a hub repository is not what the local cache holds it for.

    The cache names a large file after its SHA-256, and the hub's client compares no more than its size.
    """
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository.partition("@")[0], repo_type="model")
    for blob in folder.glob(f"blobs/{'[0-9a-f]' * 64}"):
        _check_hash(blob, blob.name)


def _check_hash(file: Path, wanted: str) -> None:
    """Raise ModelError where a file that is there has a SHA-256 that does not begin with `wanted`."""
    if not file.is_file():
        return
    status = file.stat()
    found = _sha256(file, status.st_size, status.st_mtime_ns)
    if not found.startswith(wanted):
        raise ModelError(
            f"{file} is not what its name says: its SHA-256 begins {found[:8]}, not {wanted[:8]}; delete it, so that "
            "it is downloaded again."
        )


@functools.cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """A file's SHA-256; `size` and `changed` are as they are now, so that each file is read once."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _timm_config(name: str, weights: str | None) -> Any:
    """timm's description of a set of weights, or of the default one; None where it has none."""
    configs = timm.models.get_arch_pretrained_cfgs(name)
    tags = [key.partition(".")[2] for key, config in configs.items() if config.has_weights]
    if weights is None or (weights == "pretrained" and tags):
        return timm.models.get_pretrained_cfg(name)
    if weights not in tags:
        names = ", ".join(["pretrained", *tags, "random"] if tags else ["random"])
        raise ModelError(f"timm/{name} has no weights {weights!r}; use {names} or a .safetensors file.")
    return configs[f"{name}.{weights}"]


@torch.no_grad()
def _load(model: nn.Module, head: str, file: Path, backbone: str) -> None:
    """Copy everything but the head from a file into the model, in the model's own precision."""
    if file.exists() and not file.is_file():
        raise ModelError(f"the weights {file} are no plain file; give a .safetensors file.")
    try:
        with file.open("rb") as content:
            header = int.from_bytes(content.read(8), "little")
        if header > MAX_HEADER:
            raise ModelError(
                f"the weights {file} have a header of {header:,} bytes, more than any network needs; give a "
                ".safetensors file."
            )
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights {file} cannot be read ({first_line(error)}); give a .safetensors file."
        ) from error
    for name, own in model.state_dict().items():
        if name.startswith(f"{head}.") or (name not in state and name.endswith(".num_batches_tracked")):
            continue
        wanted, found = tuple(own.shape), tuple(state[name].shape) if name in state else "none"
        if wanted != found:
            raise ModelError(
                f"{file} does not fit {backbone}: {name!r} should have the shape {wanted}, the file has {found}; give "
                "weights of this backbone under its library's names."
            )
        own.copy_(state[name])
