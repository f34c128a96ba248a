"""The figures draw the numbers they are given, and become SVG that fits a page."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from thaw.report.error_figures import plot_cost, plot_precision_recall, plot_reliability, plot_roc, plot_slices
from thaw.report.figures import (
    ARM_COLOURS,
    THEME,
    arm_colour,
    arm_marker,
    arm_places,
    plot_accuracies,
    plot_class_counts,
    plot_confusion,
    plot_curves,
    plot_search,
)
from thaw.report.svg import inline_svg, png
from thaw.scoring.calibration import ReliabilityBin
from thaw.scoring.curves import Curves
from thaw.scoring.slices import SliceScores
from thaw.text import SPACE


def lines(ax):
    """The labelled lines of some axes: label to (x, y, colour)."""
    shown = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()), to_hex(line.get_color())) for line in shown
    }


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("arms", "places"),
    [
        (("scratch", "head", "last-stage", "everything"), [0, 1, 2, 3]),
        (("everything", "head"), [3, 1]),
        (("scratch", "head", "last-two-fc"), [0, 1, 4]),
        (("a", "head", "b", "c"), [4, 1, 0, 2]),
        ((), []),
    ],
)
def test_an_arm_has_the_same_colour_in_every_run(arms, places):
    assert list(arm_places(arms).items()) == list(zip(arms, places, strict=True))


def test_twenty_arms_look_different():
    places = arm_places(f"arm {number}" for number in range(20)).values()
    assert sorted(places) == list(range(20))
    assert len({(arm_colour(place), arm_marker(place)) for place in places}) == 20


def test_the_time_axis_has_ticks_of_a_clock():
    seconds = {"head": 7.0, "all": 300.0}
    ax = plot_cost(seconds, {"head": 0.8, "all": 0.9}, dict.fromkeys(seconds, (0.7, 0.95)), "seconds of training")
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    shown = [label.get_text() for place, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)]
    assert low < ax.get_xticks()[0]
    assert ax.get_xticks()[-1] < high
    assert shown == ["5 s", "20 s", f"1{SPACE}min", f"5{SPACE}min"]


def test_curves_show_each_arm_in_its_colour():
    ax = plot_curves({"scratch": [[0.9, 0.5, 0.4]], "head": [[0.6, 0.3, 0.2]]}, "loss")
    assert lines(ax) == {
        "scratch": ([1, 2, 3], [0.9, 0.5, 0.4], ARM_COLOURS[0]),
        "head": ([1, 2, 3], [0.6, 0.3, 0.2], ARM_COLOURS[1]),
    }
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert len(ax.get_lines()) == 2


def test_curves_of_several_seeds_show_each_and_their_mean():
    ax = plot_curves({"head": [[0.5, 0.25], [0.75, 0.25]]}, "accuracy", validation={"head": [[0.5, 0.0], [0.5, 0.5]]})
    assert lines(ax)["head"][1] == [0.625, 0.25]
    drawn = [list(line.get_ydata()) for line in ax.get_lines()]
    assert drawn == [[0.5, 0.25], [0.75, 0.25], [0.625, 0.25], [0.5, 0.25]]
    assert ax.get_lines()[-1].get_linestyle() == "--"


def test_search_rings_the_chosen_rate_of_each_seed():
    trials = {"head": [{1e-3: 0.8, 1e-5: 0.6}, {1e-5: 0.7, 1e-3: 0.65}]}
    ax = plot_search(trials, {"head": [1e-3, 1e-5]})
    assert lines(ax)["head"] == ([1e-5, 1e-3], [0.6, 0.8], ARM_COLOURS[1])
    rings = [line for line in ax.get_lines() if line.get_markerfacecolor() == "none"]
    assert [(*ring.get_xdata(), *ring.get_ydata()) for ring in rings] == [(1e-3, 0.8), (1e-5, 0.7)]
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1e-5", "1e-3"]


def test_confusion_writes_counts_and_shares_of_the_row():
    ax = plot_confusion(np.array([[30, 10], [0, 60]]), ["female", "male"], arm_colour(2))
    assert texts(ax) == ["30", "75.0%", "10", "25.0%", "0", "0.0%", "60", "100.0%"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["female", "male"]
    assert len(ax.patches) == 3
    assert {to_hex(patch.get_facecolor()) for patch in ax.patches} == {ARM_COLOURS[2]}
    darkest = max(ax.patches, key=lambda patch: patch.get_alpha())
    assert darkest.get_xy() == (0.5, 0.5)


def test_curves_mark_where_an_arm_answers():
    curves = {
        "head": Curves(
            roc=[(0, 0), (0.1, 0.8), (1, 1)],
            precision_recall=[(1, 0.2), (0.8, 0.7), (0, 1)],
            roc_at_half=(0.1, 0.8),
            precision_recall_at_half=(0.8, 0.7),
        )
    }
    for ax, guessing, line, dot in (
        (plot_roc(curves), ([0, 1], [0, 1]), ([0, 0.1, 1], [0, 0.8, 1]), (0.1, 0.8)),
        (plot_precision_recall(curves, 0.2), ([0, 1], [0.2, 0.2]), ([1, 0.8, 0], [0.2, 0.7, 1]), (0.8, 0.7)),
    ):
        drawn = [(list(one.get_xdata()), list(one.get_ydata())) for one in ax.get_lines()]
        assert drawn == [guessing, line, ([dot[0]], [dot[1]])]
        assert [one.get_text() for one in ax.get_legend().get_texts()] == ["head"]


def test_confusion_of_a_class_without_images_is_blank():
    assert len(plot_confusion(np.array([[5, 0], [0, 0]]), ["a", "b"]).patches) == 1


def test_accuracies_show_seeds_interval_and_mean():
    ax = plot_accuracies({"head": [0.9, 0.92], "all": [0.95]}, {"head": (0.88, 0.93), "all": (0.93, 0.97)})
    assert texts(ax) == ["91.0%", "95.0%"]
    drawn = [list(line.get_xdata()) for line in ax.get_lines()]
    assert drawn == [[0.88, 0.93], [0.9, 0.92], [0.93, 0.97], [0.95]]


def test_class_counts_are_stacked():
    counts = {"train": {"a": 30, "b": 20}, "validation": {"a": 3, "b": 2}, "test": {"a": 5, "b": 4}}
    ax = plot_class_counts(counts)
    assert texts(ax) == ["38", "26"]
    bars = {bar.get_label(): [(patch.get_x(), patch.get_width()) for patch in bar] for bar in ax.containers}
    assert bars["train"] == [(0, 30), (0, 20)]
    assert bars["test"] == [(33, 5), (22, 4)]


def test_curves_of_seeds_that_stopped_early_have_the_mean_of_what_all_reached():
    ax = plot_curves({"head": [[0.5, 0.25, 0.125], [0.75, 0.25]]}, "loss")
    assert lines(ax)["head"][:2] == ([1, 2], [0.625, 0.25])


def test_cost_puts_each_arm_at_its_price():
    costs, accuracies = {"head": 10.0, "all": 1000.0, "bias": 20.0}, {"head": 0.8, "all": 0.9, "bias": 0.801}
    ax = plot_cost(
        costs, accuracies, {arm: (value - 0.1, value + 0.05) for arm, value in accuracies.items()}, "seconds"
    )
    dots = [(*line.get_xdata(), *line.get_ydata()) for line in ax.get_lines() if len(line.get_xdata()) == 1]
    assert dots == [(10.0, 0.8), (1000.0, 0.9), (20.0, 0.801)]
    bands = [tuple(line.get_ydata()) for line in ax.get_lines() if len(line.get_xdata()) == 2]
    assert bands[0] == pytest.approx((0.7, 0.85))
    assert ax.get_xscale() == "log"
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == list(costs)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(ax.bbox.fully_contains(box.x0, box.y0) and ax.bbox.fully_contains(box.x1, box.y1) for box in boxes)


def test_reliability_leaves_out_empty_bins_and_grows_with_images():
    bins = [
        {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 0.75, "count": 20, "confidence": 0.7, "accuracy": 0.6},
        {"low": 0.75, "high": 1.0, "count": 80, "confidence": 0.95, "accuracy": 0.9},
    ]
    ax = plot_reliability([ReliabilityBin.model_validate(one) for one in bins], ARM_COLOURS[0])
    dots = ax.collections[-1]
    assert dots.get_offsets().tolist() == [[0.7, 0.6], [0.95, 0.9]]
    small, large = dots.get_sizes()
    assert large > 2 * small
    (diagonal,) = ax.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())


def test_slices_show_every_value_and_hollow_small_ones():
    def value(name, count, small, accuracy):
        found = {"accuracy": accuracy, "interval": [accuracy - 0.1, accuracy + 0.05]}
        told = {"value": name, "count": count, "small": small, "arms": {"head": found, "all": found}}
        return SliceScores.model_validate(told)

    ax = plot_slices([value("0-9", 12, True, 0.7), value("10-19", 4000, False, 0.9)], ["head", "all"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0-9 (12)", "10-19 (4,000)"]
    dots = [line for line in ax.get_lines() if len(line.get_xdata()) == 1]
    assert [(*line.get_xdata(), to_hex(line.get_markerfacecolor())) for line in dots] == [
        (0.7, "#ffffff"),
        (0.9, ARM_COLOURS[1]),
        (0.7, "#ffffff"),
        (0.9, ARM_COLOURS[4]),
    ]
    assert list(lines(ax)) == ["head", "all"]


def test_figures_draw_on_the_axes_they_are_given():
    left, right = Figure().subplots(1, 2)
    assert plot_curves({"head": [[0.5]]}, "loss", ax=left) is left
    assert plot_confusion(np.eye(2, dtype=int), ["a", "b"], ax=right) is right


@pytest.fixture
def svg():
    axes = plot_confusion(np.array([[3, 1], [2, 4]]), ["<b>&", "$\\frac{$"], ARM_COLOURS[1])
    return inline_svg(axes.figure, "first", 'Says "what" <it> shows', THEME)


def test_svg_follows_the_theme(svg):
    assert not re.findall(r"#[0-9a-f]{6}", svg)
    assert {"var(--arm-1)", "currentColor", "var(--muted)", "var(--rule)"} <= set(
        re.findall(r"var\([^)]+\)|currentColor", svg)
    )


def test_svg_is_small_and_keeps_text_as_text(svg):
    root = ET.fromstring(svg)
    shown = ["".join(text.itertext()) for text in root.iter("text")]
    assert {"3", "75.0%", "<b>&", "$\\frac{$", "predicted"} <= set(shown)
    assert "font-family" not in svg
    assert len(svg) < 6000
    assert root.attrib["aria-label"] == 'Says "what" <it> shows'


def test_svg_names_nothing_outside_itself():
    axes = plot_curves({"head": [[0.5, 0.4]], "all": [[0.5, 0.4]]}, "loss")
    one, other = (ET.fromstring(inline_svg(axes.figure, name, "", THEME)) for name in ("one", "other"))
    ids = [{element.attrib["id"] for element in root.iter() if "id" in element.attrib} for root in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = {use.attrib["href"] for use in one.iter("use")} | set(
        re.findall(r"url\(([^)]+)\)", ET.tostring(one, "unicode"))
    )
    assert used == {f"#{name}" for name in ids[0]}


def test_png_is_light_whatever_the_names():
    axes = plot_class_counts({"train": {"女": 3, "$\\frac{": 2}, "validation": {"女": 1, "$\\frac{": 1}})
    assert png(axes.figure).startswith(b"\x89PNG")
