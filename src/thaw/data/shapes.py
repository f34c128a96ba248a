"""The sizes of a source's images, by the headers of some of them."""

from dataclasses import dataclass

import numpy as np

from thaw.data.source import Source
from thaw.errors import DataError
from thaw.images.files import open_image

LOOKED_AT = 400
"""Images whose size is looked at, spread over the source."""
SQUARE = 1.05
"""The longer side of a square image against the shorter, at most."""


@dataclass(frozen=True)
class Shapes:
    """What the headers of some images say."""

    sizes: list[tuple[int, int]]
    """(width, height) of each, in pixels."""
    jpegs: int
    """How many are JPEGs."""
    unreadable: int
    """How many more could not be opened."""

    @property
    def shorter_side(self) -> int:
        """In pixels, in the median."""
        return int(np.median(np.array(self.sizes).min(1)))

    @property
    def squares(self) -> float:
        """The fraction that are square, or nearly so."""
        sizes = np.array(self.sizes)
        return float((sizes.max(1) <= SQUARE * sizes.min(1)).mean())


def look_at_shapes(source: Source) -> Shapes:
    """Open up to `LOOKED_AT` images, spread over the source, without decoding them. Raises DataError if none opens."""
    rows = np.linspace(0, len(source.ids) - 1, min(LOOKED_AT, len(source.ids))).astype(int)
    sizes, jpegs = [], 0
    for row in rows.tolist():
        try:
            with open_image(source.picture(row)) as picture:
                sizes.append(picture.size)
                jpegs += picture.format == "JPEG"
        except Exception:  # decoders of broken files raise anything
            continue
    if not sizes:
        raise DataError("none of the images looked at can be opened; give a source with JPEG, PNG or WebP images.")
    return Shapes(sizes, jpegs, len(rows) - len(sizes))
