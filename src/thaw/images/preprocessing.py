"""Preprocessing: one object that training, prediction and export all read."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from thaw.recipe import Images

Size = int | tuple[int, int]
"""Pixels of each side of a square, or the height and width of a rectangle."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the network's input."""

    size: Size
    """The size of that input."""
    resize: str
    """`squash` brings both sides to `size`. The others keep the aspect ratio: `crop` lets the image just cover
    `size / crop` and cuts out the centre, `letterbox` fits it inside `size` and pads it evenly with the mean colour."""
    interpolation: str
    """A filter of Pillow in lower case, such as `bilinear` or `bicubic`; antialiased."""
    crop: float
    """The fraction of each side of what is covered that the cut-out centre keeps."""
    mean: tuple[float, float, float]
    """Of each colour, on a scale from 0 to 1; subtracted."""
    std: tuple[float, float, float]
    """Of each colour; divided by."""
    depth: tuple[float, float] | None = None
    """The values of grey images of more than 8 bits that become black and white; None: each by its own values."""


def choose_preprocessing(default: Preprocessing, images: Images) -> Preprocessing:
    """Return the backbone's own preprocessing, changed where the recipe, settled, says so."""
    assert "auto" not in (images.size, images.resize), "settle the recipe first"
    given: dict[str, Any] = images.model_dump(exclude_none=True, exclude={"decode", "depth"})
    for name in given.keys() & {"mean", "std"}:
        given[name] = tuple(given[name])
    if isinstance(images.size, list):
        height, width = images.size
        given["size"] = height if height == width else (height, width)
    depth = None if images.depth == "auto" else (0.0, images.depth - 1.0)
    return replace(default, **given, depth=depth)


def sides(size: Size) -> tuple[int, int]:
    """Return height and width, in pixels."""
    return (size, size) if isinstance(size, int) else size


def describe_size(size: Size) -> str:
    """Return a size in words, such as `224 px`."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]} x {size[1]} px (height x width)"


def covered(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the height and width that a resized image just covers, before the centre is cut out."""
    height, width = sides(preprocessing.size)
    if preprocessing.resize != "crop":
        return height, width
    return max(height, int(height / preprocessing.crop + 1e-6)), max(width, int(width / preprocessing.crop + 1e-6))


def padding_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return the colour that `letterbox` pads with: the mean, in the nearest of 256 levels."""
    red, green, blue = (min(max(round(255 * level), 0), 255) for level in preprocessing.mean)
    return red, green, blue


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
