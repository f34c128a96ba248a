"""Weights files: the header of a safetensors file, and a file's SHA-256."""

import functools
import hashlib
from pathlib import Path

from safetensors import SafetensorError

MAX_HEADER = 16 << 20
"""The largest header of a safetensors file that is accepted, in bytes; that of the network with most tensors takes a
twentieth of it."""


def check_header(file: Path) -> None:
    """Raise SafetensorError if a safetensors file has a header larger than any network's, before it is read."""
    with file.open("rb") as content:
        header = int.from_bytes(content.read(8), "little")
    if header > MAX_HEADER:
        raise SafetensorError(f"a header of {header:,} bytes, more than any network needs")


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; the file is read again only when its size or time has changed."""
    status = file.stat()
    return _sha256(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
