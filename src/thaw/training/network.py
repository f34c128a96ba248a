"""A network ready to train, all that its training depends on, and its state: what moves, saved and restored."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thaw.compute.batches import Inputs, Rows, balanced, consecutive, shuffled
from thaw.compute.device import Compute
from thaw.data.splits import Splits
from thaw.record import Record
from thaw.scoring.measure import measure
from thaw.training.loop import Learner, Task, logits_of, make_criterion, make_optimizer
from thaw.training.mixing import make_mix
from thaw.training.results import NetworkFacts
from thaw.training.specs import ArmSpec

STATISTICS_IMAGES = 2048
"""Images, at most, over which running statistics are estimated anew."""
Tell = Callable[[str, Sequence[Record]], None]
"""Called with `search` or `fit` and the attempts so far, `chosen` and what the search found, or `epochs` and the
epochs so far."""


@dataclass(frozen=True)
class Network:
    """An arm's network, ready to train, and what it takes as input."""

    model: nn.Module
    """The whole network; its state is what is saved at the end."""
    middle: nn.Module | None
    """From the inputs to what enters the trainable part: nothing in it trains, but it draws random numbers."""
    trainable: nn.Module
    """From there to the logits (n, classes), in training mode."""
    evaluation: nn.Module
    """From the inputs to the logits, in evaluation mode, on the same parameters."""
    inputs: Inputs
    """Pixels or activations, a row for each view of each image."""
    inputs_key: str
    """The content key of the inputs."""
    scales: tuple[float, ...]
    """What multiplies the learning rate of each trained parameter."""
    decayed: tuple[bool, ...]
    """Whether each trained parameter has weight decay."""
    facts: NetworkFacts
    """What is written down of it."""


def silent(_: str, __: Sequence[Record]) -> None:
    """Tell nobody."""


class Validated(NamedTuple):
    """What a network answers on the validation images."""

    accuracy: float
    loss: float
    """The mean cross-entropy."""
    score: float
    """`search.metric`; more is better."""
    logits: NDArray[np.float32]
    """(validation images, classes)"""


@dataclass(frozen=True)
class Setup:
    """A network and everything that its search and training depend on."""

    network: Network
    spec: ArmSpec
    seed: int
    labels: Tensor
    """(images,) int64, on the device."""
    splits: Splits
    compute: Compute
    work: Path | None = None
    """The folder of checkpoints; None keeps none."""
    tell: Tell = silent
    """Told of every attempt and epoch."""
    tested: tuple[int, ...] = (0,)
    """What is averaged at test; see `Dataset.tested`."""

    def batches(self, images: Rows, epoch: int) -> list[Rows]:
        """Return one epoch's batches of `images`, as rows of the inputs: each image as it is seen in that epoch."""
        if self.spec.training.sampling == "balanced":
            images = balanced(images, self.labels.cpu().numpy(), self.seed, epoch)
        drawn = shuffled(images, self.spec.training.batch_size, self.seed, epoch)
        return [self.network.inputs.seen(batch, epoch) for batch in drawn]

    def task(self, rows: Rows) -> Task:
        """What the network, or copies of it, are trained on; `rows`, the images trained on, weigh the classes."""
        criterion = make_criterion(self.spec.training, self.labels, rows)
        labels = self.labels.repeat(1 + len(self.network.inputs.views))
        training = self.spec.training
        mix = make_mix(training.mix, int(self.labels.max()) + 1)
        return Task(self.network.middle, self.network.inputs, labels, criterion, self.compute, training.clip, mix)

    def learner(self, trainable: nn.Module, learning_rate: float, weight_decay: float) -> Learner:
        """The trainable part, the network's own or a copy, with the arm's optimizer over it."""
        parameters = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
        settings = self.spec.training.model_copy(update={"weight_decay": weight_decay})
        scales, decayed = self.network.scales, self.network.decayed
        return Learner(trainable, make_optimizer(settings, parameters, learning_rate, scales, decayed))

    def evaluate(self, rows: Rows) -> Tensor:
        """Logits (images, classes) on `rows`, by the network in evaluation mode."""
        batches = consecutive(rows, self.spec.training.batch_size)
        return logits_of(self.network.evaluation, self.network.inputs, batches, self.compute)

    def test(self, rows: Rows) -> Tensor:
        """Logits (images, classes) on `rows`, the means over the views that are averaged at test."""
        return torch.stack([self.evaluate(rows + view * len(self.network.inputs)) for view in self.tested]).mean(0)

    @property
    def validation_labels(self) -> NDArray[np.int64]:
        """(validation images,) the class of each."""
        labels: NDArray[np.int64] = self.labels.cpu().numpy()[self.splits.validation]
        return labels

    def validate(self) -> Validated | None:
        """Score the network in evaluation mode on the validation images; None where a logit is infinite or NaN."""
        logits = self.evaluate(self.splits.validation)
        if not torch.isfinite(logits).all():
            return None
        answers, labels = logits.numpy(), self.validation_labels
        accuracy, loss = measure("accuracy", labels, answers), -measure("log_loss", labels, answers)
        return Validated(accuracy, loss, measure(self.spec.search.metric, labels, answers), answers)

    def estimate_statistics(self, part: nn.Module, rows: Rows) -> None:
        """Estimate anew the running statistics of the batch normalisation that trains, over training images.

        They follow training at some distance, as moving averages, which few steps leave far behind. The mean over all
        batches takes their place, as in `torch.optim.swa_utils.update_bn`. Random numbers stay as they were.

        Parameters
        ----------
        part
            The trainable part, the network's own or a copy; changed in place.
        rows
            The training images, of which as many as `STATISTICS_IMAGES` are seen, in random order, since batches of one
            class have too small a variance.
        """
        moving = [m for m in part.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        if not moving:
            return
        state, momenta = self.compute.random_state(), [module.momentum for module in moving]
        batches = self.batches(rows, 0)[: -(-STATISTICS_IMAGES // self.spec.training.batch_size)]
        for module in moving:
            module.reset_running_stats()
            module.momentum = None
        with torch.no_grad(), self.compute.autocast():
            for tensors in self.network.inputs.batches(batches):
                part(*tensors if self.network.middle is None else self.network.middle(*tensors))
        for module, momentum in zip(moving, momenta, strict=True):
            module.momentum = momentum
        self.compute.set_random_state(state)


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of torch's random numbers in an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def snapshot(network: nn.Module) -> list[Tensor]:
    """Copy what training changes: trainable parameters, and buffers such as running statistics."""
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
    """Copy a network, sharing the frozen parameters."""
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(network, frozen)


def _moving(network: nn.Module) -> list[Tensor]:
    return [*(p for p in network.parameters() if p.requires_grad), *network.buffers()]
