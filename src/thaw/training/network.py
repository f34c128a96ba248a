"""An arm's network while it trains, and its state: what moves, kept and brought back."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from thaw.compute.batches import Inputs, Rows, consecutive
from thaw.compute.device import Compute
from thaw.recipe import Recipe
from thaw.scoring.metrics import metrics
from thaw.training.loop import Task, make_criterion, make_optimizer, predict


@dataclass(frozen=True)
class Network:
    """An arm's network, ready to train, and what it takes as input."""

    model: nn.Module
    """The whole network; its state is what is kept at the end."""
    trunk: nn.Module | None
    """From the inputs to what enters the tail: nothing in it trains, but it draws random numbers."""
    tail: nn.Module
    """From there to the logits (n, classes), in training mode."""
    scorer: nn.Module
    """From the inputs to the logits, in evaluation mode, on the same parameters."""
    inputs: Inputs
    scales: tuple[float, ...]
    """What multiplies the learning rate of each trained parameter of the tail."""


def optimizer_of(network: Network, tail: nn.Module, learning_rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over what trains in `tail`, the network's own or a copy."""
    trained = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    return make_optimizer(recipe.train, trained, learning_rate, network.scales)


def task_of(network: Network, labels: Tensor, rows: Rows, recipe: Recipe, compute: Compute) -> Task:
    """What the network's tail, or copies of it, are trained on; `rows`, the images trained on, weigh the classes."""
    criterion = make_criterion(recipe.train, labels, rows)
    of_views = labels.repeat(2 if recipe.train.flips else 1)  # those of the mirror images follow
    return Task(network.trunk, network.inputs, of_views, criterion, compute)


def test(network: Network, rows: Rows, recipe: Recipe, compute: Compute) -> Tensor:
    """Logits (images, classes) on `rows`, by the network in evaluation mode."""
    return predict(network.scorer, network.inputs, consecutive(rows, recipe.train.batch_size), compute)


def score(network: Network, labels: Tensor, rows: Rows, recipe: Recipe, compute: Compute) -> dict[str, float]:
    """Accuracy and mean loss on `rows`; the loss is infinite where some logit is infinite or no number."""
    logits = test(network, rows, recipe, compute)
    if not torch.isfinite(logits).all():
        return {"accuracy": 0.0, "loss": np.inf}
    scores = metrics(labels.cpu().numpy()[rows], logits.numpy())
    return {"accuracy": scores["accuracy"], "loss": scores["loss"]}


def epoch_seed(seed: int, epoch: int) -> int:
    """What torch's random numbers start an epoch with."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def snapshot(network: nn.Module) -> list[Tensor]:
    """Copies of what training changes: trainable parameters, and buffers such as running statistics."""
    return [tensor.detach().clone() for tensor in _moving(network)]


def is_finite(network: nn.Module) -> bool:
    """Whether every trained parameter is; buffers may hold infinity on purpose, as masks of attention do."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters() if parameter.requires_grad)


@torch.no_grad()
def restore(network: nn.Module, values: list[Tensor]) -> None:
    """Bring a `snapshot` back, in place."""
    for tensor, value in zip(_moving(network), values, strict=True):
        tensor.copy_(value)


def copy_of(network: nn.Module) -> nn.Module:
    """A copy that shares the frozen parameters."""
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(network, frozen)


def _moving(network: nn.Module) -> list[Tensor]:
    return [*(p for p in network.parameters() if p.requires_grad), *network.buffers()]
