"""Linear probes at every depth of a network before anything trains: one pass over the images, then ridge regression."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.cache.arrays import Array, Chunks, Field, cached, key_of, release
from thaw.compute.batches import Inputs, Rows, consecutive
from thaw.compute.device import Compute
from thaw.images.preprocessing import Normalise, Preprocessing, sides
from thaw.nets.cut import Pool
from thaw.nets.cut_points import CutPoint, find_cut_points
from thaw.nets.entered import flat
from thaw.nets.prefix.trace import EvalNetwork, twin
from thaw.progress import stage
from thaw.scoring.statistics import Interval, effective_images, wilson
from thaw.training.activations import BATCH, fingerprint
from thaw.training.ridge import Codes, fit_ridge
from thaw.versions import versions

GRID = 3
"""A map is also pooled to so many parts in each direction: 3 found as much as 4 with half the features, see decision
0045."""
WIDEST = 2048
"""Features of a grid at most: wider ones, of late layers, did not help, and cost the most to solve for."""
TIMED, REPEATS = 32, 3
"""Images of the batch that is timed, and how often; the fastest counts."""


@dataclass(frozen=True)
class Place:
    """Where a network may end: a layer, whose output is pooled."""

    depth: CutPoint
    """The layer."""
    grid: int
    """How its output is pooled, see `nets.cut.Pool`."""


@dataclass(frozen=True)
class Probe:
    """What a linear probe says of a place, each image answered by a probe of the others."""

    at: str | None
    """The module that the network is cut after; None for the whole network, whose last features enter the head."""
    grid: int
    """How its output is pooled."""
    right: NDArray[np.bool_]
    """(images,) whether each is answered right when it, or its group, is left out."""
    error: float
    """Mean squared difference of the answers from the one-hot labels."""
    interval: Interval
    """95% of the accuracy."""
    milliseconds: float
    """Of the network up to there for an image, in a batch of `TIMED`."""
    parameters: int
    """Of the network up to there, with the head."""

    @property
    def accuracy(self) -> float:
        """Fraction of images that are answered right."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Labels:
    """What images are, and which of them belong together."""

    codes: Codes
    """(n,) classes."""
    classes: int
    """How many there are."""
    groups: Codes | None
    """(n,) codes from 0 with none left out; None where images are independent."""


class Watched(nn.Module):
    """From pixels to the features at all places, then those that enter the head: (n, features) float32 each.

    The network is in evaluation mode, and shares the parameters of `model`.
    """

    def __init__(self, model: nn.Module, head: str, places: Sequence[Place], preprocessing: Preprocessing) -> None:
        super().__init__()
        network = twin(model)
        self.pools = [(place.depth.at, Pool(place.depth.layout, place.grid)) for place in places]
        self.preprocessing = asdict(preprocessing)
        self.found: list[Tensor] = []
        self.times: dict[str, float] | None = None
        """By module, when it had run; None where nobody asks."""
        for at in dict.fromkeys(at for at, _ in self.pools):
            self._watch(network, at)
        network.get_submodule(head).register_forward_pre_hook(self._enter)
        self.network = nn.Sequential(Normalise(preprocessing), EvalNetwork(network))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        self.found.clear()
        self.network(pixels)
        return tuple(self.found)

    def _watch(self, network: nn.Module, at: str) -> None:
        pools = [pool for name, pool in self.pools if name == at]

        def note(_: nn.Module, __: Any, output: Tensor) -> None:
            if self.times is not None:
                self.times[at] = _now(output)
            else:
                self.found.extend(pool(output).float() for pool in pools)

        network.get_submodule(at).register_forward_hook(note)

    def _enter(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered = inputs[0]
        if self.times is not None:
            self.times[""] = _now(entered)
        else:
            self.found.append(flat(entered))


def places_at(depths: list[CutPoint]) -> list[Place]:
    """Each depth pooled to its mean, and to a grid where it has a map of that many parts and few channels."""
    places = []
    for depth in depths:
        places.append(Place(depth, 1))
        is_map = depth.layout.kind in ("map", "channels-last")
        if is_map and depth.places >= GRID and depth.channels * GRID**2 <= WIDEST:
            places.append(Place(depth, GRID))
    return places


def probe_depths(
    model: nn.Module,
    head: str,
    images: tuple[Inputs, Rows, str],
    labels: Labels,
    preprocessing: Preprocessing,
    compute: Compute,
) -> list[Probe]:
    """Probe a network at each of its depths; nothing is trained by steps, and no other image is looked at.

    Parameters
    ----------
    model, head
        The network, moved to the device, and the name of its head.
    images
        Pixels; the rows of those to look at; a digest of all pixels and rows.
    labels
        Of those rows.
    preprocessing
        What the pixels were made with.
    compute
        The device and precision.

    Returns
    -------
    list of Probe
        One for each depth, by the pooling with the lower error, the earliest first; then the whole network.

    Raises
    ------
    StorageError
        The cache cannot be written or its disk is full.
    """
    inputs, rows, key = images
    model.to(compute.device)
    depths = find_cut_points(model, head, max(sides(preprocessing.size)))
    places = places_at(depths)
    watched = Watched(model, head, places, preprocessing).to(compute.device)
    arrays = _features(watched, inputs, rows, compute, _key(watched, key, compute))
    times = _times(watched, inputs, rows, compute)
    found = []
    with stage("probes", len(arrays), "probes") as advance:
        for place, array in zip([*places, None], arrays, strict=True):
            found.append(_probe(place, array, labels, times, model))
            advance(1)
    chosen = [min((one for one in found[:-1] if one.at == depth.at), key=lambda one: one.error) for depth in depths]
    if chosen and chosen[-1].grid == 1 and np.array_equal(arrays[-1], arrays[-2 if places[-1].grid == 1 else -3]):
        del chosen[-1]  # what enters the head is that mean
    return [*chosen, found[-1]]


def _probe(place: Place | None, array: Array, labels: Labels, times: dict[str, float], model: nn.Module) -> Probe:
    values = np.array(array)
    release(array)
    fit = fit_ridge(values, labels.codes, labels.classes, labels.groups)
    right = fit.left_out.argmax(1) == labels.codes
    whole = sum(parameter.numel() for parameter in model.parameters())
    own = place.depth.parameters + fit.weight.size + fit.bias.size if place else whole
    return Probe(
        at=place.depth.at if place else None,
        grid=place.grid if place else 1,
        right=right,
        error=fit.error,
        interval=wilson(float(right.mean()), effective_images(right[None], labels.groups)),
        milliseconds=times[place.depth.at if place else ""],
        parameters=own,
    )


def _features(watched: Watched, inputs: Inputs, rows: Rows, compute: Compute, key: str) -> tuple[Array, ...]:
    """(rows, features) of each place and of what enters the head, mapped, from the cache under `key` or made now."""

    def make(first: int) -> Chunks:
        batches = consecutive(rows[first:], BATCH)
        with stage("features", len(rows), "images", first) as advance:
            for batch, (pixels,) in zip(batches, inputs.batches(batches), strict=True):
                with torch.inference_mode(), compute.autocast():
                    yield tuple(found.cpu().numpy() for found in watched(pixels)), {}
                advance(len(batch))

    with torch.inference_mode(), compute.autocast():
        sample = watched(*next(inputs.batches([rows[:1]])))
    return cached("features", key, len(rows), [Field((found.shape[1],), "float32") for found in sample], make).arrays


def _key(watched: Watched, images: str, compute: Compute) -> str:
    return key_of(
        images=images,
        network=fingerprint(watched),
        places=[(at, asdict(pool.layout), pool.grid) for at, pool in watched.pools],
        normalised=watched.preprocessing,
        how=[compute.device.type, compute.precision, torch.__version__, versions("torchvision", "timm"), BATCH],
    )


def _times(watched: Watched, inputs: Inputs, rows: Rows, compute: Compute) -> dict[str, float]:
    """Milliseconds for an image until each module has run, and until the head is entered, under ''."""
    (pixels,) = next(inputs.batches([rows[np.arange(TIMED) % len(rows)]]))
    found: list[dict[str, float]] = []
    for _ in range(REPEATS):
        watched.times = {}
        with torch.inference_mode(), compute.autocast():
            start = _now(pixels)
            watched(pixels)
        found.append({at: 1000 * (ended - start) / TIMED for at, ended in watched.times.items()})
    watched.times = None
    return {at: min(times[at] for times in found) for at in found[0]}


def _now(values: Tensor) -> float:
    """The time when values are there."""
    if values.is_cuda:
        torch.cuda.synchronize(values.device)
    return time.perf_counter()
