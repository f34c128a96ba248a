"""One arm: the learning-rate search and the final training of one network."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thaw.compute import Compute
from thaw.data.batches import Inputs, Rows, consecutive, shuffled
from thaw.data.splits import Splits
from thaw.progress import stage
from thaw.recipe import Recipe
from thaw.scoring.metrics import metrics
from thaw.training.loop import Curve, fit, make_optimizer, predict

SIDE_BY_SIDE_BYTES = 2 << 30
"""Rates are tried side by side while their copies of the tail, with gradients and Adam's moments, fit in this."""


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


@dataclass(frozen=True)
class Found:
    """The outcome of a search."""

    learning_rate: float
    edge: str | None
    """`lowest` or `highest` when the winner is at the edge of the grid, so that a better rate may lie beyond."""
    search: list[dict[str, float]]
    """A row for each rate: accuracy and loss on validation."""


def search(network: Network, labels: Tensor, splits: Splits, recipe: Recipe, seed: int, compute: Compute) -> Found:
    """Try each rate for the same steps on the same batches from the same start; the best validation accuracy wins.

    Of equal accuracies the lower validation loss wins, then the smaller rate.
    """
    rates, steps = recipe.search.learning_rates, recipe.search.steps
    epochs = _until(splits.train, recipe.train.batch_size, seed, steps)
    start = _snapshot(network.tail)
    trainable = sum(p.nbytes for p in network.tail.parameters() if p.requires_grad)
    together = network.trunk is not None and trainable * 4 * len(rates) <= SIDE_BY_SIDE_BYTES
    trials = []
    with stage("search", steps * (1 if together else len(rates)), "steps") as advance:
        for lane in [rates] if together else [[rate] for rate in rates]:
            tails = [network.tail] if len(lane) == 1 else [_copy(network.tail) for _ in lane]
            for _ in _run(network, tails, lane, epochs, labels, recipe, seed, compute, advance):
                pass
            for rate, tail in zip(lane, tails, strict=True):
                _restore(network.tail, _snapshot(tail))
                trials.append({"learning_rate": rate, **_score(network, labels, splits.validation, recipe, compute)})
            _restore(network.tail, start)
    best = min(trials, key=lambda trial: (-trial["accuracy"], trial["loss"], trial["learning_rate"]))["learning_rate"]
    edge = {min(rates): "lowest", max(rates): "highest"}.get(best) if len(rates) > 1 else None
    return Found(best, edge, trials)


def train(
    network: Network, learning_rate: float, labels: Tensor, splits: Splits, recipe: Recipe, seed: int, compute: Compute
) -> list[dict[str, float]]:
    """The final training, from the same start as every trial; a row of loss and accuracy for each epoch.

    They are means over the epoch's images as they were trained on. Without refit on validation, each epoch is also
    scored there.
    """
    refit = recipe.train.refit == "train+validation"
    rows = np.union1d(splits.train, splits.validation) if refit else splits.train
    epochs = [shuffled(rows, recipe.train.batch_size, seed, epoch) for epoch in range(recipe.train.epochs)]
    table = []
    with stage("training", sum(map(len, epochs)), "steps") as advance:
        for (curve,) in _run(network, [network.tail], [learning_rate], epochs, labels, recipe, seed, compute, advance):
            table.append(curve.means())
            if not refit:
                scores = _score(network, labels, splits.validation, recipe, compute)
                table[-1] |= {f"validation_{name}": value for name, value in scores.items()}
    return table


def test(network: Network, rows: Rows, recipe: Recipe, compute: Compute) -> Tensor:
    """Logits (images, classes) on `rows`, by the network in evaluation mode."""
    return predict(network.scorer, network.inputs, consecutive(rows, recipe.train.batch_size), compute)


def _score(network: Network, labels: Tensor, rows: Rows, recipe: Recipe, compute: Compute) -> dict[str, float]:
    logits = test(network, rows, recipe, compute)
    scores: dict[str, Any] = metrics(labels.cpu().numpy()[rows], logits.numpy())
    return {"accuracy": scores["accuracy"], "loss": scores["loss"]}


def _run(
    network: Network,
    tails: list[nn.Module],
    rates: list[float],
    epochs: list[list[Rows]],
    labels: Tensor,
    recipe: Recipe,
    seed: int,
    compute: Compute,
    advance: Callable[[int], None],
) -> Iterator[list[Curve]]:
    """Train tails side by side, an epoch at a time; its random numbers depend on seed and epoch alone."""
    optimizers = [
        make_optimizer(recipe.train.optimizer, [p for p in tail.parameters() if p.requires_grad], rate)
        for tail, rate in zip(tails, rates, strict=True)
    ]
    for epoch, batches in enumerate(epochs):
        compute.seed(epoch_seed(seed, epoch))
        yield fit(network.trunk, tails, optimizers, network.inputs, labels, batches, compute, advance)


def epoch_seed(seed: int, epoch: int) -> int:
    """What torch's random numbers start an epoch with."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _until(rows: Rows, size: int, seed: int, steps: int) -> list[list[Rows]]:
    """Epochs of batches, the last one cut short, `steps` batches in all."""
    epochs: list[list[Rows]] = []
    left = steps
    while left > 0:
        epochs.append(list(islice(shuffled(rows, size, seed, len(epochs)), left)))
        left -= len(epochs[-1])
    return epochs


def _moving(network: nn.Module) -> list[Tensor]:
    """What training changes: trainable parameters, and buffers such as running statistics."""
    return [*(p for p in network.parameters() if p.requires_grad), *network.buffers()]


def _snapshot(network: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in _moving(network)]


@torch.no_grad()
def _restore(network: nn.Module, values: list[Tensor]) -> None:
    for tensor, value in zip(_moving(network), values, strict=True):
        tensor.copy_(value)


def _copy(network: nn.Module) -> nn.Module:
    """A copy that shares the frozen parameters."""
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(network, frozen)
