"""Batches as slices of arrays: mapped from the cache, or living on the device where they fit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.cache.arrays import Array, release

Rows = NDArray[np.int64]

MISSING = np.iinfo(np.int64).max
"""The row of an image that is not there: beyond every array, so that reading it fails."""
READ = 32
"""Rows that are read together: for each the system may map a MiB of the file around it (ext4's large folios)."""


@dataclass(frozen=True)
class Inputs:
    """What a network takes, for every image of the study: arrays with first dimension n.

    Rows 0 to n - 1 are the images themselves, the next n are the first of `views`, and so on.
    """

    arrays: tuple[Array, ...]
    """uint8 pixels, float32 activations, or bfloat16 ones stored as uint16."""
    device: torch.device
    index: Rows | None = None
    """(images,) the row of the arrays that holds each image, MISSING for none; None when they are the same."""
    resident: tuple[Tensor, ...] = ()
    """The same on the device, where they fit."""
    views: tuple["Inputs", ...] = ()
    """The same images seen otherwise, as augmentation draws them."""
    drawn: Rows | None = None
    """(K, images) what each image is seen as in epoch e, in row e mod K: 0 for itself, v for the v-th of `views`. None:
    always as itself."""

    def __len__(self) -> int:
        """The number of images, in however many views."""
        return len(self.arrays[0] if self.index is None else self.index)

    def image(self, row: int) -> Array:
        """The first array's row for one image."""
        (found,) = read_rows(self.arrays[0], self._held(np.array([row])))
        return np.asarray(found)

    def seen(self, images: Rows, epoch: int) -> Rows:
        """The rows of images as they are seen in an epoch."""
        if self.drawn is None:
            return images
        rows: Rows = images + len(self) * self.drawn[epoch % len(self.drawn), images]
        return rows

    def batches(self, batches: list[Rows]) -> Iterator[tuple[Tensor, ...]]:
        """The tensors of each batch of rows, the next one gathered while the last is computed.

        Parameters
        ----------
        batches
            Numbers of rows, from 0 to below `len(self) * (1 + len(self.views))`, in any order.

        Yields
        ------
        tuple of Tensor
            (batch, ...) on the device, one of each array; those stored as uint16 as bfloat16.
        """
        if not batches:
            return
        taken = [self._taken(rows) for rows in batches]
        if all(view.resident for parts, _ in taken for view, _ in parts):
            places = iter(on_device([rows for parts, _ in taken for _, rows in parts], self.device))
            orders = iter(on_device([order for _, order in taken if order is not None], self.device))
            for parts, order in taken:
                pieces = [
                    tuple(tensor[where] for tensor in view.resident)
                    for (view, _), where in zip(parts, places, strict=False)
                ]
                yield _joined(pieces, None if order is None else next(orders))
            return
        pinned = self.device.type == "cuda"  # what is not may be gone before a copy has begun
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(_gather, taken[0], pinned)
            for following in [*taken[1:], None]:
                gathered = ahead.result()
                if following is not None:
                    ahead = pool.submit(_gather, following, pinned)
                yield tuple(tensor.to(self.device, non_blocking=pinned) for tensor in gathered)

    def _taken(self, rows: Rows) -> "Taken":
        numbers, images = np.divmod(rows, len(self))
        views = (self, *self.views)
        parts = [(views[number], views[number]._held(images[numbers == number])) for number in np.unique(numbers)]
        return parts, None if len(parts) == 1 else np.argsort(np.argsort(numbers, kind="stable"))

    def _held(self, images: Rows) -> Rows:
        """The rows of the arrays that hold images."""
        return images if self.index is None else self.index[images]


Taken = tuple[list[tuple[Inputs, Rows]], Rows | None]
"""What a batch takes of each view in it, as rows of its arrays, and where each row of the batch is among all of these;
None where they are in order."""


def make_inputs(arrays: tuple[Array, ...], device: torch.device, index: Rows | None = None) -> Inputs:
    """Inputs that live on the device where half of its free memory holds them.

    Parameters
    ----------
    arrays
        (n, ...) each: uint8 pixels, float32 activations, or bfloat16 ones stored as uint16.
    device
        Where their batches go.
    index
        (images,) the row of the arrays that holds each image; None when they are the same.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(array.nbytes for array in arrays) < free // 2:
            return Inputs(arrays, device, index, tuple(_upload(array, device) for array in arrays))
    return Inputs(arrays, device, index)


def with_views(inputs: Inputs, views: list[Inputs], drawn: Rows | None) -> Inputs:
    """Inputs in several views, which live on the device where half of its free memory holds all of them.

    Parameters
    ----------
    inputs
        The images themselves.
    views
        The same images seen otherwise.
    drawn
        See `Inputs.drawn`.
    """
    arrays = [array for view in views for array in view.arrays]
    if inputs.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(inputs.device)
        if sum(array.nbytes for array in arrays) < free // 2:
            views = [
                replace(view, resident=tuple(_upload(array, view.device) for array in view.arrays)) for view in views
            ]
    return replace(inputs, views=tuple(views), drawn=drawn)


def places_of(rows: Rows, images: int) -> Rows:
    """(images,) the place of each image among `rows`, MISSING for others: the index of arrays that hold these alone."""
    places = np.full(images, MISSING)
    places[rows] = np.arange(len(rows))
    return places


def consecutive(rows: Rows, size: int) -> list[Rows]:
    """Rows in batches of `size`, in order."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def shuffled(rows: Rows, size: int, seed: int, epoch: int) -> list[Rows]:
    """One epoch: the rows in an order that depends on the seed and the epoch alone, in batches of `size`.

    The last batch is smaller; a single image left over joins the batch before it, since batch normalisation has no
    statistics of one.

    Parameters
    ----------
    rows
        The images to train on.
    size
        Images of a batch.
    seed, epoch
        0 or more.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    batches = consecutive(order, size)
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def balanced(rows: Rows, labels: NDArray[np.int64], seed: int, epoch: int) -> Rows:
    """As many rows, drawn with replacement, each class as often as the others on average.

    Parameters
    ----------
    rows
        The images to draw from.
    labels
        (images,) the class of every image of the study.
    seed, epoch
        0 or more; the draw depends on them alone.
    """
    weights = 1 / np.bincount(labels[rows])[labels[rows]]
    random = np.random.default_rng([seed, epoch, 1])
    drawn: Rows = random.choice(rows, len(rows), p=weights / weights.sum())
    return drawn


def read_rows(array: Array, rows: Rows) -> Array:
    """Rows of a mapped array, in memory of their own; what the system maps around each is given back on the way."""
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start in range(0, len(rows), READ):
        part = slice(start, start + READ)
        found[part] = array[rows[part]]
        release(array)
    return found


def on_device(batches: list[Rows], device: torch.device) -> list[Tensor]:
    """Each batch of indices as a tensor on the device, all brought there at once: a copy waits for what runs there."""
    if not batches:
        return []
    together = torch.from_numpy(np.concatenate(batches)).to(device)
    return list(torch.split_with_sizes(together, [len(rows) for rows in batches]))


def _gather(taken: Taken, pinned: bool) -> tuple[Tensor, ...]:
    parts, order = taken
    pieces = [tuple(_tensor(read_rows(array, rows)) for array in view.arrays) for view, rows in parts]
    tensors = _joined(pieces, None if order is None else torch.from_numpy(order))
    return tuple(tensor.pin_memory() for tensor in tensors) if pinned else tensors


def _joined(pieces: list[tuple[Tensor, ...]], order: Tensor | None) -> tuple[Tensor, ...]:
    """The pieces of a batch, one of each view, as one, with its rows in their order."""
    return pieces[0] if order is None else tuple(torch.cat(piece)[order] for piece in zip(*pieces, strict=True))


def _tensor(array: Array) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _upload(array: Array, device: torch.device, chunk: int = 4096) -> Tensor:
    """A mapped array on the device, by way of one piece of memory that the device reads without the processor."""
    kind = _tensor(np.empty(0, array.dtype)).dtype
    held = torch.empty(array.shape, dtype=kind, device=device)
    staged = torch.empty((min(chunk, len(array)), *array.shape[1:]), dtype=kind, pin_memory=device.type == "cuda")
    for start in range(0, len(array), chunk):
        part = array[start : start + chunk]
        staged[: len(part)] = _tensor(np.array(part))
        held[start : start + len(part)] = staged[: len(part)]
        release(array)
    return held
