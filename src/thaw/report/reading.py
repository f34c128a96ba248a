"""Read the files of a run folder; what is missing or broken is said in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from thaw.errors import StorageError
from thaw.images.encode import encode
from thaw.images.files import open_image


def read(path: Path, parse: Callable[[str], Any]) -> Any:
    """Read and parse the text of a file. Raises StorageError where there is no such file or `parse` refuses it."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unfinished(path, error) from error


def read_table(path: Path, which: pc.Expression | None = None) -> pa.Table:
    """Read the rows of a Parquet file for which `which` holds. Raises StorageError where it cannot be read."""
    try:
        return pq.read_table(path, filters=which)
    except (OSError, pa.ArrowException) as error:
        raise _unfinished(path, error) from error


def rows(path: Path, which: pc.Expression | None = None) -> list[dict[str, Any]]:
    """Read the same, a dictionary each."""
    found: list[dict[str, Any]] = read_table(path, which).to_pylist()
    return found


def thumbnail(image: bytes, side: int, quality: int = 80, kind: str = "JPEG") -> bytes:
    """Shrink an encoded image to `side` pixels on its longer side; a small one that stays JPEG is unchanged.

    Raises StorageError where it is not an image.
    """
    try:
        picture = open_image(image)
        if max(picture.size) <= side and kind == "JPEG":
            return image
        picture = picture.convert("RGB")
    except Exception as error:  # decoders of broken files raise anything
        raise StorageError(f"the run holds an image that cannot be read: {error}; run the study again.") from error
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode(np.asarray(picture), kind, quality=quality)


def _unfinished(path: Path, error: Exception) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{path.parent} is not a finished run: it has no {path.name}; run the study first.")
    return StorageError(f"{path} cannot be read: {error}; run the study again.")
