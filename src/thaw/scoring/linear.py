"""Linear probes: logistic regressions of the same features on different images, all fitted in the same passes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from thaw.data.batches import Inputs, consecutive

Rows = NDArray[np.int64]
Chunks = Callable[[], Iterable[Tensor]]

CHUNK = 512
"""Rows of the features that are looked at together; they stay in a processor's cache between two products."""
HELD_BYTES = 256 << 20
"""Features up to this size are held in memory, larger ones are read anew from their mapped file in each pass."""
COLUMNS = 128
"""Probes times classes that are fitted in the same passes, beyond which their state would outgrow the features."""
ITERATIONS, HALVINGS, PAIRS = 100, 20, 10
TOLERANCE = 1e-3
"""Largest entry of the gradient of the mean loss at which a probe is done, as in scikit-learn's `tol`."""
ENOUGH, NOISE = 1e-4, 1e-7
"""Share of the promised descent that a step must bring, and what the sum of a loss in fp32 is uncertain by."""


@dataclass(frozen=True)
class Probe:
    """A probe to train: on which rows, how weakly regularised, on features shifted and scaled how."""

    rows: Rows
    strength: float
    """scikit-learn's `C`."""
    mean: Tensor
    """(d,) is subtracted from the features, which are then divided by"""
    scale: Tensor
    """(d,)."""


@dataclass(frozen=True)
class Fitted:
    """A trained probe: `features @ weights.T + bias` are its logits; those of classes that it never saw are -inf."""

    weights: Tensor
    """(classes, d) float32"""
    bias: Tensor
    """(classes,) float32"""

    def probabilities(self, features: NDArray[np.float32], rows: Rows) -> NDArray[np.float64]:
        """(rows, classes) of some rows of `features` (n, d)."""
        inputs, found = Inputs((features,), self.weights.device), []
        for (chunk,) in inputs.batches(consecutive(rows, CHUNK)):
            found.append(torch.addmm(self.bias, chunk, self.weights.T).double().softmax(1).cpu())
        return torch.cat(found).numpy()


def chunks_of(features: NDArray[np.float32], device: torch.device) -> Chunks:
    """Passes over `features` (n, d) in chunks of rows on the device, held there where they fit.

    MPS has no double precision: what would be fitted there is fitted on the processor.
    """
    device = torch.device("cpu") if device.type == "mps" else device
    inputs, batches = Inputs((features,), device), consecutive(np.arange(len(features)), CHUNK)

    def read() -> Iterator[Tensor]:
        for (chunk,) in inputs.batches(batches):
            yield chunk

    if features.nbytes > (torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else HELD_BYTES):
        return read
    held = list(read())
    return lambda: held


def moments(chunks: Chunks, parts: list[Rows], count: int) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation (d,), at least 1e-6, of the features of each of some parts of the `count` rows."""
    shift, sums, squares = None, [], []
    for chunk, inside in zip(chunks(), torch.split(_members(parts, count), CHUNK), strict=True):
        shift = chunk.mean(0) if shift is None else shift
        inside, near = inside.to(chunk), chunk - shift
        sums.append((inside.T @ near).double())
        squares.append((inside.T @ near.square()).double())
    assert shift is not None
    sizes = torch.tensor([len(part) for part in parts], device=shift.device).double().unsqueeze(1)
    mean = torch.stack(sums).sum(0) / sizes
    deviation = (torch.stack(squares).sum(0) / sizes - mean.square()).clamp(min=0).sqrt().clamp(min=1e-6)
    return list(zip((mean + shift).float(), deviation.float(), strict=True))


def fit(chunks: Chunks, labels: Rows, probes: list[Probe]) -> list[Fitted]:
    """Train each probe: the multinomial logistic regression with an L2 penalty on its weights, as scikit-learn's.

    `labels` (n,) are classes from 0 on. Products are in fp32, sums of the loss in double precision.
    """
    width = max(1, COLUMNS // (int(labels.max()) + 1))
    return [
        one for start in range(0, len(probes), width) for one in _fit(chunks, labels, probes[start : start + width])
    ]


def _members(parts: list[Rows], count: int) -> Tensor:
    """(count, parts) 1 where a row is in a part."""
    members = torch.zeros(count, len(parts))
    for index, part in enumerate(parts):
        members[torch.from_numpy(part), index] = 1
    return members


def _fit(chunks: Chunks, labels: Rows, probes: list[Probe]) -> list[Fitted]:
    mean, scale = (torch.stack(values) for values in zip(*((one.mean, one.scale) for one in probes), strict=True))
    device, count, classes = mean.device, len(probes), int(labels.max()) + 1
    inside = _members([one.rows for one in probes], len(labels)).to(device)
    targets = functional.one_hot(torch.from_numpy(labels).to(device), classes).float()
    trained = inside.T @ targets  # (probes, classes) images
    absent = torch.zeros_like(trained).masked_fill(trained == 0, -torch.inf)
    images = trained.sum(1)
    # of two classes scikit-learn penalises the difference, half of whose square is what the squares of both sum to
    halves = torch.where((trained > 0).sum(1) == 2, 2.0, 1.0)
    penalty = halves / (torch.tensor([one.strength for one in probes], device=device) * images)
    pieces = list(zip(torch.split(inside, CHUNK), torch.split(targets, CHUNK), strict=True))

    def on_raw(place: Tensor) -> tuple[Tensor, Tensor]:
        """What `place` (probes, classes, d + 1) multiplies, and adds to, features as they are."""
        weights = place[..., :-1] / scale.unsqueeze(1)
        return weights, place[..., -1] - (weights * mean.unsqueeze(1)).sum(2) + absent

    def objective(place: Tensor) -> tuple[Tensor, Tensor]:
        """Value (probes,) and gradient of each one's mean loss and penalty."""
        weights, bias = on_raw(place)
        loss, slope = torch.zeros(count, dtype=torch.float64, device=device), torch.zeros_like(weights).flatten(0, 1)
        pull = torch.zeros_like(bias)
        for chunk, (members, wanted) in zip(chunks(), pieces, strict=True):
            logits = torch.addmm(bias.flatten(), chunk, weights.flatten(0, 1).T).view(len(chunk), count, classes)
            logs = logits.log_softmax(2)
            own = torch.where(wanted.unsqueeze(1) > 0, logs, 0).sum(2)
            loss -= torch.where(members > 0, own, 0).sum(0, dtype=torch.float64)
            off = (logs.exp() - wanted.unsqueeze(1)) * members.unsqueeze(2)
            slope.addmm_(off.flatten(1).T, chunk)
            pull += off.sum(0)
        inner = (slope.view_as(weights) - pull.unsqueeze(2) * mean.unsqueeze(1)) / scale.unsqueeze(1)
        inner = inner / images.view(-1, 1, 1) + penalty.view(-1, 1, 1) * place[..., :-1]
        value = loss / images + 0.5 * penalty * place[..., :-1].square().sum((1, 2), dtype=torch.float64)
        return value, torch.cat([inner, (pull / images.unsqueeze(1)).unsqueeze(2)], 2)

    start = torch.zeros(count, classes, mean.shape[1] + 1, device=device)
    return [Fitted(weights, bias) for weights, bias in zip(*on_raw(_minimise(objective, start)), strict=True)]


def _minimise(objective: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor) -> Tensor:
    """Where each of the smooth convex functions that `objective` evaluates at once is least, (functions, ...).

    L-BFGS with backtracking (Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.1 and 7.5); each function
    takes steps of its own until it is done.
    """
    place, (value, slope) = start, objective(start)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(ITERATIONS):
        going = slope.abs().flatten(1).amax(1) > TOLERANCE
        if not going.any():
            break
        direction = _direction(slope, pairs)
        promised = _dot(slope, direction)
        step = going.float() if pairs else going.float() / slope.flatten(1).norm(dim=1)
        for _ in range(HALVINGS):
            there = place + _each(step, place) * direction
            found, after = objective(there)
            enough = found <= value + ENOUGH * step * promised + NOISE * value.abs()
            if enough.all():
                break
            step = torch.where(enough, step, step / 2)
        moved, bent = there - place, after - slope
        pairs = [*pairs[1 - PAIRS :], (moved, bent, _dot(moved, bent))]
        place, value, slope = there, found, after
    return place


def _direction(slope: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The quasi-Newton step of each function; a pair that says nothing of its curvature is passed over."""
    direction, shares = -slope, []
    for moved, bent, curved in reversed(pairs):
        share = torch.where(curved > 0, _dot(moved, direction) / curved, 0)
        direction = direction - _each(share, bent) * bent
        shares.append(share)
    if pairs:
        _, bent, curved = pairs[-1]
        direction = direction * _each(torch.where(curved > 0, curved / _dot(bent, bent), 1), bent)
    for (moved, bent, curved), share in zip(pairs, reversed(shares), strict=True):
        back = torch.where(curved > 0, _dot(bent, direction) / curved, 0)
        direction = direction + _each(share - back, moved) * moved
    return direction


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).flatten(1).sum(1)


def _each(factors: Tensor, like: Tensor) -> Tensor:
    """(functions,) as factors of a tensor (functions, ...)."""
    return factors.to(like).view(-1, *[1] * (like.dim() - 1))
