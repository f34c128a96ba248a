"""Figures of a sweep: scores against how much is thawed, and against the number of labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from thaw import text as formats
from thaw.report.error_figures import name_dots
from thaw.report.figures import MUTED, PAPER, arm_colour, arm_marker, arm_places, finish, legend, new_axes, percent_tick
from thaw.scoring.labels import LabelCurve

APART = 0.016
"""What separates two arms at the same number of images, as a fraction of the axis."""


def plot_thawed(
    thawed: Mapping[str, float],
    scores: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
    quantity: str,
    ax: Axes | None = None,
) -> Axes:
    """Plot scores with their intervals against the fraction of the arithmetic that is thawed, a named dot for each arm.

    `thawed` holds the arms that differ in depth; `scores` and `intervals` those of all, in the order of the recipe. The
    line joins the best at each depth.
    """
    ax = ax or new_axes(5.2, 3.4)
    best: dict[float, float] = {}
    for arm, x in sorted(thawed.items(), key=lambda one: one[1]):
        best[x] = max(scores[arm], best.get(x, scores[arm]))
    ax.plot(list(best), list(best.values()), color=MUTED, linewidth=1, zorder=1)
    for arm, place in arm_places(scores).items():
        if arm in thawed:
            colour, x = arm_colour(place), thawed[arm]
            ax.plot((x, x), intervals[arm], color=colour, alpha=0.3, linewidth=5, solid_capstyle="round")
            ax.plot(x, scores[arm], arm_marker(place), color=colour, markersize=7, markeredgecolor=PAPER)
    ax.set_xlim(-0.06, 1.06)
    ax.margins(y=0.12)
    ax.xaxis.set_major_formatter(percent_tick)
    _score_axis(ax, quantity)
    name_dots(ax, thawed, {arm: scores[arm] for arm in thawed})
    ax.set_xlabel("share of the network\u2019s arithmetic thawed")
    finish(ax, f"test {quantity}")
    return ax


def plot_labels(curves: Mapping[str, LabelCurve], quantity: str, ax: Axes | None = None) -> Axes:
    """Plot scores with their intervals against the images trained on, a line for each arm."""
    ax = ax or new_axes(5.2, 3.4)
    images = [point.images for point in next(iter(curves.values())).points]
    aside = np.log(images[-1] / images[0]) * APART
    places = arm_places(curves)
    for turn, (arm, curve) in enumerate(curves.items()):
        place = places[arm]
        colour, shift = arm_colour(place), np.exp(aside * (turn - (len(curves) - 1) / 2))
        xs = [point.images * shift for point in curve.points]
        for x, point in zip(xs, curve.points, strict=True):
            ax.plot((x, x), point.interval, color=colour, alpha=0.3, linewidth=3.5, solid_capstyle="round")
        ys = [point.score for point in curve.points]
        label = formats.short(arm, 24)
        ax.plot(xs, ys, color=colour, marker=arm_marker(place), markersize=6, markeredgecolor=PAPER, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(images))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(images, [formats.count(number) for number in images])
    _score_axis(ax, quantity)
    ax.set_xlabel("images trained on")
    finish(ax, f"test {quantity}")
    legend(ax)
    return ax


def _score_axis(ax: Axes, quantity: str) -> None:
    if quantity != "log likelihood":  # all others end at 1
        ax.set_ylim(top=min(ax.get_ylim()[1], 1.01))
    if quantity == "accuracy":
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(percent_tick)
