"""Find the training images that look most alike to the pretrained backbone."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from thaw.cache.arrays import Field, key_of, opened
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
from thaw.run.metrics import read_metrics
from thaw.serve.watch import state_of
from thaw.training.activations import fingerprint
from thaw.training.features import FeatureExtractor, cached_features


@dataclass(frozen=True)
class SimilarImages:
    """The training images of a run, by their features: what enters the head of its pretrained backbone."""

    dataset: Dataset
    rows: Rows
    """(images,) their rows in the dataset."""
    decode: str
    """How the study decoded them."""
    features: NDArray[np.float32]
    """(images, features), each row of length 1."""
    extractor: FeatureExtractor
    """uint8 pixels (n, height, width, 3) to features (n, features)."""
    compute: Compute

    def most_similar(self, pixels: NDArray[np.uint8], count: int) -> list[tuple[int, float]]:
        """Rows of the dataset that are most similar to an image, (height, width, 3), with the cosine to it."""
        with torch.inference_mode(), self.compute.autocast():
            found = self.extractor(torch.from_numpy(pixels)[None].to(self.compute.device)).cpu().numpy()[0]
        cosines = self.features @ _unit(found)
        return [(int(self.rows[place]), float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:count]]


def read_similar_images(run: Path) -> SimilarImages:
    """Read the features of the training images of a finished run, or extract them where the cache holds them no more.

    Raises ThawError where the images are no longer there, or are others.
    """
    if state_of(run)["state"] != "finished":
        raise StorageError("the study is not finished; similar training images are shown once it is.")
    recipe = load_recipe(str(run / "recipe.toml"))
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, Clock())
    metrics = read_metrics(run)
    data = metrics.data
    if dataset.identity() != {"fingerprint": data.fingerprint, "splits": data.splits}:
        raise StorageError(
            f"{recipe.data.source} holds other images, or splits, than when the study ran; run it again."
        )
    splits = dataset.splits
    refit = recipe.train.refit == "train+validation"
    rows = np.union1d(splits.train, splits.validation) if refit else splits.train
    weights = embedded_weights(recipe.model.weights)
    model, head = build_backbone(recipe.model.backbone, weights, len(dataset.source.classes), seed=0)
    whole = nn.Sequential(Normalise(dataset.preprocessing), model).eval().to(compute.device)
    extractor = FeatureExtractor(whole, model.get_submodule(head))
    features = _features(extractor, metrics.model.features, dataset, compute)[rows]
    return SimilarImages(dataset, rows, recipe.images.decode, _unit(features), extractor, compute)


def _features(extractor: FeatureExtractor, key: str, dataset: Dataset, compute: Compute) -> NDArray[np.float32]:
    """(images, features) of every image: those that the study extracted, or extracted now under a key of their own.

    The whole network runs then: finding what could be computed once traces it, which must not happen while another
    thread runs a network.
    """
    rows = np.arange(len(dataset.source.ids))
    with torch.inference_mode(), compute.autocast():
        width = extractor(*next(dataset.pixels.batches([rows[:1]]))).shape[1]
    found = opened("features", key, len(rows), [Field((width,), "float32")])
    if found is not None:
        return np.asarray(found.arrays[0])
    given = {"pixels": dataset.key, "preprocessing": asdict(dataset.preprocessing)}
    how = [str(compute.device), compute.precision, torch.__version__]
    own = key_of(**given, network=fingerprint(extractor), how=how)
    return cached_features(extractor, dataset.pixels, rows, compute, own)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows, or one row, of length 1."""
    unit: NDArray[np.float32] = values / np.sqrt(np.square(values).sum(-1, keepdims=True)).clip(1e-12)
    return unit
