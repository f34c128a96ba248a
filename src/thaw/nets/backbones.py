"""Backbones: a torchvision or timm model by name, its weights, a new head, and the preprocessing that belongs to it."""

import contextlib
import difflib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from thaw.errors import ModelError, first_line
from thaw.images.preprocessing import Preprocessing as Preprocessing
from thaw.images.preprocessing import Size, describe_size, sides
from thaw.nets.cut import cut
from thaw.nets.weights import check_header, sha256

TORCHVISION_TERMS = {
    "licence": "https://github.com/pytorch/vision#pre-trained-model-license",
    "terms": "torchvision's code is under BSD 3-Clause. Of its weights it says that they may have terms of their own, "
    "derived from the data they were trained on, and states none for these. That was ImageNet-1k, which is offered for "
    "non-commercial research and education.",
}
"""Terms of the weights for which torchvision states no licence, all trained on ImageNet-1k."""
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")
"""The first digits of a file's SHA-256 in its name; the `-600e.` in some of timm's names counts epochs."""
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
"""Parameter names in torchvision's DenseNet files that its classes no longer use."""

HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
"""The names that timm gives to weights on the hub."""


def build_backbone(
    backbone: str, weights: str | Path, classes: int, seed: int, at: str | None = None, grid: int = 1
) -> tuple[nn.Module, str]:
    """Build a backbone with a new head.

    Parameters
    ----------
    backbone
        `torchvision/NAME` or `timm/NAME`.
    weights
        `random`; the name of torchvision weights (`IMAGENET1K_V1`, `DEFAULT`); for timm `pretrained` or a tag
        (`a1_in1k`); or a `.safetensors` file with the library's parameter names, whose head is ignored.
    classes
        The number of outputs of the head.
    seed
        Seed of all random weights, the head's the same for any `weights`; torch's global generators are left as they
        were.
    at, grid
        The module that the network is cut after, and how its output is pooled, see `nets.cut`; None for all of it.

    Returns
    -------
    tuple of nn.Module and str
        The network and the name of its head.

    Raises
    ------
    ModelError
        If the backbone or the weights do not exist, cannot be downloaded or do not fit, or it cannot be cut there.
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
    if at is not None:
        with _seeded(seed):
            cut(model, head, at, grid, native_size(backbone))
    return model, head


def default_preprocessing(backbone: str, weights: str | Path) -> Preprocessing:
    """Return the preprocessing that a library states for weights, or the usual one of ImageNet if it states none.

    Builds and downloads nothing. Raises ModelError if the backbone or the named weights do not exist.
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


def weights_digest(weights: str) -> str | None:
    """Return the SHA-256 of a weights file, or None for named weights, whose values their library vouches for."""
    file = Path(weights)
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    return sha256(file)


def check_backbone(backbone: str) -> None:
    """Raise ModelError, which says what may have been meant, if neither library has such a network."""
    _parse(backbone)


def has_weights(backbone: str, weights: str) -> bool:
    """Whether a library's weights lie on this machine; downloads nothing.

    Parameters
    ----------
    backbone
        `torchvision/NAME` or `timm/NAME`.
    weights
        The name of torchvision weights; for timm `pretrained` or a tag.

    Raises
    ------
    ModelError
        There are no such weights.
    """
    library, name = _parse(backbone)
    if library == "torchvision":
        return _torch_hub_file(_torchvision_weights(name, weights).url).is_file()
    config = _timm_config(name, weights)
    if config.hf_hub_id:
        return _is_cached(config.hf_hub_id)
    return _torch_hub_file(config.url).is_file()


def native_size(backbone: str) -> int:
    """Return the height and width, in pixels, of the images that a backbone was made for."""
    return max(sides(default_preprocessing(backbone, "random").size))


def check_size(backbone: str, size: Size) -> None:
    """Raise ModelError if a backbone cannot take images of a size; computes only shapes."""
    native = native_size(backbone)
    if size == native:
        return
    with contextlib.suppress(NotImplementedError), torch.device("meta"):
        model = build_backbone(backbone, "random", 2, seed=0)[0].eval()
        failed = _failure(model, size)
        if failed and not _failure(model, native):  # else its shapes cannot be computed without values
            raise ModelError(
                f"{backbone} cannot take images of {describe_size(size)} ({first_line(failed)}); leave out images.size "
                f"or set it to {native}."
            ) from failed


def _failure(model: nn.Module, size: Size) -> Exception | None:
    """Return the exception, of any type, that the network raises for an image of a size, or None."""
    try:
        model(torch.empty(1, 3, *sides(size)))
    except Exception as error:
        return error
    return None


def origin(backbone: str, weights: str) -> dict[str, str | None]:
    """Return what a library states about its weights.

    Returns
    -------
    dict
        `licence`, a name or a URL; `hub`, the repository on the Hugging Face hub; and `terms`, a sentence or two where
        a name is not enough. Each is None if nothing is known.
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
    """Split `LIBRARY/NAME`; raise ModelError if there is no such backbone."""
    known = {"torchvision": torchvision.models.list_models(module=torchvision.models), "timm": timm.list_models()}
    library, _, name = backbone.partition("/")
    if name in known.get(library, []):
        return library, name
    names = [f"{library}/{name}" for library, names in known.items() for name in names]
    near = difflib.get_close_matches(backbone, names, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(near)}?)" if near else "; write it as torchvision/alexnet or timm/resnet50"
    raise ModelError(f"there is no backbone {backbone!r}{hint}.")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random numbers during the block; afterwards they continue as if none had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _head(model: nn.Module, backbone: str) -> str:
    """Return the name of the layer that computes the logits: timm's classifier, or the last linear or convolution."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    classifier: Any = getattr(model, "get_classifier", None)
    head = classifier() if classifier else layers[-1]
    names: list[str] = [name for name, module in model.named_modules() if module is head]
    if names:
        return names[0]
    raise ModelError(f"{backbone} has more than one head, as for distillation; choose a backbone with one head.")


def _torchvision_model(name: str, weights: str | None, weights_follow: bool, classes: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # their weights expect images normalised differently; `transform_input` converts them
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
        except RuntimeError as error:  # weights of vision transformers for larger images have more positions
            raise ModelError(
                f"the weights {weights!r} do not fit torchvision/{name} as built for "
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
    """Return parameters by name from torch.hub's folder, downloading a missing file and checking its hash."""
    chosen = _torchvision_weights(name, weights)
    file = _torch_hub_file(chosen.url)
    _check_named(file)
    try:
        _fetch(chosen.url, file)
        state: dict[str, Tensor] = chosen.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise ModelError(
            f"the weights {weights!r} of torchvision/{name} could not be downloaded ({first_line(error)}); save "
            f"{chosen.url} as {file} or set the weights to a .safetensors file."
        ) from error
    return state


def _timm_model(name: str, weights: str | None, _: bool, classes: int) -> nn.Module:
    config = _timm_config(name, weights)
    tagged = f"{name}.{config.tag}" if weights and config and config.tag else name
    try:
        if weights and config.hf_hub_id:
            _reach_hub(config.hf_hub_id)
        elif weights and config.url:
            _fetch(config.url, _torch_hub_file(config.url))
        with _quiet():
            model: nn.Module = timm.create_model(tagged, pretrained=weights is not None, num_classes=classes)
    except (OSError, RuntimeError, UnpicklingError, SafetensorError) as error:
        if weights is None:
            raise
        remedy = f"put {config.hf_hub_id} into the Hugging Face cache"
        if not config.hf_hub_id:
            remedy = f"save {config.url} as {_torch_hub_file(config.url)}"
        raise ModelError(
            f"the weights {weights!r} of timm/{name} could not be downloaded ({type(error).__name__}); {remedy} or set "
            "the weights to a .safetensors file."
        ) from error
    if weights and config.hf_hub_id:
        _check_blobs(config.hf_hub_id)
    elif weights and config.url:
        _check_named(_torch_hub_file(config.url))
    return model


def _reach_hub(repository: str) -> None:
    """Raise OSError if weights are not in the hub's cache and the hub cannot be reached.

    Its client finds out too, but tries for a minute.
    """
    if constants.HF_HUB_OFFLINE or _is_cached(repository):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of whichever library this version of the client uses
        raise ConnectionError(str(error)) from error


def _is_cached(repository: str) -> bool:
    """Whether weights of a hub repository lie in the hub's cache."""
    repo, _, revision = repository.partition("@")
    return any(isinstance(try_to_load_from_cache(repo, file, revision=revision or None), str) for file in HUB_FILES)


def _fetch(url: str, file: Path) -> None:
    """Download a file where torch.hub looks for it, if it is missing; torch.hub would print a line of its own."""
    if file.exists():
        return
    named = HASH_IN_NAME.search(file.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(file), named and named[1], progress=sys.stderr.isatty())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block in which the hub's client and timm do not log: what fails is raised."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _torch_hub_file(url: str) -> Path:
    """Return the path of the file that torch.hub downloads from `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _check_named(file: Path) -> None:
    """Raise ModelError if a file in torch.hub's folder does not have the hash in its name `NAME-HASH.pth`.

    torch.hub itself compares them only when it downloads the file, if at all.
    """
    if match := HASH_IN_NAME.search(file.name):
        _check_hash(file, match[1])


def _check_blobs(repository: str) -> None:
    """Raise ModelError if a file of a hub repository is damaged in the local cache, which names it after its SHA-256.

    The hub's client compares only its size.
    """
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository.partition("@")[0], repo_type="model")
    for blob in folder.glob(f"blobs/{'[0-9a-f]' * 64}"):
        _check_hash(blob, blob.name)


def _check_hash(file: Path, wanted: str) -> None:
    """Raise ModelError if a file exists and its SHA-256 does not begin with `wanted`."""
    if not file.is_file():
        return
    actual = sha256(file)
    if not actual.startswith(wanted):
        raise ModelError(
            f"{file} does not match its name: its SHA-256 begins with {actual[:8]}, not {wanted[:8]}; delete it, so "
            "that it is downloaded again."
        )


def _timm_config(name: str, weights: str | None) -> Any:
    """Return timm's configuration of weights, or of a backbone's default weights; None if it has none."""
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
        raise ModelError(f"the weights {file} are not a regular file; give a .safetensors file.")
    try:
        check_header(file)
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights {file} cannot be read ({first_line(error)}); give a .safetensors file."
        ) from error
    for name, own in model.state_dict().items():
        if name.startswith(f"{head}.") or (name not in state and name.endswith(".num_batches_tracked")):
            continue
        wanted, actual = tuple(own.shape), tuple(state[name].shape) if name in state else None
        if wanted != actual:
            problem = f"has shape {actual}, not {wanted}" if actual is not None else "is missing"
            raise ModelError(
                f"{file} does not fit {backbone}: {name!r} {problem}; give weights of this backbone with its "
                "library's parameter names."
            )
        own.copy_(state[name])
