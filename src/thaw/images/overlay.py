"""A heat map over its image: one colour map, wherever a heat map is shown."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STOPS = (
    *((0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84)),
    *((228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164)),
)
"""Colours from cold to hot, evenly spaced: matplotlib's inferno, which is as readable in grey and to the colour-blind
(Smith and van der Walt, 2015, CC0). `report/page.js` has the same."""
OPACITY = 0.7
"""How much of the image the hottest colour covers; the coldest covers nothing."""


def colour_heat(heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a heat map (h, w) as colours with opacity, (h, w, 4), to lay over its image."""
    hot = heat / 255
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(hot, places, channel) for channel in zip(*STOPS, strict=True)]
    coloured: NDArray[np.uint8] = np.stack([*channels, 255 * OPACITY * hot], axis=-1).round().astype(np.uint8)
    return coloured


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) under the colours of its heat map (h, w)."""
    height, width, _ = pixels.shape
    laid = colour_heat(np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC)))
    opacity = laid[..., 3:] / 255
    blended: NDArray[np.uint8] = (pixels * (1 - opacity) + laid[..., :3] * opacity).round().astype(np.uint8)
    return blended
