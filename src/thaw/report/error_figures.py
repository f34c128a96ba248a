"""Figures of where arms fail and what they cost: slices, calibration, thresholds, accuracy against cost."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from thaw import text as formats
from thaw.report.figures import (
    INK,
    MUTED,
    PAPER,
    RULE,
    arm_colour,
    arm_marker,
    arm_places,
    finish,
    legend,
    new_axes,
    percent_tick,
)
from thaw.scoring.calibration import ReliabilityBin
from thaw.scoring.curves import Curves, Point
from thaw.scoring.slices import SliceScores

STOPS = 30
"""Points of a line from dot to dot that names keep away from."""
MAX_SLICES = 40
"""Slices of a column that its figure has room for; the table has all."""

BESIDE = (
    *((7.0, 0.0, "left"), (-7.0, 0.0, "right"), (0.0, 12.0, "center"), (0.0, -12.0, "center")),
    *((6.0, 10.0, "left"), (-6.0, 10.0, "right"), (6.0, -10.0, "left"), (-6.0, -10.0, "right")),
)
"""Where the name of a dot may go, in points from it, and how it is aligned; the first is best."""


def plot_cost(
    costs: Mapping[str, float],
    accuracies: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
    quantity: str,
    ax: Axes | None = None,
) -> Axes:
    """Plot test accuracy with its interval against a cost, above 0, on a logarithmic axis, a named dot for each arm."""
    ax = ax or new_axes(4.6, 3.2)
    for arm, place in arm_places(costs).items():
        colour, x, y = arm_colour(place), costs[arm], accuracies[arm]
        ax.plot((x, x), intervals[arm], color=colour, alpha=0.3, linewidth=5, solid_capstyle="round")
        ax.plot(x, y, arm_marker(place), color=colour, markersize=7, markeredgecolor=PAPER)
    ax.set_xscale("log")
    low, high = min(costs.values()), max(costs.values())
    ax.set_xlim(low / 2.2, high * 2.2)
    ax.margins(y=0.12)
    if quantity.startswith("seconds"):
        ax.xaxis.set_major_locator(FixedLocator(_times(low / 2.2, high * 2.2)))
    elif high / low < 10:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value, quantity)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(percent_tick)
    name_dots(ax, costs, accuracies)
    ax.set_xlabel(quantity)
    finish(ax, "test accuracy")
    return ax


def name_dots(ax: Axes, across: Mapping[str, float], up: Mapping[str, float]) -> None:
    """Write the name of each arm beside its dot at these values, once the limits of the axes are final."""
    for arm, (right, above, align) in _beside_dots(ax, across, up).items():
        ax.annotate(
            formats.short(arm, 24),
            (across[arm], up[arm]),
            (right, above),
            textcoords="offset points",
            ha=align,
            va="center_baseline",
            color=INK,
            fontsize=9,
        )


def plot_reliability(bins: Sequence[ReliabilityBin], colour: str, ax: Axes | None = None) -> Axes:
    """Plot a reliability diagram: for each bin of confidence that holds images, their accuracy.

    A dot's area grows with the images in its bin; on the diagonal, confidence equals accuracy.
    """
    ax = ax or new_axes(2.7, 2.7)
    filled = [it for it in bins if it.count]
    x, y = np.array([(it.confidence, it.accuracy) for it in filled], dtype=float).reshape(-1, 2).T
    fraction = np.array([it.count for it in filled]) / max(1, sum(it.count for it in filled))
    ax.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    ax.vlines(x, x, y, color=colour, alpha=0.3, linewidth=3)
    ax.scatter(x, y, s=18 + 160 * fraction, color=colour, edgecolor=PAPER, zorder=3)
    # the same ends for every arm, so that the diagrams compare
    ax.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.06), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(percent_tick)
    ax.set_xlabel("confidence")
    finish(ax, "accuracy")
    return ax


def plot_roc(curves: Mapping[str, Curves], ax: Axes | None = None) -> Axes:
    """Plot the ROC curve of each arm, with a dot where it answers; on the dashed diagonal it would guess."""
    lines = {arm: (it.roc, it.roc_at_half) for arm, it in curves.items()}
    return _plot_trade(lines, ((0, 1), (0, 1)), ("false positive rate", "recall"), ax)


def plot_precision_recall(curves: Mapping[str, Curves], share: float, ax: Axes | None = None) -> Axes:
    """Plot the precision-recall curve of each arm, with a dot where it answers; guessing reaches the dashed `share`."""
    lines = {arm: (it.precision_recall, it.precision_recall_at_half) for arm, it in curves.items()}
    return _plot_trade(lines, ((0, 1), (share, share)), ("recall", "precision"), ax)


def plot_risk(curves: Mapping[str, Sequence[Point]], ax: Axes | None = None) -> Axes:
    """Plot the fraction of wrong answers of each arm against the fraction of images answered, the surest first.

    An arm without points is left out.
    """
    ax = ax or new_axes(4.6, 3.2)
    for arm, place in arm_places(curves).items():
        if not curves[arm]:
            continue
        x, y = np.array(curves[arm]).T
        ax.plot(x, y, color=arm_colour(place), linewidth=1.6)
        end = ax.plot(x[-1], y[-1], arm_marker(place), color=arm_colour(place), zorder=3, label=formats.short(arm, 24))
        end[0].set(markersize=7.5, markeredgecolor=PAPER)
    ax.set_xlim(0, 1.03)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MultipleLocator(0.25))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(percent_tick)
    ax.set_xlabel("images answered")
    finish(ax, "wrong among them")
    legend(ax)
    return ax


def plot_slices(values: Sequence[SliceScores], arms: Sequence[str], ax: Axes | None = None) -> Axes:
    """Plot the accuracy of each arm in each slice of a column, a dot over its interval; hollow where it is small."""
    values = values[:MAX_SLICES]
    step = 0.16
    ax = ax or new_axes(5.4, 0.9 + len(values) * (0.2 + step * len(arms)))
    spread = 0.72 * (np.arange(len(arms)) - (len(arms) - 1) / 2) / max(1, len(arms))
    places = arm_places(arms)
    for turn, arm in enumerate(arms):
        colour, marker = arm_colour(places[arm]), arm_marker(places[arm])
        for row, it in enumerate(values):
            y, found = row + spread[turn], it.arms[arm]
            opacity = 0.16 if it.small else 0.3
            ax.plot(found.interval, (y, y), color=colour, alpha=opacity, linewidth=4, solid_capstyle="round")
            face = PAPER if it.small else colour
            edge = colour if it.small else PAPER
            ax.plot(found.accuracy, y, marker, markersize=6.5, mfc=face, mec=edge, mew=0.7)
        ax.plot([], [], marker, color=colour, markersize=6.5, label=formats.short(arm, 24))
    for row in range(1, len(values)):
        ax.axhline(row - 0.5, color=RULE, linewidth=0.6)
    names = [f"{formats.short(it.value, 22)} ({formats.count(it.count)})" for it in values]
    ax.set_yticks(range(len(values)), names)
    ax.set_ylim(len(values) - 0.45, -0.55)
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -0.02), min(high, 1.02))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(percent_tick)
    ax.set_xlabel("test accuracy")
    finish(ax, "", across=False)
    for label in ax.get_yticklabels():
        label.set_color(INK)
    legend(ax)
    return ax


def _plot_trade(
    lines: Mapping[str, tuple[Sequence[Point], Point]],
    guessing: tuple[Point, Point],
    names: tuple[str, str],
    ax: Axes | None,
) -> Axes:
    """A line for each arm, and a dot on it; `guessing` are the ends of the dashed line, by x and y."""
    ax = ax or new_axes(4.2, 4.2)
    ax.plot(*guessing, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    places = arm_places(lines)
    for arm, (points, at_half) in lines.items():
        place = places[arm]
        x, y = np.array(points).T
        ax.plot(x, y, color=arm_colour(place), linewidth=1.6)
        dot = ax.plot(*at_half, arm_marker(place), color=arm_colour(place), zorder=3, label=formats.short(arm, 24))
        dot[0].set(markersize=7.5, markeredgecolor=PAPER)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(percent_tick)
    ax.set_xlabel(names[0])
    finish(ax, names[1])
    legend(ax)
    return ax


def _beside_dots(ax: Axes, across: Mapping[str, float], up: Mapping[str, float]) -> dict[str, tuple[float, float, str]]:
    """Where each name goes, from its dot in points: right of it, left, above or below, where it covers least."""
    letter, line = 5.3, 11.0
    figure = ax.figure
    assert isinstance(figure, Figure)
    wide, high = 72 * figure.get_size_inches() - (60, 55)  # less what stands beside and below the axes
    scaled = np.log if ax.get_xscale() == "log" else np.asarray
    (left, right), (bottom, top) = scaled(ax.get_xlim()), ax.get_ylim()

    def placed(xs: ArrayLike, ys: ArrayLike) -> NDArray[np.float64]:
        """In points from the lower left corner, (n, 2)."""
        x, y = wide * (scaled(xs) - left) / (right - left), high * (np.asarray(ys) - bottom) / (top - bottom)
        return np.stack([np.atleast_1d(x), np.atleast_1d(y)], axis=1)

    dots = {arm: tuple(placed(x, up[arm])[0]) for arm, x in across.items()}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots.values()]
    for drawn in ax.get_lines():
        points = placed(drawn.get_xdata(), drawn.get_ydata())
        for (start, end), share in product(pairwise(points), np.linspace(0, 1, STOPS)):
            x, y = start + share * (end - start)
            taken.append((x - 2, y - 2, x + 2, y + 2))
    found = {}
    for arm, (x, y) in dots.items():
        width = letter * min(len(arm), 24)
        places = []
        for rank, (aside, above, align) in enumerate(BESIDE):
            start = x + aside - {"left": 0, "right": width, "center": width / 2}[align]
            box = (start, y + above - line / 2, start + width, y + above + line / 2)
            covered = sum(_overlap(box, other) for other in taken)
            outside = width * line - _overlap(box, (0, 0, wide, high))
            places.append((round(covered + outside), rank, (aside, above, align), box))
        _, _, found[arm], box = min(places)
        taken.append(box)
    return found


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The area of the overlap of two boxes, (left, bottom, right, top)."""
    across, up = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(across, 0.0) * max(up, 0.0)


def _times(low: float, high: float) -> list[float]:
    """Times between two, in seconds, that a clock shows: at most six."""
    decades = [0.001, 0.01, 0.1]
    known = [*decades, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 86400, 172800]
    inside = [one for one in known if low <= one <= high]
    return inside[:: -(-len(inside) // 6)] if inside else [low, high]


def _amount(value: float, quantity: str) -> str:
    if quantity.startswith("trained"):
        return formats.parameters(round(value)).replace(".0", "")
    return f"{value:g} s" if value < 60 else formats.seconds(value)
