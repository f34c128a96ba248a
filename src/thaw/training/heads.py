"""A head fitted to the features that enter it: logistic regression, nearest neighbours or nearest class means."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw.compute.batches import Rows, consecutive
from thaw.errors import DivergedError
from thaw.nets.heads import HeadForm, NearestMeans, Neighbours
from thaw.progress import stage, stopwatch
from thaw.scoring.measure import measure
from thaw.training.activations import BATCH
from thaw.training.features import FeatureExtractor
from thaw.training.logistic import BLOCK, EXACT, as_layer, pose, solve
from thaw.training.loop import make_criterion
from thaw.training.network import Network, Setup
from thaw.training.results import HeadAttempt, HeadFit
from thaw.training.train import final_rows

Kind = Literal["linear", "knn", "prototype"]

VALUES: dict[Kind, list[float]] = {
    "linear": [float(value) for value in np.geomspace(10, 1e-6, 15)],
    "knn": [200, 100, 50, 20, 10, 5, 3, 1],
    "prototype": [2.0**power for power in range(12)],
}
"""What is tried, the smoothest head first: penalties, neighbours, scales of the cosine."""
WORSE = 2
"""So many values in a row that bring nothing better end the trying."""
SKETCH = 1e-5
"""The solver's tolerance while penalties are compared."""
FOLDS = 5
"""Parts of the training images, each in turn held out to choose the penalty of a probe on."""
ALL_FOLDS = 5000
"""Of more training images only one part is held out: a fifth is plenty then."""


@dataclass(frozen=True)
class Known:
    """Images as a head sees them."""

    features: NDArray[np.float32]
    """(n, features)"""
    labels: NDArray[np.int64]
    """(n,)"""
    class_weights: NDArray[np.float64]
    """(classes,) what an image of each class counts for in the loss."""

    def take(self, rows: Rows) -> "Known":
        """Some of them."""
        return Known(self.features[rows], self.labels[rows], self.class_weights)


def fit_head(setup: Setup, kind: Kind) -> HeadFit:
    """Fit an arm's head, with what it leaves open chosen on the validation images, and leave it in the network.

    Parameters
    ----------
    setup
        The arm's network, whose head is changed in place, and what its training depends on.
    kind
        What is fitted.

    Raises
    ------
    DivergedError
        A feature is infinite or NaN.
    """
    elapsed = stopwatch()
    splits = setup.splits
    train, held = _known(setup, splits.train), _known(setup, splits.validation, as_they_are=True)
    last = train
    if len(final_rows(setup)) > len(splits.train):
        validation = _known(setup, splits.validation)
        features = np.concatenate([train.features, validation.features])
        labels = np.concatenate([train.labels, validation.labels])
        last = Known(features, labels, _class_weights(setup, final_rows(setup)))
    value, attempts = _choose(setup, kind, [(train, held)])
    return _install(setup, kind, value, attempts, last, elapsed)


def fit_probe(setup: Setup) -> HeadFit:
    """Fit a linear head to the training images alone, and leave it in the network.

    Its penalty is chosen by cross-validation among them: five folds with each class in every fold, or one of the five
    where they are many. They do not depend on the seed, and hold out single images, not whole groups.

    Parameters
    ----------
    setup
        A network whose head alone trains, which is changed in place, and what its training depends on.

    Raises
    ------
    DivergedError
        A feature is infinite or NaN.
    """
    elapsed = stopwatch()
    known, images = _known(setup, setup.splits.train), len(setup.splits.train)
    fold = _folds(known.labels[:images])
    in_fold = np.tile(fold, len(known.labels) // images)  # a mirror image is where its image is
    held = range(min(FOLDS, images) if images <= ALL_FOLDS else 1)
    parts = [(known.take(np.flatnonzero(in_fold != k)), known.take(np.flatnonzero(fold == k))) for k in held]
    value, attempts = _choose(setup, "linear", parts)
    return _install(setup, "linear", value, attempts, known, elapsed)


def _known(setup: Setup, images: Rows, as_they_are: bool = False) -> Known:
    """What enters the head in evaluation mode: for images as they are, then for each view that the arm trains on."""
    inputs, labels = setup.network.inputs, setup.labels.cpu().numpy()[images]
    drawn = {0} if as_they_are or inputs.drawn is None else {0, *np.unique(inputs.drawn).tolist()}
    views = sorted(drawn)
    features = features_of(setup, np.concatenate([images + view * len(inputs) for view in views]))
    if not np.isfinite(features).all():
        raise DivergedError("a feature is infinite or NaN; look at the weights that the arm starts from.")
    return Known(features, np.tile(labels, len(views)), _class_weights(setup, images))


def features_of(setup: Setup, rows: Rows) -> NDArray[np.float32]:
    """What enters an arm's head in evaluation mode, (rows, features), for rows of its inputs."""
    network, found = setup.network, []
    trained = set(network.model.get_submodule(network.facts.head).parameters())
    head = next(m for m in network.evaluation.modules() if trained & set(m.parameters(recurse=False)))
    extractor = FeatureExtractor(network.evaluation, head)
    batches = consecutive(rows, BATCH)
    with stage("features", len(rows), "images") as advance:
        for batch, tensors in zip(batches, network.inputs.batches(batches), strict=True):
            with torch.inference_mode(), setup.compute.autocast():
                found.append(extractor(*tensors).cpu().numpy())
            advance(len(batch))
    extractor.close()
    return np.concatenate(found)


def _class_weights(setup: Setup, rows: Rows) -> NDArray[np.float64]:
    weights = make_criterion(setup.spec.training, setup.labels, rows).weight
    classes = int(setup.labels.max()) + 1
    return np.ones(classes) if weights is None else weights.double().cpu().numpy()


def _choose(setup: Setup, kind: Kind, parts: list[tuple[Known, Known]]) -> tuple[float, list[HeadAttempt]]:
    """The value with the lowest loss on the second of each pair when fitted to the first; and all that were tried."""
    values = [value for value in VALUES[kind] if kind != "knn" or value <= min(len(seen.labels) for seen, _ in parts)]
    labels = np.concatenate([held.labels for _, held in parts])
    attempts: list[HeadAttempt] = []
    with stage("fitting", len(values), "heads") as advance:
        walks = [_heads(kind, seen, values, SKETCH, setup) for seen, _ in parts]
        for value, *heads in zip(values, *walks, strict=True):
            both = zip(heads, parts, strict=True)
            logits = np.concatenate([_logits(head, held.features) for head, (_, held) in both])
            accuracy, loss = measure("accuracy", labels, logits), -measure("log_loss", labels, logits)
            attempts.append(HeadAttempt(value=value, accuracy=accuracy, loss=loss))
            setup.tell("fit", attempts)
            advance(1)
            if len(attempts) - attempts.index(_best(attempts)) > WORSE:
                break
    return _best(attempts).value, attempts


def _best(attempts: list[HeadAttempt]) -> HeadAttempt:
    """The one with the lowest loss; of equal ones the smoothest, which was tried first."""
    return min(attempts, key=lambda attempt: attempt.loss)


def _install(
    setup: Setup, kind: Kind, value: float, attempts: list[HeadAttempt], known: Known, elapsed: Callable[[], float]
) -> HeadFit:
    """Fit the head for good, and put it into the network; all its forms share what the head holds."""
    (fitted,) = _heads(kind, known, [value], EXACT, setup)
    network = setup.network
    put_head(network, fitted)
    logits = _logits(fitted, known.features)
    return HeadFit(
        kind=kind,
        value=value,
        attempts=attempts,
        images=len(known.labels),
        accuracy=measure("accuracy", known.labels, logits),
        loss=-measure("log_loss", known.labels, logits),
        seconds=elapsed(),
    )


def _heads(kind: Kind, known: Known, values: list[float], tolerance: float, setup: Setup) -> Iterator[nn.Module]:
    """A head for each value, one after the other, fitted to what is known."""
    device = torch.device("cuda" if setup.compute.device.type == "cuda" else "cpu")  # MPS has no float64
    if kind == "linear":
        yield from _linear(known, values, tolerance, device)
    elif kind == "prototype":
        yield from _prototypes(known, values, device)
    else:
        yield from _neighbours(known, values, device)


def _linear(known: Known, values: list[float], tolerance: float, device: torch.device) -> Iterator[nn.Linear]:
    """Logistic regressions, each from the solution before it.

    A class without an image has no weights, and the lowest logit that any class has on these images as its bias.
    """
    present, labels = np.unique(known.labels, return_inverse=True)
    problem = pose(known.features, labels, known.class_weights[known.labels], device)
    solution = None
    for value in values:
        solution = solve(problem, value, solution, tolerance)
        weight, bias = as_layer(problem, solution)
        head = nn.Linear(known.features.shape[1], len(known.class_weights), device=device)
        with torch.no_grad():
            if len(present) < len(head.bias):
                lowest = min(float((block @ weight.T + bias).min()) for block in _blocks(known.features, device))
                head.weight.zero_()
                head.bias.fill_(lowest)
            head.weight[present], head.bias[present] = weight.float(), bias.float()
        yield head


def _prototypes(known: Known, values: list[float], device: torch.device) -> Iterator[NearestMeans]:
    """Nearest class means; a class without an image is farther off than any other can be."""
    classes, features = len(known.class_weights), known.features.shape[1]
    means = torch.zeros(classes, features, dtype=torch.float64, device=device)
    labels = torch.from_numpy(known.labels).to(device)
    for block, of_block in zip(_blocks(known.features, device), torch.split(labels, BLOCK), strict=True):
        means.index_add_(0, of_block, functional.normalize(block, dim=1))
    counts = torch.bincount(labels, minlength=classes)
    means /= counts.clamp(min=1).unsqueeze(1)
    far = torch.where(counts > 0, -means.square().sum(1) / 2, -1.5)
    for value in values:
        head = NearestMeans(features, classes, device=device)
        with torch.no_grad():
            head.weight.copy_(value * means)
            head.bias.copy_(value * far)
        yield head


def _neighbours(known: Known, values: list[float], device: torch.device) -> Iterator[Neighbours]:
    memory = functional.normalize(torch.from_numpy(known.features).to(device), dim=1)
    labels, weights = torch.from_numpy(known.labels).to(device), torch.from_numpy(known.class_weights).float()
    for value in values:
        head = Neighbours(memory.shape[1], len(weights), HeadForm(kind="knn", nearest=int(value)))
        head.remember(memory, labels, weights.to(device))
        yield head


@torch.no_grad()
def _logits(head: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, classes)"""
    device = next(head.parameters()).device
    found = [head(rows.to(device)).cpu() for rows in torch.split(torch.from_numpy(features), BATCH)]
    logits: NDArray[np.float32] = torch.cat(found).numpy()
    return logits


def _blocks(features: NDArray[np.float32], device: torch.device) -> Iterator[Tensor]:
    """The features in float64, some rows at a time."""
    return (rows.to(device).double() for rows in torch.split(torch.from_numpy(features), BLOCK))


def _folds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) a fold for each image, such that each class is spread evenly over them."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold


@torch.no_grad()
def put_head(network: Network, fitted: nn.Module) -> None:
    """Put the values of a fitted head into the head of every form of a network, which have one of its kind.

    Parameters
    ----------
    network
        The network, changed in place.
    fitted
        A head of the kind that it was built with.
    """
    if isinstance(fitted, Neighbours):
        for part in (network.model, network.evaluation):
            for module in part.modules():
                if isinstance(module, Neighbours):
                    module.remember(fitted.memory, fitted.labels, fitted.class_weights)
                    module.nearest = fitted.nearest
        return
    head = network.model.get_submodule(network.facts.head)
    for own, value in zip(head.state_dict().values(), fitted.state_dict().values(), strict=True):
        own.copy_(value)
