"""Batches as slices of arrays: mapped from the cache, or living on the device where they fit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.store import Array, release

Rows = NDArray[np.int64]


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
        return np.array(self.arrays[0][self._rows(np.array([row]))[0]])

    def batches(self, batches: list[Rows]) -> Iterator[tuple[Tensor, ...]]:
        """The tensors of each batch of rows, the next one gathered while the last is computed."""
        if self.resident:
            for rows in batches:
                where = torch.from_numpy(self._rows(rows)).to(self.device)
                yield self._mirrored(rows, tuple(tensor[where] for tensor in self.resident))
            return
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._gather, batches[0]) if batches else None
            for following in [*batches[1:], None]:
                assert ahead is not None
                gathered = ahead.result()
                ahead = pool.submit(self._gather, following) if following is not None else None
                yield tuple(tensor.to(self.device, non_blocking=True) for tensor in gathered)

    def _gather(self, rows: Rows) -> tuple[Tensor, ...]:
        tensors = self._mirrored(rows, tuple(_tensor(array[self._rows(rows)]) for array in self.arrays))
        for array in self.arrays:
            release(array)
        if self.device.type == "cuda":
            return tuple(tensor.pin_memory() for tensor in tensors)
        return tensors

    def _images(self) -> int:
        return len(self.arrays[0] if self.index is None else self.index)

    def _rows(self, rows: Rows) -> Rows:
        images = rows % self._images() if self.mirrors else rows
        return images if self.index is None else self.index[images]

    def _mirrored(self, rows: Rows, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Turn those of a batch's pixels (n, height, width, 3) round that are mirror images, in place."""
        if self.mirrors and (turned := np.flatnonzero(rows >= self._images())).size:
            where = torch.from_numpy(turned).to(self.device if self.resident else "cpu")
            for tensor in tensors:
                tensor[where] = tensor[where].flip(2)
        return tensors


def make_inputs(arrays: tuple[Array, ...], device: torch.device, index: Rows | None = None) -> Inputs:
    """Inputs that live on the device where half of its free memory holds them."""
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

    With `mirrored`, half of them, drawn anew each epoch, are the row so many further on: the mirror image. The last
    batch is smaller; a single image left over joins the batch before it, since batch normalisation has no statistics
    of one.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(rows)
    if mirrored:
        order += mirrored * random.integers(0, 2, len(order))
    batches = consecutive(order, size)
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _tensor(array: Array) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _upload(array: Array, device: torch.device, chunk: int = 4096) -> Tensor:
    parts = []
    for start in range(0, len(array), chunk):
        parts.append(_tensor(np.ascontiguousarray(array[start : start + chunk])).to(device))
        release(array)
    return torch.cat(parts)
