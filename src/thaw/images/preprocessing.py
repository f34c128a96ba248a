"""Preprocessing: one object that training, prediction and export all read."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from thaw.recipe import Images


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input."""

    size: int
    """Pixels of each side."""
    resize: str
    """`squash` brings both sides to `size`; `crop` brings the shorter side to `size / crop` and cuts out the centre."""
    interpolation: str
    """A filter of Pillow in lower case, such as `bilinear` or `bicubic`; antialiased."""
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def choose_preprocessing(default: Preprocessing, images: Images) -> Preprocessing:
    """The backbone's own preprocessing with what the recipe says laid over it."""
    given: dict[str, Any] = images.model_dump(exclude_none=True, exclude={"decode"})
    for name in given.keys() & {"mean", "std"}:
        given[name] = tuple(given[name])
    return replace(default, **given)


def shorter_side(preprocessing: Preprocessing) -> int:
    """Pixels of a resized picture's shorter side, before the centre is cut out."""
    if preprocessing.resize == "squash":
        return preprocessing.size
    return max(preprocessing.size, int(preprocessing.size / preprocessing.crop + 1e-6))


class Normalise(nn.Module):
    """uint8 pixels (n, height, width, 3) to normalised float32 (n, 3, height, width).

    The same operations in the same order as torchvision's `ToTensor` and `Normalize`, hence the same bits. They run
    over whole lines of pixels; images stay channels last in memory, as pixels are, where `channels_last` is set.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.channels_last = False
        self.register_buffer("mean", torch.tensor(preprocessing.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        lines, width = pixels.flatten(2).to(torch.float32), pixels.shape[2]
        lines.div_(255).sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        images = lines.view(pixels.shape).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()
