"""One image: encoded bytes to the square of pixels that a network sees."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from thaw.images.depth import MODES, Depth, to_eight_bits
from thaw.images.files import open_image
from thaw.images.preprocessing import Preprocessing, shorter_side

MAX_PIXELS = 178_956_970
"""Images with more pixels are refused as decompression bombs; twice Pillow's own limit for a warning."""
RULES = 3
"""Counts up when an image decodes to something else: part of the cache's keys."""
FILTERS = {resampling.name.lower(): resampling for resampling in Image.Resampling}


class BadImageError(Exception):
    """An image that cannot be decoded; the message says why."""


def decode_picture(content: bytes, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """Encoded bytes to uint8 (size, size, 3). Raises BadImageError when they are no image."""
    with _decoding(), open_image(content) as picture:
        return _pixels(picture, preprocessing, decode)


def pixels_of(picture: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Any image of Pillow's, decoded yet or not, to uint8 (size, size, 3). Raises BadImageError."""
    with _decoding():
        return _pixels(picture, preprocessing, "exact")


def _pixels(picture: Image.Image, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    if not _is_safe(picture.width, picture.height):
        raise BadImageError(f"has {picture.width:,} x {picture.height:,} pixels, more than is safe to decode")
    if decode == "fast":
        shorter = shorter_side(preprocessing)
        picture.draft("RGB", (shorter, shorter))
    return np.array(to_square(upright_rgb(picture, preprocessing.depth), preprocessing))


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """A block that decodes an image; in whatever way its decoder fails, BadImageError says why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters fails below
            yield
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("is not an image in a format that can be read") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError) as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise BadImageError(f"cannot be decoded: {reason}") from error
    except Exception as error:  # decoders of broken files fail in many ways
        raise BadImageError(f"is broken ({type(error).__name__}: {error})") from error


def upright_rgb(picture: Image.Image, depth: Depth | None = None) -> Image.Image:
    """Any image as RGB, turned upright by its EXIF orientation, on white where it is transparent.

    The first frame of an animation; grey of more than 8 bits is scaled to 8 by `depth`, else by its own values.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in MODES:
        picture = to_eight_bits(picture, depth)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def to_square(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An RGB image resized to (size, size), as torchvision's `Resize` (and `CenterCrop`) do it.

    Raises BadImageError for one so narrow that it would be too long to crop once its shorter side has that size.
    """
    size, resample = preprocessing.size, FILTERS[preprocessing.interpolation]
    if preprocessing.resize == "squash":
        return picture.resize((size, size), resample)
    shorter = shorter_side(preprocessing)
    width, height = picture.size
    if width <= height:
        width, height = shorter, max(int(shorter * height / width), shorter)
    else:
        width, height = max(int(shorter * width / height), shorter), shorter
    if not _is_safe(width, height):
        raise BadImageError(
            f"has {picture.width:,} x {picture.height:,} pixels, too narrow to crop: it would be resized to "
            f"{width:,} x {height:,}"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.resize((width, height), resample).crop((left, top, left + size, top + size))


def _is_safe(width: int, height: int) -> bool:
    return width * height <= MAX_PIXELS
