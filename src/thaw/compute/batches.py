"""Batches as slices of arrays: mapped from the cache, or living on the device where they fit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.cache.arrays import Array, release

Rows = NDArray[np.int64]

READ = 32
"""Rows that are read together: for each the system may map a MiB of the file around it (ext4's large folios)."""


@dataclass(frozen=True)
class Inputs:
    """What a network takes, for every image of the study: arrays with first dimension n."""

    arrays: tuple[Array, ...]
    """uint8 pixels, float32 activations, or bfloat16 ones stored as uint16."""
    device: torch.device
    index: Rows | None = None
    """(images,) the row of the arrays that holds each image; None when they are the same."""
    resident: tuple[Tensor, ...] = ()
    """The same on the device, where they fit."""
    mirrors: bool = False
    """Whether as many rows again follow, made on the way: the pixels' mirror images, in the same order."""

    def __len__(self) -> int:
        """The number of rows: one for each image, two with its mirror image."""
        return self._images() * (2 if self.mirrors else 1)

    def image(self, row: int) -> Array:
        """The first array's row for one image."""
        (found,) = read_rows(self.arrays[0], self._rows(np.array([row])))
        return np.asarray(found)

    def batches(self, batches: list[Rows]) -> Iterator[tuple[Tensor, ...]]:
        """The tensors of each batch of rows, the next one gathered while the last is computed.

        Parameters
        ----------
        batches
            Numbers of rows, from 0 to below `len(self)`, in any order.

        Yields
        ------
        tuple of Tensor
            (batch, ...) on the device, one of each array; those stored as uint16 as bfloat16.
        """
        if not batches:
            return
        if self.resident:
            places = on_device([self._rows(rows) for rows in batches], self.device)
            turned = on_device([self._turned(rows) for rows in batches], self.device)
            for where, mirrored in zip(places, turned, strict=True):
                yield _mirror(mirrored, tuple(tensor[where] for tensor in self.resident))
            return
        pinned = self.device.type == "cuda"  # what is not may be gone before a copy has begun
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._gather, batches[0])
            for following in [*batches[1:], None]:
                gathered = ahead.result()
                if following is not None:
                    ahead = pool.submit(self._gather, following)
                yield tuple(tensor.to(self.device, non_blocking=pinned) for tensor in gathered)

    def _gather(self, rows: Rows) -> tuple[Tensor, ...]:
        gathered = tuple(_tensor(read_rows(array, self._rows(rows))) for array in self.arrays)
        tensors = _mirror(torch.from_numpy(self._turned(rows)), gathered)
        if self.device.type == "cuda":
            return tuple(tensor.pin_memory() for tensor in tensors)
        return tensors

    def _images(self) -> int:
        return len(self.arrays[0] if self.index is None else self.index)

    def _rows(self, rows: Rows) -> Rows:
        images = rows % self._images() if self.mirrors else rows
        return images if self.index is None else self.index[images]

    def _turned(self, rows: Rows) -> Rows:
        """The places in a batch that hold mirror images."""
        return np.flatnonzero(rows >= self._images()) if self.mirrors else np.empty(0, np.int64)


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


def consecutive(rows: Rows, size: int) -> list[Rows]:
    """Rows in batches of `size`, in order."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def shuffled(rows: Rows, size: int, seed: int, epoch: int, mirrored: int = 0) -> list[Rows]:
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
    mirrored
        Half of the rows, drawn anew each epoch, are the row so many further on: the mirror image. 0 mirrors none.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(rows)
    if mirrored:
        order += mirrored * random.integers(0, 2, len(order))
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


def _mirror(turned: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Turn those of a batch's pixels (n, height, width, 3) round, in place."""
    if len(turned):
        for tensor in tensors:
            tensor[turned] = tensor[turned].flip(2)
    return tensors


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
