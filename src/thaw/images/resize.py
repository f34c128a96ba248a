"""Pillow's resize in torch, to the bit, for images of any size: the first part of an exported graph."""

from collections.abc import Callable
from typing import Any

import PIL
import torch
from torch import Tensor

from thaw.images.preprocessing import Preprocessing, covered, padding_colour, sides

BLOCK = 16
"""Neighbouring outputs that are computed together, from one stretch of the input."""
FRACTION = 1 << 22
"""Pillow rounds its weights to fractions of this, and sums them in integers."""
COLUMNS_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""True for a Pillow that resizes a tall image's height before its width; before version 13 width always came first."""


def resize_to_square(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize images to the size that a network sees, with the same bits as `images.decode.to_square`.

    It consists of operations that `torch.export` and ONNX support, for any height and width. As in Pillow
    (`Resample.c`), each side has a pass of its own, rounded to 8 bits, and the kernel widens where a side shrinks. Sums
    of 8-bit values times 22-bit weights stay below 2**53, so double precision holds them exactly in any order of
    addition.

    Parameters
    ----------
    pixels
        uint8, shape (n, height, width, 3).
    preprocessing
        The size, and how to resize.

    Returns
    -------
    Tensor
        uint8, shape (n, *sides(preprocessing.size), 3).
    """
    height, width = pixels.shape[1:3]
    (tall, broad), interpolation = sides(preprocessing.size), preprocessing.interpolation
    high, wide = (torch.scalar_tensor(side, dtype=torch.int64) for side in (height, width))
    high_after, wide_after = _size_after(high, wide, preprocessing)
    top, left = _margin(high_after - tall), _margin(wide_after - broad)

    lost = high - high_after
    turn = (lost > 0) & (lost > 2 * (wide - wide_after)) & COLUMNS_FIRST
    rows, columns = pixels.permute(0, 3, 1, 2), pixels.permute(0, 3, 2, 1)
    planes = torch.where(turn, columns.reshape(-1, height * width), rows.reshape(-1, height * width)).contiguous()
    across, down = torch.stack([wide, wide_after, left]), torch.stack([high, high_after, top])
    first, second = torch.where(turn, down, across), torch.where(turn, across, down)
    length: Any = first[0].item()
    lines: Any = second[0].item()
    torch._check(length > 0)
    torch._check(lines > 0)
    torch._check(lines * length == height * width)

    count, size = planes.shape[0], max(tall, broad)  # of a rectangle the shorter side is cut off at the end
    once = _resample(planes.reshape(count * lines, length), first, size, interpolation).reshape(count, lines, size)
    twice = _resample(once.transpose(1, 2).reshape(count * size, lines), second, size, interpolation)
    square = twice.reshape(-1, 3, size, size)
    resized = torch.where(turn, square.permute(0, 2, 3, 1), square.permute(0, 3, 2, 1))[:, :tall, :broad]
    if preprocessing.resize != "letterbox":
        return resized
    inside = _inside(tall, top, high_after)[:, None] & _inside(broad, left, wide_after)
    colour = torch.tensor(padding_colour(preprocessing), dtype=torch.uint8)
    return torch.where(inside[:, :, None], resized, colour)


def _size_after(high: Tensor, wide: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return the height and width that images of this height and width are resized to, before cropping or padding."""
    tall, broad = covered(preprocessing)
    whole = torch.full((), tall), torch.full((), broad)
    if preprocessing.resize == "squash":
        return whole
    if preprocessing.resize == "letterbox":
        flat = wide * tall > broad * high
        fitted = [(high, wide, broad), (wide, high, tall)]
        shorter = [torch.round(a.double() / b.double() * side).long().clamp(min=1) for a, b, side in fitted]
        return torch.where(flat, shorter[0], whole[0]), torch.where(flat, whole[1], shorter[1])
    narrow = wide * tall <= broad * high
    return torch.where(narrow, broad * high // wide, whole[0]), torch.where(narrow, whole[1], tall * wide // high)


def _resample(lines: Tensor, extent: Tensor, size: int, interpolation: str) -> Tensor:
    """Resample lines uint8 (n, length) to (n, size).

    `extent` (3,) holds the length, the length it is resized to, and the first of the `size` pixels kept of that; what
    is kept before the first pixel and after the last repeats them.
    """
    before, after, first = extent
    kernel, reach = KERNELS[interpolation]
    blocks = -(-size // BLOCK)
    scale = before.double() / after.double()
    widening = scale.clamp(min=1)
    taps: Any = (BLOCK * scale + 2 * reach * widening + 3).long().item()  # no block sees more
    torch._check(taps > 0)
    outputs = (first + torch.arange(blocks * BLOCK)).clamp(min=0).minimum(after - 1)
    centres = (outputs.double().view(blocks, BLOCK, 1) + 0.5) * scale
    seen = torch.floor(centres[:, :1] - reach * widening).long() + torch.arange(taps)
    distance = ((seen - centres + 0.5) * (1 / widening)).abs()
    weights = torch.where((distance < reach) & (seen >= 0) & (seen < before), kernel(distance), 0.0)
    weights = weights / weights.sum(2, keepdim=True)
    weights = torch.trunc(weights * FRACTION + torch.where(weights < 0, -0.5, 0.5).double())

    stretches = lines[:, seen.clamp(min=0).minimum(before - 1).flatten()].reshape(-1, blocks, taps)
    sums = stretches.transpose(0, 1).double() @ weights.transpose(1, 2)  # (blocks, n, BLOCK)
    levels = torch.floor(sums / FRACTION + 0.5).clamp(0, 255).to(torch.uint8)
    return levels.transpose(0, 1).flatten(1)[:, :size]


def _triangle(distance: Tensor) -> Tensor:
    return 1 - distance


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, in Pillow's order of operations."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return torch.where(distance < 1, near, far)


KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2)}
"""By name, a filter's weight at a distance from the centre, and the distance from which on it is zero."""


def _margin(spare: Tensor) -> Tensor:
    """Return half of the pixels to cut off, halves rounded to even as Python rounds them; to pad, less than zero."""
    return torch.round(spare.double() / 2).long()


def _inside(count: int, first: Tensor, after: Tensor) -> Tensor:
    """Return which of `count` pixels in a row, from `first` on, are of an image with `after` pixels; bool (count,)."""
    places = first + torch.arange(count)
    return (places >= 0) & (places < after)
