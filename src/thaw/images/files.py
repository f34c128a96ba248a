"""Image files of strangers: read within bounds, and opened by decoders of a known list only."""

import contextlib
import errno
import functools
import io
import os
import stat
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from thaw.images import jxl

MAX_BYTES = 256 << 20
"""Bytes of an encoded image; larger files are not read."""
MAX_PIXELS = 178_956_970
"""Images with more pixels are refused as decompression bombs; twice Pillow's own limit for a warning."""
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "PCX", "QOI"),
    *("HEIF", "JXL"),
)
"""Formats that are read, by Pillow's names. None of them runs another program, as PostScript does Ghostscript."""
EXTRAS = {
    "HEIF": ("HEIC", "pi-heif", "'thaw-vision[heic]'"),
    "JXL": ("JPEG XL", "pillow-jxl-plugin", "pillow-jxl-plugin"),
}
"""Formats that Pillow reads with another package: a person's name of it, the package, and what to install. That for
JPEG XL is under the GPL, so that it is no extra of ours."""
HEIF_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"])
"""How HEIF files say what they are; the last two may be AVIF as well, which Pillow reads itself."""
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


def open_image(content: bytes) -> Image.Image:
    """Open an encoded image of one of `FORMATS`, without decoding it. Decoders of broken files raise anything.

    JPEG XL is decoded here already, by its plugin, so its size is looked at first. Raises UnidentifiedImageError, with
    what to install where that would help, if the image has another format.
    """
    formats = readable_formats()
    if "JXL" in formats and content.startswith(jxl.STARTS):
        width, height = jxl.read_size(content)
        if width * height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{width:,} x {height:,} pixels are more than is safe to decode")
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(_why_unread(content)) from error


@functools.cache
def readable_formats() -> list[str]:
    """Return those of `FORMATS` that can be read here, by Pillow itself or with the packages of `EXTRAS`."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pi_heif

        pi_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401  (registers itself)
    return [name for name in FORMATS if name in Image.OPEN]


def extra_versions() -> dict[str, str]:
    """Return the versions of the packages of `EXTRAS` that are installed: pixels depend on them."""
    found = {}
    for _, package, _ in EXTRAS.values():
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _why_unread(content: bytes) -> str:
    """Say why an image has no format that is read here, after its name."""
    kind = "JXL" if content.startswith(jxl.STARTS) else ""
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
        kind = "HEIF"
    if not kind or kind in readable_formats():
        return "is not an image in a format that can be read"
    called, package, wanted = EXTRAS[kind]
    return f"is a {called} image, which takes {package} to read: pip install {wanted}"


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
