"""The data of a study once it is read, decoded and split."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thaw.cache.arrays import Array, key_of
from thaw.compute.batches import Inputs, Rows
from thaw.data.source import Source
from thaw.data.splits import Splits
from thaw.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class View:
    """Some images of a study, seen otherwise than they are."""

    pixels: Inputs
    """uint8 (height, width, 3) for each image in `rows`."""
    rows: Rows
    """The images that are seen so, ascending."""
    key: str
    """A digest of everything that determines the pixels."""


@dataclass(frozen=True)
class Dataset:
    """Good images only: rows of `splits` index `source` and `pixels` alike."""

    source: Source
    splits: Splits
    pixels: Inputs
    """uint8 (height, width, 3) for each image."""
    headers: Array
    """(n,) of `images.header.HEADER`."""
    key: str
    """A digest of everything that determines the pixels."""
    preprocessing: Preprocessing
    views: tuple[View, ...] = ()
    """What images are trained and tested on besides themselves; see `data.views.add_views`."""
    drawn: Rows | None = None
    """(K, images) what each is trained on, see `Inputs.drawn`; None: itself."""
    tested: tuple[int, ...] = (0,)
    """What is averaged at test: 0 for an image itself, v for the v-th of `views`."""
    repeats: tuple[Splits, ...] = ()
    """Other draws of the splits, see `data.repeats.repeat_splits`."""

    def seen(self) -> tuple[View, ...]:
        """Return the images as they are, then their views."""
        return View(self.pixels, np.arange(len(self.source.ids)), self.key), *self.views

    def rows(self) -> int:
        """Count the images, once for each view of each."""
        return sum(len(view.rows) for view in self.seen())

    def identity(self) -> dict[str, str]:
        """What tells this data from other: digests of the images with their labels, and of the split of each."""
        rows = {split: rows.tolist() for split, rows in self.splits.rows().items()}
        return {"fingerprint": self.source.fingerprint(), "splits": key_of(**rows)}

    def labels(self, device: torch.device) -> Tensor:
        """(n,) int64 on a device."""
        return torch.from_numpy(self.source.labels).to(device)
