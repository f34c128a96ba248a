"""What an image says of itself before it is decoded."""

import numpy as np
from PIL import Image

from thaw.images.files import open_image

KIND = "S12,i4,i4,?"
HEADER = np.dtype([("format", "S12"), ("width", "i4"), ("height", "i4"), ("animated", "?")])
"""A row for each image, in the layout of `KIND`: Pillow's name of its format, pixels, whether it moves. No name where
the header cannot be read."""


def read_header(content: bytes) -> tuple[str, int, int, bool]:
    """One row of `HEADER` from an encoded image. Nothing is decoded, and nothing is raised."""
    try:
        with open_image(content) as picture:
            # a JPEG with several images in it is a JPEG
            kind = "JPEG" if picture.format == "MPO" else picture.format or ""
            moving = picture.format != "MPO" and _moves(picture)
            return kind, picture.width, picture.height, moving
    except Exception:  # decoders of broken files raise anything
        return "", 0, 0, False


def _moves(picture: Image.Image) -> bool:
    """Whether an image has more than one frame that can be found."""
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # one cut off after its first frame has one
        return False
