"""Save a bundle: weights, all that using them takes, and where they come from."""

import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from thaw.bundle.load import FORMAT
from thaw.cache.files import write_atomic, write_json
from thaw.data.dataset import Dataset
from thaw.nets.backbones import origin
from thaw.recipe import Recipe, to_toml
from thaw.recipes import EMBEDDED_NAMES

PACKAGES = ("thaw-vision", "torch", "torchvision", "timm", "pillow", "numpy")


def save_bundle(folder: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write `model.safetensors` and, last, `config.json`; the folder is a bundle when the latter is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(folder / "model.safetensors", save(_unshared(state), {"format": "pt"}))
    write_json(folder / "config.json", config)


def bundle_config(recipe: Recipe, arm: str, dataset: Dataset, test: dict[str, Any]) -> dict[str, Any]:
    """What the `config.json` of an arm's bundle holds.

    `test` is what the study measured of this model on its test set; the confusion matrix, which grows with the square
    of the classes, stays with the run. Paths of this machine do not travel with it: of the data and of a weights file
    only the name is kept.
    """
    told = _without_paths(recipe)
    weights = recipe.weights_of(arm)
    return {
        "format": FORMAT,
        "backbone": recipe.model.backbone,
        "classes": list(dataset.source.classes),
        "preprocessing": asdict(dataset.preprocessing),
        "decode": recipe.images.decode,
        "temperature": None,
        "arm": arm,
        "weights": {
            "name": told.weights_of(arm),
            **origin(recipe.model.backbone, EMBEDDED_NAMES.get(weights, weights)),
        },
        "data": {"source": told.data.source, **dataset.identity()},
        "recipe": to_toml(told),
        "test": {name: value for name, value in test.items() if name != "confusion"},
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
    }


def _without_paths(recipe: Recipe) -> Recipe:
    """The recipe with the last part of each path in it."""
    data = recipe.data.model_copy(update={"source": _last(recipe.data.source)})
    model = recipe.model.model_copy(update={"weights": _last(recipe.model.weights)})
    arms = {
        name: arm.model_copy(update={"weights": arm.weights and _last(arm.weights)})
        for name, arm in recipe.arms.items()
    }
    return recipe.model_copy(update={"data": data, "model": model, "arms": arms})


def _last(path: str) -> str:
    return path if path.startswith(("hf:", "thaw:")) else Path(path).name


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied weights as copies of their own: safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in state.items():
        unshared[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return unshared
