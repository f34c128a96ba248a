"""Save a bundle: weights, everything needed to use them, and where they come from."""

import hashlib
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from thaw.bundle.load import FORMAT, SUBSPACE
from thaw.cache.checkpoint import unshared
from thaw.cache.files import write_atomic, write_json
from thaw.data.dataset import Dataset
from thaw.nets.backbones import origin
from thaw.nets.heads import form_of
from thaw.recipe import Recipe, Settings, to_toml
from thaw.recipes import EMBEDDED_NAMES
from thaw.scoring.metrics import Scores
from thaw.scoring.unlike import Subspace
from thaw.training.specs import ArmSpec
from thaw.versions import versions

PACKAGES = ("thaw-vision", "torch", "torchvision", "timm", "pillow", "numpy")


def save_bundle(folder: Path, model: nn.Module, config: dict[str, Any], subspace: Subspace | None = None) -> None:
    """Write `model.safetensors` and, last, `config.json`; the folder is a bundle once the latter is there.

    Parameters
    ----------
    folder
        The bundle's folder; made where it is not there.
    model
        The trained network.
    config
        The rest of `config.json`, see `bundle_config`; its format, the form of the head and the digest of the weights
        are added here.
    subspace
        That of the training images' features, which goes into `unlike.safetensors`; None where there is none.

    Raises
    ------
    StorageError
        A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    content = save(unshared(model.state_dict()), {"format": "pt"})
    write_atomic(folder / "model.safetensors", content)
    (folder / SUBSPACE).unlink(missing_ok=True)
    if subspace is not None:
        tensors = {"mean": torch.from_numpy(subspace.mean), "basis": torch.from_numpy(subspace.basis)}
        write_atomic(folder / SUBSPACE, save(tensors))
    own = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), "head": form_of(model).model_dump()}
    write_json(folder / "config.json", own | config | own)


def bundle_config(spec: ArmSpec, dataset: Dataset, settings: Settings, test: Scores | None = None) -> dict[str, Any]:
    """Return the content of the `config.json` of an arm's bundle.

    Paths of this machine do not travel with a bundle: of the data and of a weights file only the name is kept.

    Parameters
    ----------
    spec
        The arm that was trained.
    dataset
        The data that the model was trained on.
    settings
        What the arm was resolved from: a study's recipe, or a classifier's settings.
    test
        The model's scores on the test set, where a study measured them; the confusion matrix, which grows with the
        square of the number of classes, stays with the run.
    """
    named, weights = _without_paths(settings), settings.weights_of(spec.name)
    source = _last(settings.data.source) if isinstance(settings, Recipe) else None
    return {
        "backbone": spec.backbone,
        "at": spec.at,
        "grid": spec.grid,
        "classes": list(dataset.source.classes),
        "preprocessing": asdict(dataset.preprocessing),
        "decode": settings.images.decode,
        "temperature": None,
        "test_views": settings.augment.test_views,
        "arm": spec.name,
        "weights": {"name": _last(weights), **origin(spec.backbone, EMBEDDED_NAMES.get(weights, weights))},
        "data": {"source": source, **dataset.identity()},
        "recipe": to_toml(named),
        "test": {} if test is None else test.model_dump(exclude={"confusion"}),
        "versions": {"python": platform.python_version(), **versions(*PACKAGES)},
    }


def _without_paths(settings: Settings) -> Settings:
    """Return the settings with each path in them cut to its last part."""
    changed: dict[str, Any] = {
        "model": settings.model.model_copy(update={"weights": _last(settings.model.weights)}),
        "arms": {
            name: arm.model_copy(update={"weights": arm.weights and _last(arm.weights)})
            for name, arm in settings.arms.items()
        },
    }
    if isinstance(settings, Recipe):
        shifted = {name: _last(source) for name, source in settings.data.shifted.items()}
        own = {"source": _last(settings.data.source), "shifted": shifted}
        labels = settings.data.labels and _last(settings.data.labels)
        changed["data"] = settings.data.model_copy(update=own | {"labels": labels})
    return settings.model_copy(update=changed)


def _last(path: str) -> str:
    return path if path.startswith(("hf:", "thaw:")) else Path(path).name
