"""A corpus of files that go wrong in a study of pictures, made anew by the tests: every kind that people have met."""

import io
import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from helpers.images import encoded, noise

ODD_NAMES = (
    "with spaces.png",
    'it\'s "quoted".png',
    "two\nlines.png",
    "<img src=x onerror=alert(1)>.png",
    "=1+1,@x.png",
    "Ünïcødé 📷.png",
    "UPPER.PNG",
    "Mixed.JpG.pNg",
    os.fsdecode(b"latin-\xe9t\xe9.png"),
    "\x1b[31mred.png",
    "-rf.png",
)
"""Names that files may have; none of them makes a picture bad."""


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that says it has billions of pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


NO_IMAGE = "is not an image in a format that can be read"

UNUSABLE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated JPEG": ("a.jpg", lambda: encoded(noise(), "JPEG")[:900], "cannot be decoded: image file is truncated"),
    "truncated PNG": ("a.png", lambda: encoded(noise(), "PNG")[:400], "cannot be decoded: "),
    "truncated GIF": ("a.gif", lambda: encoded(noise(mode="P"), "GIF")[:1500], "cannot be decoded: "),
    "truncated header": ("a.png", lambda: encoded(noise(), "PNG")[:20], "cannot be decoded: "),
    "empty": ("a.png", lambda: b"", NO_IMAGE),
    "text called .jpg": (
        "a.jpg",
        lambda: b"<html>404 not found</html>",
        NO_IMAGE,
    ),
    "zeros": ("a.png", lambda: bytes(5000), NO_IMAGE),
    "damaged in the middle": ("a.png", lambda: _damaged(encoded(noise(), "PNG")), "cannot be decoded: "),
    "decompression bomb": ("a.png", bomb, "pixels"),
    "PostScript called .png": ("a.png", lambda: _postscript(), NO_IMAGE),
    "bomb of text": ("a.png", lambda: _text_bomb(), "cannot be decoded: "),
}
"""Files that are no pictures: the name, the bytes, and what is said of them (a regular expression)."""

UNUSUAL: dict[str, tuple[str, Callable[[], bytes], Callable[[], Image.Image]]] = {
    "CMYK": ("a.jpg", lambda: encoded(noise(mode="CMYK"), "JPEG", quality=100), lambda: _decoded_cmyk()),
    "16-bit": ("a.png", lambda: encoded(_sixteen(), "PNG"), lambda: _sixteen_as_eight()),
    "palette": ("a.png", lambda: encoded(noise(mode="P"), "PNG"), lambda: noise(mode="P").convert("RGB")),
    "animated": ("a.gif", lambda: _animated(), lambda: noise(mode="P").convert("RGB")),
    "animated, cut off": ("a.gif", lambda: _cut_off(), lambda: noise(mode="P").convert("RGB")),
    "turned by EXIF": ("a.png", lambda: _turned(), lambda: noise(48, 32).transpose(Image.Transpose.ROTATE_270)),
    "one pixel": ("a.png", lambda: encoded(noise(1, 1), "PNG"), lambda: noise(1, 1)),
    "transparent": ("a.png", lambda: encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 0)), "PNG"), lambda: _white()),
    "PNG called .jpg": ("a.jpg", lambda: encoded(noise(), "PNG"), lambda: noise()),
}
"""Pictures that can be used: the name, the bytes, and the RGB picture that they are."""


def _damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(200) + content[middle + 200 :]


def _text_bomb() -> bytes:
    """A PNG with a compressed comment of 100 MB."""
    content = encoded(noise(), "PNG")
    comment = b"zTXtname\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    return content[:33] + chunk + content[33:]


def _sixteen() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16))


def _sixteen_as_eight() -> Image.Image:
    eight = (np.asarray(_sixteen(), np.float64) * 255 / 65535).round().astype(np.uint8)
    return Image.fromarray(eight).convert("RGB")


def _animated() -> bytes:
    frames = [noise(mode="P", seed=seed) for seed in (7, 8, 9)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0)


def _cut_off() -> bytes:
    """A moving GIF that ends in the middle of the block after its first frame."""
    frames = [noise(mode="P", seed=seed) for seed in (7, 8, 9)]
    return _animated()[: len(encoded(frames[0], "GIF")) + 30]


def _postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(48, 32), "PNG", exif=exif)


def _decoded_cmyk() -> Image.Image:
    with Image.open(io.BytesIO(encoded(noise(mode="CMYK"), "JPEG", quality=100))) as opened:
        return opened.convert("RGB")


def _white() -> Image.Image:
    return Image.new("RGB", (9, 9), "white")
