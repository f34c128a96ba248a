"""A heat map looks the same in `thaw predict`, `thaw serve` and the report."""

import json
import re
from importlib import resources

import numpy as np
from matplotlib import colormaps

from thaw.images.overlay import OPACITY, STOPS, colour_heat


def test_the_colours_are_infernos() -> None:
    expected = 255 * colormaps["inferno"](np.linspace(0, 1, len(STOPS)))[:, :3]
    np.testing.assert_allclose(STOPS, expected, atol=0.5)
    coloured = colour_heat(np.arange(256, dtype=np.uint8)[None])
    assert coloured.shape == (1, 256, 4)
    np.testing.assert_array_equal(coloured[0, [0, -1], :3], [STOPS[0], STOPS[-1]])
    assert (coloured[0, 0, 3], coloured[0, -1, 3]) == (0, round(255 * OPACITY))


def test_the_report_draws_in_the_same_colours() -> None:
    script = resources.files("thaw.report").joinpath("page.js").read_text("utf-8")
    stops = re.search(r"const HEAT = (\[.*?\]);", script, re.S)
    opacity = re.search(r"const HEAT_OPACITY = (.*);", script)
    assert stops
    assert opacity
    assert json.loads(re.sub(r",\s*\]", "]", stops[1])) == [list(stop) for stop in STOPS]
    assert float(opacity[1]) == OPACITY
