"""The training images that look most alike to the pretrained backbone."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from thaw.cache.arrays import key_of
from thaw.compute.batches import Rows
from thaw.compute.device import Compute, choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.errors import StorageError
from thaw.images.preprocessing import Normalise
from thaw.nets.backbones import build_backbone
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.recipes import embedded_weights
from thaw.serve.watch import state_of
from thaw.training.activations import fingerprint
from thaw.training.features import FeatureExtractor, cached_features


@dataclass(frozen=True)
class Training:
    """The training images of a run, described by what enters the head of its pretrained backbone."""

    dataset: Dataset
    rows: Rows
    """(images,) their rows in the dataset."""
    decode: str
    """How the study decoded them."""
    described: NDArray[np.float32]
    """(images, features), each row of length 1."""
    describer: FeatureExtractor
    """uint8 pixels (n, height, width, 3) to features (n, features)."""
    compute: Compute

    def most_similar(self, pixels: NDArray[np.uint8], count: int) -> list[tuple[int, float]]:
        """Rows of the dataset that are most similar to a picture, (height, width, 3), with the cosine to it."""
        with torch.inference_mode(), self.compute.autocast():
            found = self.describer(torch.from_numpy(pixels)[None].to(self.compute.device)).cpu().numpy()[0]
        cosines = self.described @ _unit(found)
        return [(int(self.rows[place]), float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:count]]


def read_training(run: Path) -> Training:
    """Describe the training images of a finished run, from the cache where it still holds what the study computed.

    Raises ThawError where the images are no longer there, or are others.
    """
    if state_of(run)["state"] != "finished":
        raise StorageError("the study is not finished; similar training images are shown once it is.")
    recipe = load_recipe(str(run / "recipe.toml"))
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, Clock())
    told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["data"]
    if not dataset.identity().items() <= told.items():
        raise StorageError(
            f"{recipe.data.source} holds other images, or splits, than when the study ran; run it again."
        )
    splits = dataset.splits
    refit = recipe.train.refit == "train+validation"
    rows = np.union1d(splits.train, splits.validation) if refit else splits.train
    weights = embedded_weights(recipe.model.weights)
    model, head = build_backbone(recipe.model.backbone, weights, len(dataset.source.classes), seed=0)
    whole = nn.Sequential(Normalise(dataset.preprocessing), model).eval().to(compute.device)
    describer = FeatureExtractor(whole, model.get_submodule(head))
    return Training(
        dataset, rows, recipe.images.decode, _unit(_describe(describer, dataset, rows, compute)), describer, compute
    )


def _describe(describer: FeatureExtractor, dataset: Dataset, rows: Rows, compute: Compute) -> NDArray[np.float32]:
    """(images, features) of these rows, from the cache where they were described before.

    The whole network runs: finding what could be computed once traces it, which must not happen while another thread
    runs a network.
    """
    given = {"pixels": dataset.key, "rows": rows.tolist(), "preprocessing": asdict(dataset.preprocessing)}
    how = [str(compute.device), compute.precision, torch.__version__]
    key = key_of(**given, network=fingerprint(describer), how=how)
    return np.array(cached_features(describer, dataset.pixels, rows, compute, key))


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows, or one row, of length 1."""
    unit: NDArray[np.float32] = values / np.sqrt(np.square(values).sum(-1, keepdims=True)).clip(1e-12)
    return unit
