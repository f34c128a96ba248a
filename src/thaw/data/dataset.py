"""The data of a study once it is read, decoded and split."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thaw.cache.arrays import Array, key_of
from thaw.compute.batches import Inputs
from thaw.data.source import Source
from thaw.data.splits import Splits
from thaw.images.preprocessing import Preprocessing


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

    def identity(self) -> dict[str, str]:
        """What tells this data from other: digests of the images with their labels, and of the split of each."""
        rows = {split: rows.tolist() for split, rows in self.splits.rows().items()}
        return {"fingerprint": self.source.fingerprint(), "splits": key_of(**rows)}

    def labels(self, device: torch.device) -> Tensor:
        """(n,) int64 on a device."""
        return torch.from_numpy(self.source.labels).to(device)
