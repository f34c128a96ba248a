"""Real images of mixed sizes, on which an export is checked against its bundle."""

import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from thaw.data.endings import PICTURES
from thaw.errors import DataError
from thaw.images.decode import upright_rgb
from thaw.images.files import open_image, read_file

FROM_FOLDER, FROM_TABLE = 200, 40
"""Most images taken from a folder, and from a run's or the embedded table."""
SIDES = (24, 640)
"""Least and largest longer side that images from a table are resized to."""


@dataclass(frozen=True)
class Samples:
    """Decoded images."""

    arrays: list[NDArray[np.uint8]]
    """Each uint8 (height, width, 3), upright RGB."""
    origin: str
    """Where they come from, in words."""


def check_samples(bundle: Path, folder: Path | None) -> Samples:
    """Return the images in `folder`; else those of the run that the bundle lies in; else embedded drawings.

    Those of a run, and the embedded ones, are small, so each is resized to a size of its own. Raises DataError where
    the folder holds no image that can be read.
    """
    if folder is not None:
        return Samples(_from_folder(folder), f"the folder {folder.name}")
    run = bundle.resolve().parent.parent
    for name in ("gallery.parquet", "examples.parquet"):
        if (run / "recipe.toml").is_file() and (run / name).is_file():
            return Samples(_from_table(run / name), f"the run's {name}, brought to mixed sizes")
    with resources.as_file(resources.files("thaw.recipes") / "assets" / "emoji-people.parquet") as table:
        return Samples(_from_table(table), "the embedded emoji-people, brought to mixed sizes")


def _from_folder(folder: Path) -> list[NDArray[np.uint8]]:
    arrays: list[NDArray[np.uint8]] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES):
        try:
            arrays.append(np.array(_open(read_file(path))))
        except Exception:  # decoders of broken files raise anything
            continue
        if len(arrays) == FROM_FOLDER:
            break
    if not arrays:
        raise DataError(f"{folder} holds no image that can be read; give --check a folder with some.")
    return arrays


def _from_table(path: Path) -> list[NDArray[np.uint8]]:
    """Return images spread over a table, the longer side of each drawn from a few pixels to several hundred."""
    column = pq.read_table(path, columns=["image"])["image"]
    rows = np.unique(np.linspace(0, len(column) - 1, FROM_TABLE).astype(int))
    sides = np.geomspace(*SIDES, len(rows)).round().astype(int)
    random = np.random.default_rng(0)
    arrays = []
    for row, side in zip(rows, random.permutation(sides), strict=True):
        found = column[int(row)].as_py()
        content = found["bytes"] if isinstance(found, dict) else found
        picture = _open(content)
        stretch = random.uniform(0.4, 1)
        size = (side, max(1, round(side * stretch)))
        picture = picture.resize(size if random.integers(2) else size[::-1], Image.Resampling.BICUBIC)
        arrays.append(np.array(picture))
    return arrays


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return upright_rgb(open_image(content))
