"""The pretrained backbone's description of every image: what enters the head."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.cache.arrays import Field, Made, cached, key_of
from thaw.compute.batches import Inputs, Rows, consecutive
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.progress import stage
from thaw.recipe import Arm, Recipe
from thaw.training.activations import BATCH, fingerprint
from thaw.training.prepare import Kept, prepare

VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}


@dataclass(frozen=True)
class Features:
    """A description of every image."""

    values: NDArray[np.float32]
    """(images, features), mapped."""
    key: str
    """A digest of everything that determines them."""

    def key_with(self, *given: NDArray[np.int64] | None) -> str:
        """A key of what probes of these features find: everything else that they are told is in `given`."""
        versions = {name: importlib.metadata.version(name) for name in ("thaw-vision", "scikit-learn")}
        lists = [None if rows is None else rows.tolist() for rows in given]
        return key_of(features=self.key, given=lists, versions=versions)


class FeatureExtractor(nn.Module):
    """From what a network takes to what enters its head, (n, features) float32; the network is in evaluation mode.

    Of a map, which enters a convolution as in SqueezeNet, it is the mean over the picture.
    """

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.entered = torch.empty(0)
        head.register_forward_pre_hook(self._note)

    def forward(self, *inputs: Tensor) -> Tensor:
        self.network(*inputs)
        return self.entered.float()

    def _note(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered = inputs[0]
        self.entered = entered.mean((2, 3)) if entered.dim() == 4 else entered.flatten(1)


def extract_features(dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]) -> Features:
    """What enters the head of the backbone that `model.weights` gives, in evaluation mode.

    No label is looked at. It starts from the activations in `kept` where they lie on its way.
    """
    model = recipe.model.model_copy(update={"frozen": "eval"})
    train = recipe.train.model_copy(update={"flips": False})
    alone = recipe.model_copy(update={"model": model, "train": train, "arms": {"head": Arm(train="head")}})
    network, _ = prepare("head", 0, dataset, alone, compute, kept)
    start = next((one.key for one in kept if one.entry.arrays is network.inputs.arrays), dataset.key)
    how = [recipe.model.backbone, compute.device.type, compute.precision, VERSIONS, BATCH]
    normalised = asdict(dataset.preprocessing)
    key = key_of(start=start, preprocessing=normalised, values=fingerprint(network.scorer), how=how)
    trained = {parameter for parameter in network.model.parameters() if parameter.requires_grad}
    head = next(m for m in network.scorer.modules() if trained & set(m.parameters(recurse=False)))
    rows = np.arange(len(dataset.source.ids))
    return Features(cached_features(FeatureExtractor(network.scorer, head), network.inputs, rows, compute, key), key)


def cached_features(
    describer: FeatureExtractor, inputs: Inputs, rows: Rows, compute: Compute, key: str
) -> NDArray[np.float32]:
    """(rows, features) mapped, from the cache under `key`, which stands for all that determines them, or made now."""

    def make(first: int) -> Made:
        for found in features(describer, inputs, rows, compute, first):
            yield (found,), {}

    with torch.inference_mode(), compute.autocast():
        width = describer(*next(inputs.batches([rows[:1]]))).shape[1]
    (array,) = cached("features", key, len(rows), [Field((width,), "float32")], make).arrays
    return array


def features(
    describer: FeatureExtractor, inputs: Inputs, rows: Rows, compute: Compute, first: int = 0
) -> Iterator[NDArray[np.float32]]:
    """(batch, features) for one batch after the other of `rows`, from the one at place `first` on."""
    batches = consecutive(rows[first:], BATCH)
    with stage("features", len(rows), "images", first) as advance:
        for batch, tensors in zip(batches, inputs.batches(batches), strict=True):
            with torch.inference_mode(), compute.autocast():
                found: NDArray[np.float32] = describer(*tensors).cpu().numpy()
            yield found
            advance(len(batch))
