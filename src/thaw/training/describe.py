"""The pretrained backbone's description of every image: what enters the head."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.compute import Compute
from thaw.data.batches import consecutive
from thaw.data.dataset import Dataset
from thaw.nets.activations import BATCH, fingerprint
from thaw.progress import stage
from thaw.recipe import Arm, Recipe
from thaw.store import Field, Made, cached, key_of
from thaw.training.network import Network
from thaw.training.prepare import Kept, prepare

VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}


@dataclass(frozen=True)
class Features:
    """A description of every image."""

    values: NDArray[np.float32]
    """(images, features), mapped."""
    key: str
    """A digest of everything that determines them."""


def describe(dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]) -> Features:
    """What enters the head of the backbone that `model.weights` gives, in evaluation mode.

    No label is looked at. It starts from the activations in `kept` where they lie on its way.
    """
    model = recipe.model.model_copy(update={"frozen": "eval"})
    train = recipe.train.model_copy(update={"flips": False})
    alone = recipe.model_copy(update={"model": model, "train": train, "arms": {"head": Arm(train="head")}})
    network, _ = prepare("head", 0, dataset, alone, compute, kept)
    start = next((one.key for one in kept if one.entry.arrays is network.inputs.arrays), dataset.key)
    how = [recipe.model.backbone, compute.device.type, compute.precision, VERSIONS, BATCH]
    key, count = key_of(start=start, values=fingerprint(network.scorer), how=how), len(dataset.source.ids)

    def make(first: int) -> Made:
        batches = consecutive(np.arange(first, count), BATCH)
        with entering(network) as entered, stage("features", count, "images", first) as advance:
            for tensors in network.inputs.batches(batches):
                with torch.inference_mode(), compute.autocast():
                    network.scorer(*tensors)
                yield (entered.pop().float().cpu().numpy(),), {}
                advance(len(tensors[0]))

    with entering(network) as sample, torch.inference_mode(), compute.autocast():
        network.scorer(*next(network.inputs.batches([np.arange(2) % count])))
    (array,) = cached("features", key, count, [Field((sample[0].shape[1],), "float32")], make).arrays
    return Features(array, key)


@contextlib.contextmanager
def entering(network: Network) -> Iterator[list[Tensor]]:
    """What enters the head, (images, features), is added to the list at each run of the scorer during the block."""
    trained = {parameter for parameter in network.model.parameters() if parameter.requires_grad}
    head = next(m for m in network.scorer.modules() if trained & set(m.parameters(recurse=False)))
    entered: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered.append(inputs[0].flatten(1))

    hook = head.register_forward_pre_hook(note)
    try:
        yield entered
    finally:
        hook.remove()
