"""The pretrained backbone's description of every image: what enters the head."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.compute import Compute
from thaw.data.batches import consecutive
from thaw.data.dataset import Dataset
from thaw.nets.activations import BATCH
from thaw.progress import stage
from thaw.recipe import Arm, Recipe
from thaw.training.prepare import Kept, prepare


def describe(dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]) -> NDArray[np.float32]:
    """(images, features) float32: what enters the head of the backbone that `model.weights` gives, in evaluation mode.

    No label is looked at. It starts from the activations in `kept` where they lie on its way.
    """
    model = recipe.model.model_copy(update={"frozen": "eval"})
    train = recipe.train.model_copy(update={"flips": False})
    alone = recipe.model_copy(update={"model": model, "train": train, "arms": {"head": Arm(train="head")}})
    network, _ = prepare("head", 0, dataset, alone, compute, kept)
    trained = {parameter for parameter in network.model.parameters() if parameter.requires_grad}
    head = next(m for m in network.scorer.modules() if trained & set(m.parameters(recurse=False)))
    entered: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered.append(inputs[0].flatten(1).float().cpu())

    hook = head.register_forward_pre_hook(note)
    try:
        batches = consecutive(np.arange(len(dataset.source.ids)), BATCH)
        with torch.inference_mode(), stage("features", len(dataset.source.ids), "images") as advance:
            for rows, tensors in zip(batches, network.inputs.batches(batches), strict=True):
                with compute.autocast():
                    network.scorer(*tensors)
                advance(len(rows))
    finally:
        hook.remove()
    return torch.cat(entered).numpy()
