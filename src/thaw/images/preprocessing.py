"""Preprocessing: one object that training, prediction and export all read."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from thaw.recipe import Images


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the network's input."""

    size: int
    """Pixels of each side."""
    resize: str
    """`squash` brings both sides to `size`; `crop` brings the shorter side to `size / crop` and cuts out the centre."""
    interpolation: str
    """A filter of Pillow in lower case, such as `bilinear` or `bicubic`; antialiased."""
    crop: float
    """The fraction of the shorter side that the cut-out centre keeps."""
    mean: tuple[float, float, float]
    """Of each colour, on a scale from 0 to 1; subtracted."""
    std: tuple[float, float, float]
    """Of each colour; divided by."""
    depth: tuple[float, float] | None = None
    """The values of grey images of more than 8 bits that become black and white; None: each by its own values."""


def choose_preprocessing(default: Preprocessing, images: Images) -> Preprocessing:
    """Return the backbone's own preprocessing, changed where the recipe says so."""
    given: dict[str, Any] = images.model_dump(exclude_none=True, exclude={"decode", "depth"})
    for name in given.keys() & {"mean", "std"}:
        given[name] = tuple(given[name])
    depth = None if images.depth == "auto" else (0.0, images.depth - 1.0)
    return replace(default, **given, depth=depth)


def shorter_side(preprocessing: Preprocessing) -> int:
    """Return the pixels of a resized image's shorter side, before the centre is cut out."""
    if preprocessing.resize == "squash":
        return preprocessing.size
    return max(preprocessing.size, int(preprocessing.size / preprocessing.crop + 1e-6))


class Normalise(nn.Module):
    """Map uint8 pixels (n, height, width, 3) to normalised float32 images (n, 3, height, width).

    The operations and their order are those of torchvision's `ToTensor` and `Normalize`, hence the same bits. They run
    over whole lines of pixels; where `channels_last` is set, images stay channels last in memory, as pixels are.
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
