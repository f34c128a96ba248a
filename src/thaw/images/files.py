"""Image files of strangers: read within bounds, and opened by decoders of a known list only."""

import errno
import functools
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from PIL import Image

MAX_BYTES = 256 << 20
"""Bytes of an encoded image; larger files are not read."""
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "PCX", "QOI"),
)
"""Formats that are read, by Pillow's names. None of them runs another program, as PostScript does Ghostscript."""
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a plain file of at most `MAX_BYTES` bytes, behind links or not.

    Raises OSError where it is another thing, such as a pipe or a device, is larger or cannot be read; it never waits.
    """
    handle, _ = _open(path)
    return os.fdopen(handle, "rb")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a plain file of at most `MAX_BYTES` bytes; raises OSError as `open_file` does."""
    handle, size = _open(path)
    try:
        content = os.read(handle, size)
        while len(content) < size and (more := os.read(handle, size - len(content))):
            content += more
        return content
    finally:
        os.close(handle)


def _open(path: str | os.PathLike[str]) -> tuple[int, int]:
    """A handle of a plain file, and its size."""
    try:
        handle = os.open(path, FLAGS)
    except ValueError as error:  # a null character
        raise FileNotFoundError(errno.ENOENT, str(error)) from error
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES:
        return handle, found.st_size
    os.close(handle)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a plain file")
    raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes, more than the {MAX_BYTES:,} of any image")


def open_image(content: bytes | BinaryIO) -> Image.Image:
    """Open an encoded image of one of `FORMATS`, without decoding it. Decoders of broken files raise anything."""
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=_formats())


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def below(folder: Path, name: str) -> Path | None:
    """Return where a file named in a table lies, None where that is outside the table's folder.

    Links below the folder are followed wherever they lead, as those of class folders are.
    """
    given = os.path.abspath(folder)
    for root in (given, os.path.realpath(given)) if os.path.isabs(name) else (given,):
        full = os.path.normpath(os.path.join(root, name))
        if full.startswith(os.path.join(root, "")) or full == root:
            return Path(full)
    return None
