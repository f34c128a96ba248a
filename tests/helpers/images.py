"""Images made for tests, and their encoded files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128
"""Of a scene, in pixels."""


def encoded_image(seed: int, label: int = 0, side: int = 40, kind: str = "PNG") -> bytes:
    """Return a file of noise, brighter on the left for label 0 and on the right for label 1."""
    pixels = np.random.default_rng(seed).integers(0, 128, (side, side, 3), dtype=np.uint8)
    half = slice(0, side // 2) if label == 0 else slice(side // 2, side)
    pixels[:, half] += 100
    return encoded(Image.fromarray(pixels), kind)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an image as a file in a format of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_class_folders(root: Path, count: int = 60) -> Path:
    """Write `count` images into the class folders `left` and `right`; return `root`."""
    for seed in range(count):
        folder = root / ("left", "right")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed:03d}.png").write_bytes(encoded_image(seed, seed % 2))
    return root


def noise(width: int = 40, height: int = 40, mode: str = "RGB", seed: int = 7) -> Image.Image:
    """Return an image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def scene(seed: int) -> Image.Image:
    """Return an image with edges at all scales: coloured discs and bars."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pixels = np.full((SIDE, SIDE, 3), random.integers(0, 255, 3), dtype=np.uint8)
    for _ in range(12):
        centre, size, colour = random.integers(0, SIDE, 2), random.integers(8, 32), random.integers(0, 255, 3)
        inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < size**2
        pixels[inside if random.random() < 0.5 else abs(rows - columns + centre[0] - centre[1]) < size / 4] = colour
    return Image.fromarray(pixels)
