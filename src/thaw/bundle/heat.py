"""Heat maps of new pictures: what spoke for the predicted class, laid over each picture."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from thaw.bundle.load import Bundle
from thaw.bundle.predict import Batch
from thaw.cache.files import replacing, writing
from thaw.errors import ModelError
from thaw.images.preprocessing import Normalise
from thaw.nets.heatmaps import heat_maps

AT_A_TIME = 8
"""Pictures whose gradients are computed together: every layer's output is in memory meanwhile."""
STRENGTH = 0.6
"""How much of the colour shows where a picture spoke most."""
COLOURS = "inferno"


def heat_writer(bundle: Bundle, folder: Path) -> Callable[[Batch], None]:
    """A function that writes `NUMBER-NAME.png` into `folder` for each picture of one batch after the other.

    Raises ModelError where the network has no layer with places, StorageError where nothing can be written.
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
            raise ModelError("this backbone has no layer whose output has places; leave out --heatmaps.")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, pixels, heat in zip(batch.names, batch.pixels, maps, strict=True):
                stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:80]
                with replacing(folder / f"{number:06d}-{stem}.png") as file:
                    Image.fromarray(overlay(pixels, heat)).save(file, "PNG")
                number += 1

    return write


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (height, width, 3) under the colours of its heat map (h, w), denser where it is hotter."""
    height, width, _ = pixels.shape
    hot = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC)) / 255
    colours = 255 * colormaps[COLOURS](hot)[..., :3]
    share = STRENGTH * hot[..., None]
    blended: NDArray[np.uint8] = (pixels * (1 - share) + colours * share).round().astype(np.uint8)
    return blended
