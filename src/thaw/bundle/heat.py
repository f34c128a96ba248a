"""Heat maps of new images: what spoke for the predicted class, laid over each image."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from thaw.bundle.model import Batch, Bundle
from thaw.cache.files import write_atomic, writing
from thaw.errors import ModelError
from thaw.images.encode import encode
from thaw.images.overlay import overlay
from thaw.images.preprocessing import Normalise
from thaw.nets.heatmaps import heat_maps

AT_A_TIME = 8
"""Images whose gradients are computed together: every layer's output is in memory meanwhile."""


def heat_writer(bundle: Bundle, folder: Path) -> Callable[[Batch], None]:
    """Return a function that writes `NUMBER-NAME.png` into `folder` for each image of one batch after the other.

    The function raises ModelError where the network has no spatial layer, StorageError where a file cannot be written.
    """
    device = bundle.compute.device
    model = bundle.model if device.type == "cpu" else copy.deepcopy(bundle.model).to(device)
    normalise = Normalise(bundle.preprocessing).to(device)
    number = 0

    def write(batch: Batch) -> None:
        nonlocal number
        starts = range(0, len(batch.names), AT_A_TIME)
        inputs = (normalise(torch.from_numpy(batch.pixels[at : at + AT_A_TIME]).to(device)) for at in starts)
        maps = heat_maps(model, inputs) if batch.names else np.empty((0, 1, 1), np.uint8)
        if maps is None:
            raise ModelError("this backbone has no spatial layer, so there are no heat maps; leave out --heatmaps.")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, pixels, heat in zip(batch.names, batch.pixels, maps, strict=True):
            stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:80]
            write_atomic(folder / f"{number:06d}-{stem}.png", encode(overlay(pixels, heat), "PNG"))
            number += 1

    return write
