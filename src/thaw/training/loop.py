"""The one training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw.compute import Compute
from thaw.data.batches import Inputs, Rows


@dataclass(frozen=True)
class Curve:
    """What happened at each optimiser step."""

    losses: NDArray[np.float64]
    """(steps,) sum of the cross-entropy over the batch's images, in fp32 before the step."""
    correct: NDArray[np.int64]
    """(steps,) images of the batch that were classified rightly."""
    images: NDArray[np.int64]
    """(steps,) images of the batch."""

    def means(self) -> dict[str, float]:
        """Loss and accuracy, true averages over images."""
        seen = int(self.images.sum())
        return {"loss": float(self.losses.sum()) / seen, "accuracy": int(self.correct.sum()) / seen}


def make_optimizer(name: str, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """torch's Adam, AdamW or SGD with momentum 0.9, fused into one kernel."""
    if name == "sgd":
        return torch.optim.SGD(parameters, learning_rate, momentum=0.9, fused=True)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, learning_rate, fused=True)


def fit(
    trunk: nn.Module | None,
    tails: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    inputs: Inputs,
    labels: Tensor,
    batches: list[Rows],
    compute: Compute,
    advance: Callable[[int], None],
) -> list[Curve]:
    """One optimiser step a batch, for each tail side by side; returns what happened to each.

    `trunk` is the part that holds nothing trainable and yet changes from step to step, through its random numbers; its
    output is the same for all tails and computed once. Each tail then draws the random numbers that it would draw
    alone. `labels` (n,) int64 lies on the device.
    """
    losses: list[list[Tensor]] = [[] for _ in tails]
    correct: list[list[Tensor]] = [[] for _ in tails]
    for rows, tensors in zip(batches, inputs.batches(batches), strict=True):
        target = labels[torch.from_numpy(rows).to(labels.device)]
        if trunk is not None:
            with torch.no_grad(), compute.autocast():
                tensors = trunk(*tensors)
        state = compute.random_state() if len(tails) > 1 else None
        for index, (tail, optimizer) in enumerate(zip(tails, optimizers, strict=True)):
            if state is not None and index:
                compute.set_random_state(state)
            # a tail may write into its inputs, and the next one wants them as they are
            own = tensors if index == len(tails) - 1 else tuple(map(_copied, tensors))
            with compute.autocast():
                logits = tail(*own)
            loss = functional.cross_entropy(logits.float(), target)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            losses[index].append(loss.detach().double() * len(rows))
            correct[index].append((logits.detach().argmax(1) == target).sum())
        advance(1)
    images = np.array([len(rows) for rows in batches])
    return [
        Curve(torch.stack(loss).cpu().numpy(), torch.stack(right).cpu().numpy(), images)
        for loss, right in zip(losses, correct, strict=True)
    ]


@torch.inference_mode()
def predict(network: nn.Module, inputs: Inputs, batches: list[Rows], compute: Compute) -> Tensor:
    """The logits of a network in evaluation mode: float32 (images, classes) on the CPU, in the batches' order."""
    logits = []
    for tensors in inputs.batches(batches):
        with compute.autocast():
            logits.append(network(*tensors).float())
    return torch.cat(logits).cpu()


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
