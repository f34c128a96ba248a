"""One image: encoded bytes to the pixels that a network sees."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from thaw.images.depth import MODES, Depth, to_eight_bits
from thaw.images.files import MAX_PIXELS, open_image
from thaw.images.preprocessing import Preprocessing, covered, padding_colour, sides

RULES = 3
"""Counts up when an image decodes to something else: part of the cache's keys."""
FILTERS = {resampling.name.lower(): resampling for resampling in Image.Resampling}


class BadImageError(Exception):
    """An image that cannot be decoded; the message says why."""


def decode_picture(content: bytes, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """Encoded bytes to uint8 (height, width, 3). Raises BadImageError when they are no image."""
    with _decoding(), open_image(content) as picture:
        return _pixels(picture, preprocessing, decode)


def pixels_of(picture: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Any image of Pillow's, decoded yet or not, to uint8 (height, width, 3). Raises BadImageError."""
    with _decoding():
        return _pixels(picture, preprocessing, "exact")


def _pixels(picture: Image.Image, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    if not _is_safe(picture.width, picture.height):
        raise BadImageError(f"has {picture.width:,} x {picture.height:,} pixels, more than is safe to decode")
    if decode == "fast":
        least = max(covered(preprocessing))  # of both sides, since EXIF may still turn the image
        picture.draft("RGB", (least, least))
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
        raise BadImageError(str(error)) from error
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
    """An RGB image resized as torchvision's `Resize` (and `CenterCrop`) do it; with padding, as `ImageOps.pad`.

    Raises BadImageError for one so narrow that it would be too long to crop once it covers the size.
    """
    (high, wide), resample = sides(preprocessing.size), FILTERS[preprocessing.interpolation]
    if preprocessing.resize == "squash":
        return picture.resize((wide, high), resample)
    width, height = picture.size
    if preprocessing.resize == "letterbox":
        width, height = _fit_inside(width, height, wide, high)
        frame = Image.new("RGB", (wide, high), padding_colour(preprocessing))
        frame.paste(picture.resize((width, height), resample), (round((wide - width) / 2), round((high - height) / 2)))
        return frame
    high_covered, wide_covered = covered(preprocessing)
    if width * high_covered <= wide_covered * height:
        width, height = wide_covered, max(int(wide_covered * height / width), high_covered)
    else:
        width, height = max(int(high_covered * width / height), wide_covered), high_covered
    if not _is_safe(width, height):
        raise BadImageError(
            f"has {picture.width:,} x {picture.height:,} pixels, too narrow to crop: it would be resized to "
            f"{width:,} x {height:,}"
        )
    left, top = round((width - wide) / 2), round((height - high) / 2)
    return picture.resize((width, height), resample).crop((left, top, left + wide, top + high))


def _fit_inside(width: int, height: int, wide: int, high: int) -> tuple[int, int]:
    """Return the largest width and height of this aspect ratio inside (wide, high).

    The shorter one is rounded as `ImageOps.contain` does it: from a product in double precision, halves to even. It
    has at least one pixel.
    """
    if width * high > wide * height:
        return wide, max(round(height / width * wide), 1)
    return max(round(width / height * high), 1), high


def _is_safe(width: int, height: int) -> bool:
    return width * height <= MAX_PIXELS
