"""HEIC and JPEG XL: read with the packages that decode them, else named with what to install."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import make_class_folders
from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.images import files, jxl
from thaw.images.decode import BadImageError, decode_picture
from thaw.images.files import open_image
from thaw.images.header import read_header
from thaw.images.preprocessing import Preprocessing
from thaw.progress import Clock
from thaw.recipe import load_recipe

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAGkAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5j"
    "bHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAHFtZGF0AAAAZSgBrxOA5TH3/83xP+ZRP8/yZk6gxCi+kpf8+i/f"
    "6LEG46e/9+b8W5L+oxiCjRnyL/8t4ZP3mvAlNc58Vpo/a3151FJatw/d2ehbS1w3G9mfxKjv7Ct7JWTHxNuH22RLra/jL5Fc"
)
"""64 x 48 pixels, black; its left half has red 220, its lower half green 180. Encoded by pillow-heif."""
SEEN = Preprocessing((24, 32), "squash", "bilinear", 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def quarters() -> Image.Image:
    """Return what `HEIC` shows."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32, 0], pixels[24:, :, 1] = 220, 180
    return Image.fromarray(pixels)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as where neither package is installed."""
    own = [name for name in files.readable_formats() if name not in files.EXTRAS]
    monkeypatch.setattr(files, "readable_formats", lambda: own)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (HEIC, r"is a HEIC image, which takes pi-heif to read: pip install 'thaw-vision\[heic\]'"),
        (HEIC[:8] + b"mif1" + HEIC[12:], "is a HEIC image"),
        (
            jxl.STARTS[0] + bytes(30),
            r"is a JPEG XL image, which takes pillow-jxl-plugin to read: pip install pillow-jxl-plugin",
        ),
        (jxl.STARTS[1] + bytes(30), "is a JPEG XL image"),
        (b"\0\0\0\x1cftypmp42" + bytes(30), "is not an image in a format that can be read"),
    ],
)
def test_what_to_install_is_said(content: bytes, what: str) -> None:
    with pytest.raises(BadImageError, match=what):
        decode_picture(content, SEEN, "exact")
    assert read_header(content) == ("", 0, 0, False)


@pytest.mark.usefixtures("plain")
def test_a_study_without_the_package_skips_the_image_and_says_why(tmp_path: Path) -> None:
    folder = make_class_folders(tmp_path / "pictures")
    (folder / "left" / "phone.HEIC").write_bytes(HEIC)
    recipe = load_recipe(
        "photos",
        str(folder),
        (
            *SETTLED,
            "images.size=32",
        ),
    )
    dataset = load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())
    assert len(dataset.source.ids) == 60
    (skipped,) = dataset.source.skipped
    assert (skipped.id, skipped.bad) == ("left/phone.HEIC", True)
    assert "pip install 'thaw-vision[heic]'" in skipped.reason


def test_heic_is_read() -> None:
    pytest.importorskip("pi_heif", reason="needs the extra `heic`")
    found = decode_picture(HEIC, SEEN, "exact").astype(int)
    expected = np.asarray(quarters().resize((32, 24), Image.Resampling.BILINEAR))
    away = np.abs(np.arange(24) - 11.5)[:, None] + 0 * np.arange(32)
    away = np.minimum(away, np.abs(np.arange(32) - 15.5))
    assert np.abs(found - expected)[away > 3].max() < 8  # but for the edges, which the encoder blurs
    assert read_header(HEIC) == ("HEIF", 64, 48, False)
    with pytest.raises(BadImageError):
        decode_picture(HEIC[:400], SEEN, "exact")


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (40, 8), (257, 300), (4096, 2160)])
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl_is_read_and_its_size_is_known_before(size: tuple[int, int], container: bool) -> None:
    pytest.importorskip("pillow_jxl", reason="needs pillow-jxl-plugin")
    files.readable_formats()
    buffer, image = io.BytesIO(), quarters().resize(size)
    image.save(buffer, "JXL", lossless=True, effort=1, use_container=container)
    assert jxl.read_size(buffer.getvalue()) == size
    assert read_header(buffer.getvalue()) == ("JXL", *size, False)
    with open_image(buffer.getvalue()) as opened:
        assert np.array_equal(np.asarray(opened), np.asarray(image))


def header(*fields: tuple[int, int]) -> bytes:
    """Return a codestream that begins with these fields, each a value and its bits."""
    value = at = 0
    for number, bits in fields:
        value |= number << at
        at += bits
    return jxl.STARTS[0] + value.to_bytes(16, "little")


SIZES = {
    header((1, 1), (5, 5), (0, 3), (7, 5)): (64, 48),
    header((1, 1), (5, 5), (3, 3)): (64, 48),
    header((0, 1), (0, 2), (299, 9), (0, 3), (0, 2), (256, 9)): (257, 300),
    header((0, 1), (1, 2), (2159, 13), (5, 3)): (3840, 2160),
    header((0, 1), (3, 2), ((1 << 30) - 1, 30), (7, 3)): (1 << 31, 1 << 30),
    header((0, 1), (2, 2), (99_999, 18), (0, 3), (2, 2), (199_999, 18)): (200_000, 100_000),
}
"""By hand from ISO/IEC 18181-1, `SizeHeader`."""


@pytest.mark.parametrize("codestream", SIZES, ids=lambda one: str(SIZES[one]))
def test_the_size_in_a_header_of_jpeg_xl(codestream: bytes) -> None:
    def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
        return (len(content) + 8 if size is None else size).to_bytes(4, "big") + kind + content

    start = jxl.STARTS[1] + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    whole = start + box(b"jxlc", codestream)
    to_the_end = start + box(b"jxlc", codestream, 0)
    parts = start + box(b"jxlp", bytes(4) + codestream[:5]) + box(b"jxlp", bytes(4) + codestream[5:])
    for content in (codestream, whole, to_the_end, parts):
        assert jxl.read_size(content) == SIZES[codestream]
    for content in (codestream[:9], start, whole[:-9], start + box(b"free", codestream)):
        with pytest.raises(ValueError, match="holds no image"):
            jxl.read_size(content)


def test_a_jpeg_xl_bomb_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the plugin is there or not: it would decode the image as it opens it."""
    monkeypatch.setattr(files, "readable_formats", lambda: ["PNG", "JXL"])
    bomb = header((0, 1), (2, 2), (99_999, 18), (0, 3), (2, 2), (199_999, 18))
    with pytest.raises(BadImageError, match="200,000 x 100,000 pixels are more than is safe"):
        decode_picture(bomb, SEEN, "exact")
