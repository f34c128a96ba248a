"""The files of a run directory, read; whatever is missing or broken is said in one sentence."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from thaw.errors import StorageError


def read(path: Path, parse: Callable[[str], Any]) -> Any:
    """The text of a file, parsed. Raises StorageError where there is no such file or `parse` refuses it."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unfinished(path, error) from error


def read_table(path: Path, which: pc.Expression | None = None) -> pa.Table:
    """The rows of a Parquet file for which `which` holds. Raises StorageError where it cannot be read."""
    try:
        return pq.read_table(path, filters=which)
    except (OSError, pa.ArrowException) as error:
        raise _unfinished(path, error) from error


def rows(path: Path, which: pc.Expression | None = None) -> list[dict[str, Any]]:
    """The same, a dictionary each."""
    found: list[dict[str, Any]] = read_table(path, which).to_pylist()
    return found


def data_uri(image: bytes) -> str:
    """An encoded picture as the source of an `<img>`."""
    return f"data:image/{_kind(image)};base64,{base64.b64encode(image).decode()}"


def thumbnail(image: bytes, side: int, quality: int = 80, kind: str = "JPEG") -> bytes:
    """An encoded picture whose longer side is at most `side` pixels; as it was where it already is and stays JPEG.

    Raises StorageError where it is no picture.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(image))
        if max(picture.size) <= side and kind == "JPEG":
            return image
        picture = picture.convert("RGB")
    except OSError as error:
        raise StorageError(f"the run holds a picture that cannot be read: {error}; run the study again.") from error
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def _kind(image: bytes) -> str:
    if image.startswith(b"\x89PNG"):
        return "png"
    return "webp" if image[8:12] == b"WEBP" else "jpeg"


def _unfinished(path: Path, error: Exception) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{path.parent} is not a finished run: it has no {path.name}; run the study first.")
    return StorageError(f"{path} cannot be read: {error}; run the study again.")
