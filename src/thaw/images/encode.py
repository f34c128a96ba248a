"""Pixels as an encoded image, and an encoded image as the source of an `<img>`."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    """Encode an image, uint8 (height, width, 3), or 4 with opacity, as `JPEG`, `PNG` or `WEBP`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """Return an encoded JPEG, PNG or WebP image as a data URI."""
    kind = "png" if content.startswith(b"\x89PNG") else "webp" if content[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
