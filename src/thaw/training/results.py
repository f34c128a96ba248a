"""What a trial finds: the search, the training, the network's facts, the answers."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaw.nets.freezing import ModuleRow
from thaw.record import Record
from thaw.scoring.metrics import Scores
from thaw.scoring.unlike import Distances


class Attempt(Record):
    """One learning rate, tried for a number of steps and scored on the validation images."""

    learning_rate: float
    """The rate."""
    weight_decay: float = 0.0
    """Of weight matrices and kernels."""
    steps: int
    """Optimizer steps at that rate."""
    accuracy: float
    """Validation accuracy afterwards; 0 where the attempt failed."""
    loss: float | None
    """Mean validation cross-entropy afterwards; None where the attempt failed."""
    score: float | None = None
    """What attempts are compared by, `search.metric` on validation afterwards; more is better, so that a log loss is
    negative. None where the attempt failed."""
    learned: bool = True
    """Whether it answers the validation images better than always naming the commonest class, beyond chance."""
    failed: str | None = None
    """Why the attempt failed."""


class SearchResult(Record):
    """The outcome of a learning-rate search."""

    learning_rate: float
    """The winner."""
    weight_decay: float = 0.0
    """The winner's."""
    edge: Literal["lowest", "highest"] | None
    """Set when the winner is at the edge of what was tried and better than the next, beyond noise, so that a better
    rate may lie beyond."""
    tied: list[float]
    """Other learning rates that the validation images cannot tell from the winner after as many steps."""
    learned: bool = True
    """Whether any attempt learned; else the search decided nothing."""
    attempts: list[Attempt]
    """All attempts, in the order in which they ran."""
    seconds: float
    """Wall-clock seconds of all attempts, by this run of the study or an earlier one."""


class Epoch(Record):
    """One pass over the training images."""

    loss: float
    """Mean training loss over the images as they were trained on."""
    accuracy: float
    """Training accuracy over the images as they were trained on."""
    validation_accuracy: float | None = None
    """Accuracy on the validation images after the epoch; None where the final training sees them."""
    validation_loss: float | None = None
    """Mean cross-entropy on the validation images after the epoch; None where the final training sees them."""
    validation_score: float | None = None
    """`search.metric` there, more being better; None where the final training sees them."""


class TrainResult(Record):
    """The outcome of a final training."""

    epochs: list[Epoch]
    """The epochs, in order."""
    stopped: str | None
    """Why training ended before its last epoch."""
    seconds: float
    """Wall-clock seconds of the epochs, by this run of the study or an earlier one."""


class HeadAttempt(Record):
    """One value of what a fitted head leaves open, scored on images that it was not fitted to."""

    value: float
    """The penalty, the number of neighbours or the scale of the cosine."""
    accuracy: float
    """Accuracy on these images."""
    loss: float
    """Mean cross-entropy on these images."""


class HeadFit(Record):
    """A head that was fitted to the features, with no gradient steps and so no learning rate."""

    kind: Literal["linear", "knn", "prototype"]
    """As the arm's `head`; a linear probe that an arm starts from is `linear`."""
    value: float
    """The penalty (`linear`), the neighbours (`knn`) or the scale of the cosine (`prototype`) with the lowest loss."""
    attempts: list[HeadAttempt]
    """Every value tried, in order: from the smoothest head on, until two in a row brought nothing better."""
    images: int
    """Images that the final head was fitted to, mirror images included."""
    accuracy: float
    """Its accuracy on these images."""
    loss: float
    """Its mean cross-entropy on these images."""
    seconds: float
    """Wall-clock seconds, by this run of the study or an earlier one."""


class Parameters(Record):
    """Numbers of parameters."""

    total: int
    """Of the whole network."""
    trainable: int
    """Of those that train."""


class Frontier(Record):
    """Where a network is cut into its prefix, computed once per image, and its suffix."""

    nodes: list[str]
    """The modules or operations whose outputs are cached; empty where the network runs whole."""
    bytes_per_image: int
    """Bytes cached for every image."""
    fraction_saved: float
    """The prefix's fraction of the network's multiply-adds."""
    reason: str
    """Why the network runs whole although part of it is frozen; else empty."""


class Thawed(Record):
    """How deep an arm thaws that trains everything from one layer on, and nothing before it."""

    first: str
    """The first module that trains."""
    arithmetic: float
    """The fraction of the network's multiply-adds from there on."""
    parameters: float
    """The fraction of its parameters that train."""


class NetworkFacts(Record):
    """What is known of a trial's network before it trains."""

    head: str
    """The name of the new head."""
    modules: list[ModuleRow]
    """A row for each module that owns parameters."""
    parameters: Parameters
    """How many parameters it has, and how many train."""
    frontier: Frontier
    """What of it is computed once."""
    channels_last: bool
    """The memory layout of the convolutions that train."""


class TrialSeconds(Record):
    """Wall-clock seconds of a trial, by this run of the study or an earlier one."""

    prepare: float
    """Building and splitting the network, and activations that were not cached yet."""
    probe: float = 0.0
    """The linear probe that the arm starts from."""
    search: float
    """The learning-rate search; 0 where the head is fitted."""
    train: float
    """The final training, or the fit of the head."""
    test: float
    """Classifying the test images."""
    total: float
    """The sum."""


class TrialRecord(Record):
    """What is written down of a trial."""

    arm: str
    """The arm's name."""
    seed: int
    """The seed of head, batches and dropout."""
    fraction: float = 1.0
    """The fraction of the training images that it was trained on."""
    precision: Literal["fp32", "bf16"]
    """What it trained in; fp32 where bf16 diverged."""
    network: NetworkFacts
    """The network before training."""
    probe: HeadFit | None
    """The linear probe before the search, where the arm has one."""
    fit: HeadFit | None = None
    """The fit of the head, where it is not trained."""
    search: SearchResult | None
    """The learning-rate search; None where the head is fitted."""
    training: TrainResult
    """The final training; without epochs where the head is fitted."""
    rehearsal: TrainResult | None = None
    """The training on the training images alone before it, scored on validation; None without `train.rehearse`."""
    scores: Scores
    """Scores on the test images."""
    seconds: TrialSeconds
    """What each stage took."""


@dataclass(frozen=True)
class TrialResult:
    """A finished trial: its record, and the network's answers."""

    record: TrialRecord
    logits: NDArray[np.float32]
    """(test images, classes)"""
    validation_logits: NDArray[np.float32] | None
    """(validation images, classes), by a network that has not trained on them; None where there is none."""
    distances: Distances | None = None
    """How far images lie from those of training; None where there are no such logits, or the model is not kept."""
    shifted: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """By further test set, (its images, classes)."""
