"""Exposure: how bright and how varied an image is, and from where on that is an issue."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DARK, LIGHT, ONE_COLOUR = 50.0, 242.0, 16.0
"""In levels of 256: an image is dark where 99% of it is at most this bright, light where 95% is at least this bright,
and of low information where no channel spreads over more than this, from its lowest 1% to its highest.

Of 19,844 photographs (faces, CelebA, flowers, trash) none is. cleanvision's thresholds are 82 and 242; its entropy
would call drawings on white paper low in information.
"""
WEIGHTS = (0.241, 0.691, 0.068)
"""Of squared red, green and blue in perceived brightness (Finley's HSP), as in cleanvision."""


class Exposure(NamedTuple):
    """Which images are nearly black, nearly white or one colour: (n,) each."""

    dark: NDArray[np.bool_]
    light: NDArray[np.bool_]
    low_information: NDArray[np.bool_]


def measure_exposure(thumbnails: Tensor) -> Tensor:
    """Measure thumbnails, float (n, 3, height, width) from 0 to 255.

    Returns float32 (n, 3), in levels of 256: the 99th and the 5th percentile of brightness, and the spread of the
    channel that varies most.
    """
    channels = thumbnails.flatten(2)
    weights = torch.tensor(WEIGHTS, device=channels.device).view(1, 3, 1)
    brightness = (channels**2 * weights).sum(1).sqrt()
    spread = (_percentile(channels, 0.99) - _percentile(channels, 0.01)).amax(1)
    return torch.stack([_percentile(brightness, 0.99), _percentile(brightness, 0.05), spread], dim=1)


def judge_exposure(levels: NDArray[np.float32]) -> Exposure:
    """Judge what `measure_exposure` found."""
    return Exposure(levels[:, 0] <= DARK, levels[:, 1] >= LIGHT, levels[:, 2] <= ONE_COLOUR)


def _percentile(values: Tensor, fraction: float) -> Tensor:
    return values.kthvalue(1 + int(fraction * (values.shape[-1] - 1)), dim=-1).values
