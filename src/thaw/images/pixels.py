"""The pixel array: every picture decoded and resized once, uint8 (n, height, width, 3)."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from thaw.data.source import Source, digest_of
from thaw.errors import DataError
from thaw.images.header import HEADER, KIND, read_header
from thaw.images.preprocessing import Preprocessing, shorter_side
from thaw.progress import in_order, stage, workers
from thaw.store import Array, Field, Made, cached, key_of

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused as decompression bombs; twice Pillow's own limit for a warning."""
CHUNK = 512
"""Pictures that are written at a time."""
FILTERS = {resampling.name.lower(): resampling for resampling in Image.Resampling}


class BadImageError(Exception):
    """A picture that cannot be decoded; the message says why."""


@dataclass(frozen=True)
class Pixels:
    """All pictures of a source as one mapped array, and the rows that could not be decoded."""

    array: Array
    """uint8 (n, height, width, 3); zeros where a picture is bad."""
    headers: Array
    """(n,) of `HEADER`: what each says of itself."""
    bad: dict[int, str]
    key: str
    made: bool


def make_pixels(source: Source, preprocessing: Preprocessing, decode: str) -> Pixels:
    """Decode every picture of a source, on all cores, or open the array where that was done before.

    Raises DataError where a picture is no longer what it was when the source was read.
    """
    spatial = (preprocessing.size, preprocessing.resize, preprocessing.interpolation, preprocessing.crop, decode)
    key = key_of(images=source.digests, spatial=spatial, header=KIND, pillow=PIL.__version__)
    side = preprocessing.size

    def decoded(row: int) -> tuple[NDArray[np.uint8] | str, tuple[str, int, int, bool]]:
        content = _unchanged(source, row)
        try:
            return decode_picture(content, preprocessing, decode), read_header(content)
        except BadImageError as error:
            return str(error), ("", 0, 0, False)

    def make(first: int) -> Made:
        count = len(source.ids)
        with warnings.catch_warnings(), workers() as pool, stage("decoding", count, "images", first) as advance:
            warnings.simplefilter("ignore")  # here too, since what threads set, other threads undo
            found = in_order(pool, decoded, range(first, count), CHUNK)
            for start in range(first, count, CHUNK):
                rows = range(start, min(start + CHUNK, count))
                chunk, headers = np.zeros((len(rows), side, side, 3), np.uint8), np.zeros(len(rows), HEADER)
                bad: dict[str, str] = {}
                for index, (result, headers[index]) in zip(range(len(rows)), found, strict=False):
                    if isinstance(result, str):
                        bad[str(start + index)] = result
                    else:
                        chunk[index] = result
                    advance(1)
                yield (chunk, headers), bad

    entry = cached("pixels", key, len(source.ids), [Field((side, side, 3), "uint8"), Field((), KIND)], make)
    array, headers = entry.arrays
    return Pixels(array, headers.view(HEADER), {int(row): why for row, why in entry.notes.items()}, key, entry.made)


def _unchanged(source: Source, row: int) -> bytes:
    """The picture that the source had when it was read: what is kept under its digest has to be of these bytes."""
    try:
        content = source.picture(row)
    except OSError as error:
        why = f"cannot be read any more ({error.strerror or error})"
    else:
        if digest_of(content) == source.digests[row]:
            return content
        why = "changed while the study was reading"
    raise DataError(f"the picture {str(source.ids[row])!r} {why}; run the command again when nothing writes to it.")


def decode_picture(content: bytes, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """Encoded bytes to uint8 (size, size, 3). Raises BadImageError when they are no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters fails below
            with Image.open(io.BytesIO(content)) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadImageError(
                        f"has {picture.width:,} x {picture.height:,} pixels, more than is safe to decode"
                    )
                if decode == "fast":
                    shorter = shorter_side(preprocessing)
                    picture.draft("RGB", (shorter, shorter))
                return np.array(to_square(upright_rgb(picture), preprocessing))
    except UnidentifiedImageError as error:
        raise BadImageError("is no picture in a format that can be read") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError) as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise BadImageError(f"cannot be decoded: {reason}") from error
    except (IndexError, KeyError, TypeError, ZeroDivisionError, ArithmeticError, RuntimeError) as error:
        # decoders of broken files fail in many ways
        raise BadImageError(f"is broken ({type(error).__name__}: {error})") from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Any picture as RGB, turned upright by its EXIF orientation, on white where it is transparent.

    The first frame of an animation; 16-bit grey is scaled to 8 bits.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(picture, dtype=np.float64)
        scale = 1.0 if picture.mode == "F" and values.max(initial=0) <= 255 else 255 / 65535
        picture = Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def to_square(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """An RGB picture resized to (size, size), as torchvision's `Resize` (and `CenterCrop`) do it."""
    size, resample = preprocessing.size, FILTERS[preprocessing.interpolation]
    if preprocessing.resize == "squash":
        return picture.resize((size, size), resample)
    shorter = shorter_side(preprocessing)
    width, height = picture.size
    if width <= height:
        width, height = shorter, max(int(shorter * height / width), shorter)
    else:
        width, height = max(int(shorter * width / height), shorter), shorter
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.resize((width, height), resample).crop((left, top, left + size, top + size))
