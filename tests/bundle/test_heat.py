"""Heat maps of new pictures lie over them, and are hot where the network looked."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.cli import thaw
from helpers.images import encoded_image
from helpers.small_bundle import small_bundle
from thaw.images.overlay import overlay


def test_heat_maps_lie_over_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{index}.png" for index in range(10)]
    for index, file in enumerate(files):
        file.write_bytes(encoded_image(index))
    (tmp_path / "nothing.png").write_bytes(b"")
    folder = small_bundle(tmp_path / "bundle")
    arguments = (folder, *files, tmp_path / "nothing.png", "--heatmaps", tmp_path / "heat", "--out", tmp_path / "o.csv")
    assert thaw(monkeypatch, "predict", *arguments) == 0
    drawn = sorted((tmp_path / "heat").iterdir())
    assert [file.name for file in drawn] == [f"{number:06d}-{number}.png" for number in range(10)]
    assert {Image.open(io.BytesIO(file.read_bytes())).size for file in drawn} == {(32, 32)}


def test_a_heat_map_shows_where_it_is_hot() -> None:
    pixels, heat = np.full((8, 8, 3), 100, np.uint8), np.zeros((2, 2), np.uint8)
    np.testing.assert_array_equal(overlay(pixels, heat), pixels)
    heat[0, 0] = 255
    laid = overlay(pixels, heat)
    assert laid[0, 0, 0] > 150
    np.testing.assert_array_equal(laid[-1, -1], pixels[-1, -1])
