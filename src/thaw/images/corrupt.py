"""Mild corruptions of an image as the network sees it, the same every time."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

NOISE = 0.08
"""Standard deviation of the noise, of values between 0 and 1."""
BLUR = 0.01
"""Radius of the blur, as a part of the shorter side."""
QUALITY = 25
"""Of the JPEG file."""
LIGHT, CONTRAST = 0.8, 0.6
"""What brightness, and the distance from the mean grey, are multiplied by; light also by the inverse."""
DEGREES = 5


def corrupt(kind: str, pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Corrupt an image, about as the first two levels of ImageNet-C do (Hendrycks and Dietterich, ICLR 2019).

    Parameters
    ----------
    kind
        `noise` adds Gaussian noise, `blur` is Gaussian, `jpeg` encodes and decodes, `light` darkens or brightens,
        `contrast` lowers the contrast, `rotation` turns by 5 degrees to the left or right, edges repeated beyond the
        border.
    pixels
        uint8 (height, width, 3).
    seed
        Of the image: decides the noise, and which way light and rotation go.

    Returns
    -------
    array of uint8, shape (height, width, 3)
    """
    random, image = np.random.default_rng(seed), Image.fromarray(pixels)
    if kind == "noise":
        noisy = pixels + 255 * NOISE * random.standard_normal(pixels.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    up = bool(random.integers(2))
    if kind == "blur":
        image = image.filter(ImageFilter.GaussianBlur(BLUR * min(pixels.shape[:2])))
    elif kind == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        image = Image.open(buffer).convert("RGB")
    elif kind == "light":
        image = ImageEnhance.Brightness(image).enhance(1 / LIGHT if up else LIGHT)
    elif kind == "contrast":
        image = ImageEnhance.Contrast(image).enhance(CONTRAST)
    elif kind == "rotation":
        return _turned(pixels, DEGREES if up else -DEGREES)
    else:
        raise ValueError(f"there is no corruption {kind!r}")
    return np.asarray(image)


def _turned(pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    high, wide = pixels.shape[:2]
    margin = max(high, wide) // 8 + 1
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "edge")
    turned = Image.fromarray(padded).rotate(degrees, Image.Resampling.BILINEAR)
    return np.asarray(turned)[margin : margin + high, margin : margin + wide]
