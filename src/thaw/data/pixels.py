"""The pixel array: every image decoded and resized once, uint8 (n, height, width, 3)."""

import warnings
from dataclasses import dataclass

import numpy as np
import PIL
from numpy.typing import NDArray

from thaw.cache.arrays import Array, Chunks, Field, cached, key_of
from thaw.data.source import Source, digest_of
from thaw.errors import DataError, out_of_memory
from thaw.images.decode import RULES, BadImageError, decode_picture
from thaw.images.files import extra_versions
from thaw.images.header import HEADER, KIND, read_header
from thaw.images.preprocessing import Preprocessing, padding_colour, sides
from thaw.progress import in_order, stage, workers

CHUNK = 512
"""Images that are written at a time."""


@dataclass(frozen=True)
class Pixels:
    """All images of a source as one mapped array, and the rows that could not be decoded."""

    array: Array
    """uint8 (n, height, width, 3); zeros where an image is bad."""
    headers: Array
    """(n,) of `HEADER`: what each says of itself."""
    bad: dict[int, str]
    key: str
    made: bool


def make_pixels(source: Source, preprocessing: Preprocessing, decode: str) -> Pixels:
    """Decode every image of a source, on all cores, or open the array where that was done before.

    Raises DataError where an image is no longer what it was when the source was read, and where the memory does not
    do to decode it: that is no fault of the image's, so it is not kept as a bad one.
    """
    spatial = (preprocessing.size, preprocessing.resize, preprocessing.interpolation, preprocessing.crop, decode)
    padding = [padding_colour(preprocessing)] if preprocessing.resize == "letterbox" else []
    key = key_of(
        images=source.digests,
        spatial=[*spatial, *padding],
        depth=preprocessing.depth,
        header=KIND,
        rules=RULES,
        pillow=PIL.__version__,
        **extra_versions(),
    )
    shape = (*sides(preprocessing.size), 3)

    def decoded(row: int) -> tuple[NDArray[np.uint8] | str, tuple[str, int, int, bool]]:
        content = unchanged(source, row)
        try:
            return decode_picture(content, preprocessing, decode), read_header(content)
        except BadImageError as error:
            if error.__cause__ and out_of_memory(error.__cause__):
                raise DataError(
                    f"there is not enough memory to decode the image {str(source.ids[row])!r}; close other programs "
                    "and run the same command again to resume, or remove the image."
                ) from error
            return str(error), ("", 0, 0, False)

    def make(first: int) -> Chunks:
        count = len(source.ids)
        with warnings.catch_warnings(), workers() as pool, stage("decoding", count, "images", first) as advance:
            warnings.simplefilter("ignore")  # here too, since what threads set, other threads undo
            found = in_order(pool, decoded, range(first, count), CHUNK)
            for start in range(first, count, CHUNK):
                rows = range(start, min(start + CHUNK, count))
                chunk, headers = np.zeros((len(rows), *shape), np.uint8), np.zeros(len(rows), HEADER)
                bad: dict[str, str] = {}
                for index, (result, headers[index]) in zip(range(len(rows)), found, strict=False):
                    if isinstance(result, str):
                        bad[str(start + index)] = result
                    else:
                        chunk[index] = result
                    advance(1)
                yield (chunk, headers), bad

    entry = cached("pixels", key, len(source.ids), [Field(shape, "uint8"), Field((), KIND)], make)
    array, headers = entry.arrays
    return Pixels(array, headers.view(HEADER), {int(row): why for row, why in entry.notes.items()}, key, entry.made)


def unchanged(source: Source, row: int) -> bytes:
    """The image that the source had when it was read: what is kept under its digest has to be of these bytes."""
    try:
        content = source.picture(row)
    except OSError as error:
        why = f"cannot be read any more ({error.strerror or error})"
    else:
        if digest_of(content) == source.digests[row]:
            return content
        why = "changed while the study was reading"
    raise DataError(f"the image {str(source.ids[row])!r} {why}; run the command again when nothing writes to it.")
