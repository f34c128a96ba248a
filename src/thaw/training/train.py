"""The final training of an arm, at the rate that its search found."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thaw.cache.checkpoint import load_state, optimizer_tensors, restore_optimizer, save_state
from thaw.compute.batches import shuffled
from thaw.compute.device import Compute
from thaw.data.splits import Splits
from thaw.errors import DivergedError
from thaw.progress import say, stage
from thaw.recipe import Recipe
from thaw.run.live import note
from thaw.training.loop import fit, schedule
from thaw.training.network import Network, epoch_seed, is_finite, optimizer_of, restore, score, snapshot, task_of, test

Epoch = dict[str, float]


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a final training."""

    epochs: list[Epoch]
    """A row of loss and accuracy for each epoch."""
    stopped: str | None
    """Why it ended before its last epoch."""
    seconds: float = field(compare=False)
    """What its epochs took, by this run of the study or an earlier one."""


def train(
    network: Network,
    learning_rate: float,
    labels: Tensor,
    splits: Splits,
    recipe: Recipe,
    seed: int,
    compute: Compute,
    work: Path | None = None,
) -> TrainResult:
    """The final training, from the same start as every trial; it goes on from the last epoch kept in `work`.

    Loss and accuracy are means over an epoch's images as they were trained on. Without refit on validation, each epoch
    is also scored there. With patience, the network is left as it was after the best epoch. A loss, or a weight after
    an epoch's last step, that is infinite or no number ends it with the last good epoch; in bf16 it raises
    DivergedError instead, since fp32 may not diverge. So do, in either, logits that are no finite numbers.
    """
    settings = recipe.train
    refit = settings.refit == "train+validation"
    rows = np.union1d(splits.train, splits.validation) if refit else splits.train
    mirrored = len(labels) if settings.flips else 0
    epochs = [shuffled(rows, settings.batch_size, seed, epoch, mirrored) for epoch in range(settings.epochs)]
    lengths = [len(batches) for batches in epochs]
    factors = np.split(schedule(settings, sum(lengths)), np.cumsum(lengths)[:-1])
    optimizer = optimizer_of(network, network.tail, learning_rate, recipe)
    task = task_of(network, labels, rows, recipe, compute)
    kept = None if work is None else work / "epoch.safetensors"
    begun = time.perf_counter()
    table, best, spent = _go_on(kept, network, optimizer, learning_rate)
    note("epochs", table)
    stopped = None
    with stage("training", sum(lengths), "steps", sum(lengths[: len(table)])) as advance:
        for epoch in range(len(table), settings.epochs):
            before = snapshot(network.tail)
            compute.seed(epoch_seed(seed, epoch))
            (curve,) = fit(task, [network.tail], [optimizer], epochs[epoch], advance, factors[epoch])
            row = curve.means()
            if not refit:
                scores = score(network, labels, splits.validation, recipe, compute)
                row |= {f"validation_{name}": value for name, value in scores.items()}
            if not np.isfinite(list(row.values())).all() or not is_finite(network.tail):
                if compute.precision == "bf16":
                    raise DivergedError("the loss became infinite in bf16; set train.precision to fp32.")
                restore(network.tail, before)
                stands = "the weights of the epoch before it stand" if epoch else "it stays as it was, untrained"
                stopped = f"the loss became infinite in epoch {epoch + 1}, so {stands}"
                say(stopped)
                break
            table.append(row)
            note("epochs", table)
            if settings.patience:
                if _best(table) == epoch:
                    best = snapshot(network.tail)
                if epoch - _best(table) >= settings.patience:
                    stopped = f"{settings.patience} epochs brought nothing better than epoch {_best(table) + 1}"
                    break
            if kept and epoch + 1 < settings.epochs:
                _keep(kept, network, optimizer, learning_rate, table, best, spent + time.perf_counter() - begun)
    if settings.patience and best:
        restore(network.tail, best)
    if refit and not torch.isfinite(test(network, splits.validation, recipe, compute)).all():
        raise DivergedError("the trained network answers with infinite numbers; lower the rates in [search].")
    return TrainResult(table, stopped, spent + time.perf_counter() - begun)


def _best(table: list[Epoch]) -> int:
    """The epoch with the best validation accuracy, of equal ones with the lowest loss, of equal ones the first."""
    return min(range(len(table)), key=lambda i: (-table[i]["validation_accuracy"], table[i]["validation_loss"]))


def _keep(
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    table: list[Epoch],
    best: list[Tensor],
    seconds: float,
) -> None:
    """Write down everything that the next epoch starts from."""
    tensors = {f"now.{index}": tensor for index, tensor in enumerate(snapshot(network.tail))}
    tensors |= {f"best.{index}": tensor for index, tensor in enumerate(best)}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(optimizer).items()}
    save_state(path, tensors, {"learning_rate": learning_rate, "epochs": table, "seconds": seconds})


def _go_on(
    path: Path | None, network: Network, optimizer: torch.optim.Optimizer, learning_rate: float
) -> tuple[list[Epoch], list[Tensor], float]:
    """Bring back what `_keep` wrote: the epochs so far, the best state, the seconds; nothing where there is none."""
    state = None if path is None else load_state(path)
    if state is None or state[1]["learning_rate"] != learning_rate:
        return [], [], 0.0
    tensors, notes = state

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

    restore(network.tail, _in_order(part("now")))
    restore_optimizer(optimizer, part("optimizer"))
    epochs: list[Any] = notes["epochs"]
    return epochs, _in_order(part("best")), notes["seconds"]


def _in_order(numbered: dict[str, Tensor]) -> list[Tensor]:
    return [numbered[str(index)] for index in range(len(numbered))]
