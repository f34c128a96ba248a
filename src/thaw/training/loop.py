"""The one training loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.compute.batches import Inputs, Rows, on_device
from thaw.compute.device import Compute
from thaw.errors import out_of_memory
from thaw.progress import say
from thaw.recipe import Train
from thaw.training.mixing import Mix


@dataclass(frozen=True)
class Task:
    """What networks are trained on, and how: the same for all that are trained side by side."""

    middle: nn.Module | None
    """Holds nothing trainable and yet changes from step to step, through its random numbers; its output, which enters
    the trainable parts, is the same for all of them and computed once."""
    inputs: Inputs
    labels: Tensor
    """(rows of the inputs,) int64, on the device."""
    criterion: nn.CrossEntropyLoss
    compute: Compute
    clip: float | None = None
    """The norm that each gradient is shortened to where it is longer."""
    mix: Mix | None = None
    """How the images of a batch are mixed."""

    def batches(self, rows: list[Rows]) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """The inputs of each batch, and its classes: int64 (batch,), or mixed ones, (batch, classes)."""
        targets = (self.labels[own] for own in on_device(rows, self.labels.device))
        for own, target, tensors in zip(rows, targets, self.inputs.batches(rows), strict=True):
            yield self.mix(tensors, target, own) if self.mix else (tensors, target)


@dataclass(frozen=True)
class Learner:
    """What trains at one learning rate."""

    trainable: nn.Module
    """From what the middle gives to the logits (n, classes)."""
    optimizer: torch.optim.Optimizer


Losses = list[tuple[Tensor, Tensor]]
"""For each trainable part the mean loss of a batch and how many of its images were classified rightly."""


@dataclass(frozen=True)
class History:
    """What happened at each optimiser step."""

    losses: NDArray[np.float64]
    """(steps,) sum of the loss over the batch's images, in fp32 before the step."""
    correct: NDArray[np.int64]
    """(steps,) images of the batch that were classified rightly."""
    images: NDArray[np.int64]
    """(steps,) images of the batch."""

    def means(self) -> tuple[float, float]:
        """Loss and accuracy, true averages over images."""
        seen = int(self.images.sum())
        return float(self.losses.sum()) / seen, int(self.correct.sum()) / seen

    def diverged(self) -> bool:
        """Whether some loss was infinite or NaN."""
        return not bool(np.isfinite(self.losses).all())


def make_criterion(settings: Train, labels: Tensor, rows: Rows) -> nn.CrossEntropyLoss:
    """Cross-entropy with the recipe's label smoothing and class weights; `rows` of `labels` (n,) are trained on.

    Parameters
    ----------
    settings
        Its `label_smoothing` and `class_weights`. Balanced weights are len(rows) / (classes * images of the class), as
        scikit-learn's.
    labels
        (n,) int64, of all images; the highest tells the number of classes.
    rows
        The images that weigh the classes.
    """
    weights = None
    if settings.class_weights == "balanced":
        trained = _at(labels, rows)
        counts = torch.bincount(trained, minlength=int(labels.max()) + 1)
        weights = len(rows) / (len(counts) * counts.clamp(min=1)).float()
    return nn.CrossEntropyLoss(weights, label_smoothing=settings.label_smoothing)


def make_optimizer(
    settings: Train,
    parameters: list[nn.Parameter],
    learning_rate: float,
    scales: tuple[float, ...] = (),
    decayed: tuple[bool, ...] = (),
) -> torch.optim.Optimizer:
    """torch's Adam, AdamW or SGD with momentum 0.9, fused into one kernel.

    Parameters
    ----------
    settings
        Its `optimizer` and `weight_decay`.
    parameters
        What trains.
    learning_rate
        That of a parameter whose scale is 1.
    scales
        What multiplies the learning rate of each parameter, in order; by default 1.
    decayed
        Whether each parameter has weight decay, in order; by default all have.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    each = zip(parameters, scales or [1.0] * len(parameters), decayed or [True] * len(parameters), strict=True)
    for parameter, scale, decays in each:
        groups.setdefault((scale, settings.weight_decay > 0 and decays), []).append(parameter)
    options: list[dict[str, Any]] = [
        {"params": members, "lr": learning_rate * scale, "weight_decay": settings.weight_decay if decays else 0.0}
        for (scale, decays), members in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(options, learning_rate, momentum=0.9, fused=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(options, learning_rate, fused=True)


def schedule(settings: Train, steps: int) -> NDArray[np.float64]:
    """(steps,) what the learning rate is multiplied by at each step: a linear warm-up, then constant or half a cosine.

    The cosine is that of SGDR without restarts (Loshchilov & Hutter, 2017).
    """
    warmup = round(settings.warmup * steps)
    factors = np.ones(steps)
    factors[:warmup] = np.arange(1, warmup + 1) / (warmup + 1)
    if settings.schedule == "cosine":
        factors[warmup:] = 0.5 * (1 + np.cos(np.pi * np.arange(steps - warmup) / (steps - warmup)))
    return factors


@dataclass(frozen=True)
class FirstStep:
    """What a first step's forward and backward pass leaves behind: the same for all rates that begin alike."""

    losses: Losses
    """For the one network that took it."""
    gradients: list[Tensor | None]
    buffers: list[Tensor]
    random_state: Tensor


def first_step(task: Task, part: nn.Module, rows: Rows) -> FirstStep:
    """The first step on the batch `rows`, as `fit` takes it, up to the optimiser; `part` is left as it was.

    Parameters
    ----------
    task
        The inputs, labels and loss.
    part
        What trains; its buffers are restored and its gradients taken away afterwards.
    rows
        Of the inputs, one batch.
    """
    ((tensors, target),) = task.batches([rows])
    before = [buffer.clone() for buffer in part.buffers()]
    losses, _ = _gradients(task, [part], tensors, target, 1)
    buffers = [buffer.clone() for buffer in part.buffers()]
    gradients = [parameter.grad for parameter in part.parameters()]
    _begin_at([part], [None] * len(gradients), before)
    return FirstStep(losses, gradients, buffers, task.compute.random_state())


def fit(
    task: Task,
    learners: list[Learner],
    batches: list[Rows],
    advance: Callable[[int], None],
    factors: NDArray[np.float64] | None = None,
    opening: FirstStep | None = None,
) -> list[History]:
    """Take one optimizer step a batch, for each learner side by side.

    Each learner draws the random numbers that it would draw alone. Where the memory does not hold a batch, its gradient
    is summed over halves, then quarters and so on: the same step, but for rounding, where nothing that trains looks at
    the batch as a whole or draws random numbers for it.

    Parameters
    ----------
    task
        The inputs, labels and loss.
    learners
        What trains, each at its own learning rate; changed in place.
    batches
        Rows of the inputs, one batch a step.
    advance
        Called with 1 after every step.
    factors
        (steps,) what the learning rates are multiplied by at each step; by default 1.
    opening
        What `first_step` found for the first of the batches, which is then not computed again.

    Returns
    -------
    list of History
        What happened to each learner.
    """
    parts = [learner.trainable for learner in learners]
    optimizers = [learner.optimizer for learner in learners]
    steps: list[Losses] = [[] for _ in learners]
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    pieces = 1
    for step, (tensors, target) in enumerate(task.batches(batches)):
        if opening is not None and step == 0:
            _begin_at(parts, opening.gradients, opening.buffers)
            task.compute.set_random_state(opening.random_state)
            losses = opening.losses * len(parts)
        else:
            losses, pieces = _gradients(task, parts, tensors, target, pieces)
        for index, (optimizer, (loss, correct)) in enumerate(zip(optimizers, losses, strict=True)):
            if factors is not None:
                for group, peak in zip(optimizer.param_groups, peaks[index], strict=True):
                    group["lr"] = peak * float(factors[step])
            if task.clip:
                nn.utils.clip_grad_norm_(parts[index].parameters(), task.clip)
            optimizer.step()
            steps[index].append((loss, correct))
        advance(1)
    for optimizer, of_groups in zip(optimizers, peaks, strict=True):
        for group, peak in zip(optimizer.param_groups, of_groups, strict=True):
            group["lr"] = peak
    images = np.array([len(rows) for rows in batches])
    columns = [[torch.stack(values).cpu().numpy() for values in zip(*of_part, strict=True)] for of_part in steps]
    return [History(losses.astype(np.float64) * images, correct, images) for losses, correct in columns]


@torch.inference_mode()
def logits_of(network: nn.Module, inputs: Inputs, batches: list[Rows], compute: Compute) -> Tensor:
    """Compute the logits of a network in evaluation mode: float32 (images, classes) on the CPU, in order.

    Parameters
    ----------
    network
        From the inputs to logits (n, classes), in evaluation mode.
    inputs
        Pixels or activations.
    batches
        Rows of the inputs; one that the memory does not hold is computed by halves.
    compute
        The device and precision.
    """
    return torch.cat([_logits(network, tensors, compute) for tensors in inputs.batches(batches)]).cpu()


def _logits(network: nn.Module, tensors: tuple[Tensor, ...], compute: Compute) -> Tensor:
    """Of one batch, by halves where the memory does not hold it."""
    half = len(tensors[0]) // 2
    try:
        with compute.autocast():
            logits: Tensor = network(*tensors).float()
            return logits
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or not half:
            raise
    halves = [tuple(tensor[part] for tensor in tensors) for part in (slice(half), slice(half, None))]
    return torch.cat([_logits(network, part, compute) for part in halves])


def _gradients(
    task: Task, parts: list[nn.Module], tensors: tuple[Tensor, ...], target: Tensor, pieces: int
) -> tuple[Losses, int]:
    """Each part's gradients of one batch's mean loss, and in how many pieces the memory held it: `pieces` or more."""
    buffers = [buffer for part in parts for buffer in part.buffers()]
    state, statistics = task.compute.random_state(), [buffer.clone() for buffer in buffers]
    while True:
        for part in parts:
            part.zero_grad(set_to_none=True)
        try:
            return _add_gradients(task, parts, tensors, target, pieces), pieces
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or 2 * pieces > len(target):
                raise
        pieces *= 2
        say(f"the memory does not hold a batch of {len(target)} images; its gradient is computed in {pieces} pieces")
        task.compute.set_random_state(state)
        for buffer, value in zip(buffers, statistics, strict=True):
            buffer.copy_(value)


def _add_gradients(
    task: Task, parts: list[nn.Module], tensors: tuple[Tensor, ...], target: Tensor, pieces: int
) -> Losses:
    """Add to each part's gradients those of one batch's mean loss, computed in so many pieces."""
    compute = task.compute
    noted: list[Losses] = [[] for _ in parts]
    for values, wanted, share in _pieces(tensors, target, pieces, task.criterion.weight):
        entering: Any = values
        likeliest = wanted if wanted.dim() == 1 else wanted.argmax(1)
        if task.middle is not None:
            with torch.no_grad(), compute.autocast():
                entering = task.middle(*values)
        state = compute.random_state() if len(parts) > 1 else None
        for index, part in enumerate(parts):
            if state is not None and index:
                compute.set_random_state(state)
            # a part may write into its inputs, and the next one wants them as they are
            own = entering if index == len(parts) - 1 else tuple(map(_copied, entering))
            with compute.autocast():
                logits = part(*own)
            loss = task.criterion(logits.float(), wanted) * share
            torch.autograd.backward(loss)
            noted[index].append((loss.detach(), (logits.detach().argmax(1) == likeliest).sum()))
    sums = [[torch.stack(values).sum() for values in zip(*of_tail, strict=True)] for of_tail in noted]
    return [(loss, correct) for loss, correct in sums]


@torch.no_grad()
def _begin_at(parts: list[nn.Module], gradients: list[Tensor | None], buffers: list[Tensor]) -> None:
    """Give parts, whose parameters and buffers come in the same order, gradients, which they share, and buffers."""
    for part in parts:
        for parameter, gradient in zip(part.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for buffer, value in zip(part.buffers(), buffers, strict=True):
            buffer.copy_(value)


def _at(labels: Tensor, rows: Rows) -> Tensor:
    return labels[torch.from_numpy(rows).to(labels.device)]


def _pieces(
    tensors: tuple[Tensor, ...], target: Tensor, pieces: int, weights: Tensor | None
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, float | Tensor]]:
    """A batch in pieces, each with its share of the batch's weight in the loss."""
    if pieces == 1:
        yield tensors, target, 1.0
        return
    # torch's mean over mixed classes is one over images, whatever their weights
    each = torch.ones(len(target), device=target.device)
    if weights is not None and target.dim() == 1:
        each = weights[target]
    for piece in torch.arange(len(target)).tensor_split(pieces):
        rows = slice(int(piece[0]), int(piece[-1]) + 1)
        yield tuple(tensor[rows] for tensor in tensors), target[rows], each[rows].sum() / each.sum()


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
