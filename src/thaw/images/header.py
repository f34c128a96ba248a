"""What a picture says of itself before it is decoded."""

import io

import numpy as np
from PIL import Image

KIND = "S12,i4,i4,?"
HEADER = np.dtype([("format", "S12"), ("width", "i4"), ("height", "i4"), ("animated", "?")])
"""A row for each picture, in the layout of `KIND`: Pillow's name of its format, pixels, whether it moves. No name where
the header cannot be read."""


def read_header(content: bytes) -> tuple[str, int, int, bool]:
    """One row of `HEADER` from an encoded picture. Nothing is decoded, and nothing is raised."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            # a JPEG with several pictures in it is a JPEG
            kind = "JPEG" if picture.format == "MPO" else picture.format or ""
            moving = picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
            return kind, picture.width, picture.height, moving
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return "", 0, 0, False
