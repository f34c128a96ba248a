"""Image files of every format with bytes cut off or overwritten: pixels and a header, or thaw's own error, in time."""

import contextlib
import io
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.guard import fuzzed
from thaw.images.decode import BadImageError, decode_picture
from thaw.images.depth import may_be_deep, measure
from thaw.images.files import open_image
from thaw.images.header import read_header
from thaw.images.preprocessing import Preprocessing

SQUARE = Preprocessing(16, "squash", "bilinear", 1.0, (0.5,) * 3, (0.5,) * 3)
SECONDS = 2.0
"""Of a core; no small image may take longer."""
MEGAPIXELS = 20_000_000
"""Pixels that a file may say it has for each further `SECONDS`; up to `MAX_PIXELS` are decoded."""
FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("RGB", {}),
    "MPO": ("RGB", {"save_all": True}),
    "PNG": ("RGBA", {}),
    "APNG": ("RGB", {"save_all": True}),
    "WEBP": ("RGB", {"save_all": True}),
    "GIF": ("P", {"save_all": True}),
    "BMP": ("RGB", {}),
    "TIFF": ("RGB", {"save_all": True, "compression": "tiff_lzw"}),
    "TIFF-16": ("I;16", {}),
    "TIFF-float": ("F", {"compression": "tiff_adobe_deflate"}),
    "PPM": ("RGB", {}),
    "JPEG2000": ("RGB", {}),
    "ICO": ("RGBA", {"sizes": [(32, 24)]}),
    "TGA": ("RGB", {"compression": "tga_rle"}),
    "PCX": ("RGB", {}),
}
"""For each the mode, and what `save` is told; those of several frames have three."""


def whole(name: str) -> bytes:
    """A small image file of a format."""
    mode, options = FORMATS[name]
    frames = []
    for seed in range(3):
        values = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        grey = values[:, :, 0]
        deep = {"I;16": grey.astype(np.uint16) * 16, "F": grey.astype(np.float32) / 255}
        frames.append(Image.fromarray(deep[mode]) if mode in deep else Image.fromarray(values).convert(mode))
    buffer = io.BytesIO()
    more = {"append_images": frames[1:]} if "save_all" in options else {}
    kind = {"APNG": "PNG"}.get(name, name).partition("-")[0]
    frames[0].save(buffer, kind, **options, **more)
    return buffer.getvalue()


WHOLE = {name: whole(name) for name in FORMATS}


def is_handled(content: bytes) -> None:
    """Everything that reads a stranger's image reads this one, or says in its own error why it cannot."""
    start = time.thread_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as those who decode do
        kind, width, height, moves = read_header(content)
        assert (kind == "") == (width == height == 0)
        assert isinstance(moves, bool)
        if may_be_deep(content):
            measure(content, 1 << 24)
        with contextlib.suppress(BadImageError):
            assert decode_picture(content, SQUARE, "exact").shape == (16, 16, 3)
    assert time.thread_time() - start < SECONDS * (1 + width * height / MEGAPIXELS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_is_read(name: str) -> None:
    kind, width, height, moves = read_header(WHOLE[name])
    assert kind == {"MPO": "JPEG", "APNG": "PNG"}.get(name, name).partition("-")[0]
    assert (width, height) == (32, 24)
    assert moves == ("save_all" in FORMATS[name][1] and name != "MPO")
    assert decode_picture(WHOLE[name], SQUARE, "exact").any()
    assert may_be_deep(WHOLE[name]) >= name.startswith("TIFF-")


@fuzzed
@given(st.sampled_from(list(FORMATS)), st.floats(0, 1))
def test_a_file_cut_off_anywhere(name: str, where: float) -> None:
    is_handled(WHOLE[name][: int(where * len(WHOLE[name]))])


@fuzzed
@given(st.sampled_from(list(FORMATS)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8))
def test_a_file_with_bytes_overwritten(name: str, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE[name])
    for place, value in changes:
        content[place % min(len(content), 400 if value % 2 else 10**6)] = value  # headers most of all
    is_handled(bytes(content))


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0" * 2048 + b"PCD_" + b"\0" * 4096], ids=str
)
def test_formats_that_run_programs_or_that_nobody_looks_after_are_not_images(content: bytes) -> None:
    with pytest.raises(BadImageError, match=r"is not an image|cannot be decoded"):
        decode_picture(content, SQUARE, "exact")
    assert read_header(content)[0] not in ("EPS", "PCD")
    with pytest.raises(OSError, match=r"."), open_image(content) as opened:
        opened.load()
