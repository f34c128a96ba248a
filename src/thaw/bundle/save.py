"""A bundle: weights, and everything that is needed to use them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from thaw.bundle.load import FORMAT
from thaw.data.dataset import Dataset
from thaw.recipe import Recipe
from thaw.store import write_atomic, write_json


def save_bundle(
    folder: Path, model: nn.Module, recipe: Recipe, arm: str, dataset: Dataset, test: dict[str, Any]
) -> None:
    """Write `model.safetensors` and, last, `config.json`; the folder is a bundle when the latter is there.

    `test` is what the study measured of this model on its test set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(folder / "model.safetensors", save(_unshared(state), {"format": "pt"}))
    config = {
        "format": FORMAT,
        "backbone": recipe.model.backbone,
        "classes": list(dataset.source.classes),
        "preprocessing": asdict(dataset.preprocessing),
        "decode": recipe.images.decode,
        "temperature": None,
        "recipe": recipe.name,
        "arm": arm,
        "data": dataset.source.fingerprint(),
        "test": test,
    }
    write_json(folder / "config.json", config)


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied weights as copies of their own: safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in state.items():
        unshared[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return unshared
