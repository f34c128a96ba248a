"""Grey images of more than 8 bits: which of their values is black and which white, the same for all of a source."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.images import jxl
from thaw.images.files import open_image

Depth = tuple[float, float]
"""The values that become black and white."""
MODES = frozenset(["I;16", "I;16L", "I;16B", "I;16N", "I", "F"])
"""Pillow's modes of grey images of more than 8 bits."""
STARTS = (
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P5", b"P2", b"Pf", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *jxl.STARTS,
)
"""How files begin that may hold such images: TIFF, PGM, PFM, JPEG 2000 and JPEG XL. PNG says its depth."""
ENDS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""The largest values of sensors and files, by their bits."""
DARK = 1 / 16
"""Fractions of up to this are stretched, since 1 would leave them next to black."""


class Values(NamedTuple):
    """What a grey image of more than 8 bits holds."""

    least: float
    most: float
    whole: bool
    """Whether its values are integers by type."""
    undefined: int
    """Pixels that are NaN or infinite."""


def may_be_deep(content: bytes) -> bool:
    """Tell from its first bytes whether an encoded image may be grey of more than 8 bits."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content[24:26] == b"\x10\0"
    return content.startswith(STARTS)


def measure(content: bytes, most_pixels: int) -> Values | None:
    """Find the values of an encoded image; None unless it is grey of more than 8 bits, or where it is broken."""
    try:
        with open_image(content) as image:
            deep = image.mode in MODES and image.width * image.height <= most_pixels
            return values_of(np.asarray(image)) if deep else None
    except Exception:  # decoders of broken files raise anything; the reason is found when it is decoded
        return None


def choose_depth(found: Iterable[Values]) -> Depth | None:
    """Choose black and white for images that hold these values; None where there is none, or numbers of two types.

    White is the largest value, or what it stands for: the end of 8, 10, 12, 14 or 16 bits where whole numbers fill
    half of them, so 4,095 where 3,900 is the most; 1 or 255 for fractions up to these. Black is 0, or the least below.
    """
    found = [one for one in found if one.least <= one.most]
    if len({one.whole for one in found}) != 1:
        return None
    least, most = min(one.least for one in found), max(one.most for one in found)
    if found[0].whole:
        white = next((end for end in ENDS if end / 2 <= most <= end), most)
    else:
        white = 1.0 if DARK < most <= 1 else 255.0 if 128 <= most <= 255 else most
    black = min(0.0, least)
    return (black, white) if white > black else (black, black + 1)


def to_eight_bits(image: Image.Image, depth: Depth | None) -> Image.Image:
    """Scale an image of one of `MODES` to 8 bits; by its own values without a depth.

    NaN and minus infinity become black, infinity white.
    """
    values = np.asarray(image)
    return Image.fromarray(scale_levels(values, depth or choose_depth([values_of(values)]) or (0.0, 255.0)))


def scale_levels(values: NDArray[np.generic], depth: Depth) -> NDArray[np.uint8]:
    """Scale values to 8 bits; NaN and minus infinity become 0, infinity 255."""
    black, white = depth
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values.astype(np.float64) - black) * (255 / (white - black))
    return np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).round().clip(0, 255).astype(np.uint8)


def values_of(values: NDArray[np.generic]) -> Values:
    """Find the extremes of an array of numbers."""
    whole = values.dtype.kind in "biu"
    if whole:
        return Values(float(values.min()), float(values.max()), True, 0)
    finite = values[np.isfinite(values)]
    undefined = values.size - finite.size
    if not finite.size:
        return Values(math.inf, -math.inf, False, undefined)
    return Values(float(finite.min()), float(finite.max()), False, undefined)
