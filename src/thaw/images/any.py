"""An image in any form that a person may hold it in: a path, encoded bytes, a PIL image, an array or a tensor."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from thaw.images.decode import BadImageError, decode_picture, pixels_of
from thaw.images.files import read_file
from thaw.images.preprocessing import Preprocessing

AnyImage = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A path, an encoded image, a PIL image, an array uint8 (h, w), (h, w, 3) or (h, w, 4), or a tensor uint8 (3, h, w)
or (h, w, 3)."""


def square(image: AnyImage, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """Return an image as the network sees it, uint8 (size, size, 3). Raises BadImageError where it cannot be used."""
    if isinstance(image, str | os.PathLike):
        try:
            image = read_file(image)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_picture(bytes(image), preprocessing, decode)
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        if image.ndim == 3 and image.shape[0] == 3:
            image = image.transpose(1, 2, 0)
    if isinstance(image, np.ndarray):
        flat = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not flat or not image.size:
            raise BadImageError(f"is an array {image.dtype} {image.shape}, not uint8 (height, width, 3)")
        image = Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise BadImageError(f"is of type {type(image).__name__}, neither a path, bytes, a PIL image nor an array")
    return pixels_of(image, preprocessing)


def listed(images: Any) -> list[AnyImage]:
    """Return one image, an iterable of images, or an array or a tensor of several, as a list."""
    several = isinstance(images, np.ndarray | Tensor) and (images.ndim == 4 or images.dtype == object)
    if not several and isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor):
        if isinstance(images, np.ndarray) and images.dtype.kind in "US":
            return [str(path) for path in images.ravel()]
        return [images]
    return list(images)
