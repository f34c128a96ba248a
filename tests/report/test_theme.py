"""Figures, report and served page have the same colours."""

import re
from importlib import resources

from thaw.report import figures


def test_figures_are_drawn_in_the_light_theme() -> None:
    theme = resources.files("thaw.report").joinpath("theme.css").read_text("utf-8")
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", theme.partition("@media")[0]))
    for colour, value in figures.THEME.items():
        name = "ink" if value == "currentColor" else value.removeprefix("var(--").removesuffix(")")
        assert light[name] == colour, name
    assert len([name for name in light if name.startswith("arm-")]) == len(figures.ARM_COLOURS)


def test_no_other_stylesheet_has_colours_of_its_own() -> None:
    for package in ("thaw.report", "thaw.serve"):
        style = resources.files(package).joinpath("page.css").read_text("utf-8")
        assert not re.findall(r"#[0-9a-f]{6}\b|prefers-color-scheme", style)
