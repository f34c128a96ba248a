"""Figures: each function draws finished numbers on matplotlib axes, new ones unless some are given."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from thaw import text as formats

INK, MUTED, RULE, PAPER = "#1d2127", "#5d6671", "#dfe2e6", "#ffffff"
ARM_COLOURS = ("#1f55b8", "#a34a0e", "#1ba580", "#7d2c80", "#c38212", "#4f555d", "#911628", "#977a4b")
"""An arm has one of these by its name, or its place: see `arm_places`. Any two of the first five lie 20 apart in
CIELAB, to people with protanopia, deuteranopia and tritanopia too (Machado et al., IEEE TVCG 15, 2009)."""
ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
OWN_PLACES = {"scratch": 0, "head": 1, "last-stage": 2, "everything": 3}
"""The places of the usual arms, so that each has the same colour in every run."""
SPLIT_OPACITIES = {"train": 0.9, "validation": 0.55, "test": 0.25}
MAX_NAMED = 20
"""Classes whose names and counts a figure has room for."""

THEME = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    **{colour: f"var(--arm-{place})" for place, colour in enumerate(ARM_COLOURS)},
}
"""The CSS value that stands for each colour in the page; `page.css` gives it for light and dark."""


def arm_places(arms: Iterable[str]) -> dict[str, int]:
    """Return the place of each arm of a study among the colours; `arms` are all of them, in the order of the recipe.

    The usual arms have places of their own. The others follow in their order: first the fifth, then those of the five
    that are left, which are easily told apart, then the rest.
    """
    arms = list(arms)
    taken = {arm: OWN_PLACES[arm] for arm in arms if arm in OWN_PLACES}
    fifth = len(OWN_PLACES)
    free = (
        place for place in (fifth, *range(fifth), *range(fifth + 1, fifth + len(arms))) if place not in taken.values()
    )
    return {arm: taken[arm] if arm in taken else next(free) for arm in arms}


def arm_colour(place: int) -> str:
    """Return the colour of a place."""
    return ARM_COLOURS[place % len(ARM_COLOURS)]


def arm_marker(place: int) -> str:
    """Return the marker of a place; where colours come again, they come with other markers."""
    return ARM_MARKERS[(place + place // len(ARM_COLOURS)) % len(ARM_MARKERS)]


def plot_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    quantity: str,
    validation: Mapping[str, Sequence[Sequence[float]]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot `loss` or `accuracy` over the epochs: for each arm its values by seed and epoch.

    The line is the mean over the seeds, each seed faint behind it; `validation`, in the same form, is dashed. An arm
    without epochs is left out.
    """
    ax = ax or new_axes(4.6, 3.2)
    places = arm_places(curves)
    for arm, seeds in curves.items():
        if not any(seeds):  # its head was fitted, or it stopped in the first epoch
            continue
        place = places[arm]
        colour, marker = arm_colour(place), arm_marker(place)
        for values in seeds if len(seeds) > 1 else ():
            ax.plot(range(1, len(values) + 1), values, color=colour, alpha=0.3, linewidth=1)
        mean = mean_curve(seeds)
        epochs = range(1, len(mean) + 1)
        ax.plot(epochs, mean, color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=_name(arm))
        if validation:
            mean = mean_curve(validation[arm])
            ax.plot(epochs, mean, color=colour, marker=marker, markersize=3, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    ax.margins(x=0.04, y=0.08)
    if quantity == "accuracy":
        ax.yaxis.set_major_formatter(percent_tick)
    finish(ax, quantity)
    legend(ax)
    return ax


def mean_curve(seeds: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Average over the seeds each epoch that all of them reached: training may stop early."""
    shortest = min(map(len, seeds))
    mean: NDArray[np.float64] = np.mean([values[:shortest] for values in seeds], axis=0)
    return mean


def plot_search(
    searches: Mapping[str, Sequence[Mapping[float, float]]],
    chosen: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
) -> Axes:
    """Plot validation accuracy against learning rate: for each arm, by seed, the accuracy of each learning rate.

    A ring marks the one that was chosen, again by arm and seed; an arm for which none was is left out.
    """
    ax = ax or new_axes(4.6, 3.2)
    places = arm_places(searches)
    for arm, seeds in searches.items():
        colour, marker = arm_colour(places[arm]), arm_marker(places[arm])
        opacity = 0.5 if len(seeds) > 1 else 1
        for number, (tried, winner) in enumerate(zip(seeds, chosen[arm], strict=True) if chosen[arm] else ()):
            rates = sorted(tried)
            found = [tried[rate] for rate in rates]
            label = _name(arm) if number == 0 else None
            ax.plot(rates, found, color=colour, marker=marker, markersize=4.5, alpha=opacity, label=label)
            ax.plot(winner, tried[winner], "o", markersize=11, markerfacecolor="none", markeredgecolor=colour)
    rates = sorted({rate for seeds in searches.values() for tried in seeds for rate in tried})
    ticks = rates[:: -(-len(rates) // 7)]
    ax.set_xscale("log")
    ax.set_xlim(rates[0] / 2, rates[-1] * 2)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks, [formats.rate(rate) for rate in ticks])
    ax.set_xlabel("learning rate")
    ax.margins(y=0.12)
    ax.yaxis.set_major_formatter(percent_tick)
    finish(ax, "accuracy on validation")
    legend(ax)
    return ax


def plot_accuracies(
    accuracies: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple[float, float]], ax: Axes | None = None
) -> Axes:
    """Plot the test accuracy of each arm, a dot for each seed over its interval; the mean is written beside it."""
    ax = ax or new_axes(4.8, 0.7 + 0.36 * len(accuracies))
    places = arm_places(accuracies)
    for place, (arm, seeds) in enumerate(accuracies.items()):
        colour, end = arm_colour(places[arm]), max(*seeds, intervals[arm][1])
        ax.plot(intervals[arm], (place, place), color=colour, alpha=0.3, linewidth=7, solid_capstyle="round")
        ax.plot(seeds, [place] * len(seeds), arm_marker(places[arm]), color=colour, markersize=7, markeredgecolor=PAPER)
        _beside(ax, end, place, formats.percent(float(np.mean(seeds))), INK)
    ax.set_yticks(range(len(accuracies)), [_name(arm) for arm in accuracies])
    ax.set_ylim(len(accuracies) - 0.5, -0.5)
    low, high = ax.get_xlim()
    # room for the numbers on the right
    ax.set_xlim(low, high + 0.12 * (high - low))
    ax.set_xticks(
        [
            tick
            for tick in MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)
            if low <= tick <= min(high, 1)
        ]
    )
    ax.xaxis.set_major_formatter(percent_tick)
    ax.set_xlabel("test accuracy")
    finish(ax, "", across=False)
    for label in ax.get_yticklabels():
        label.set_color(INK)
    return ax


def plot_confusion(
    matrix: NDArray[np.int64], classes: Sequence[str], colour: str = ARM_COLOURS[0], ax: Axes | None = None
) -> Axes:
    """Plot a confusion matrix, (classes, classes), a row for each true class: counts, shaded by fraction of the row.

    Counts are written out; with up to four classes, so are the fractions. It has room for 20 classes.
    """
    number = len(classes)
    roomy = number <= 4
    side = min(1.8 + 0.36 * number, 6)
    ax = ax or new_axes(side + 0.3, side)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    for (row, column), fraction in np.ndenumerate(fractions):
        if fraction:
            # the shade stays light enough for the ink of either theme to read on it
            opacity = 0.05 + 0.45 * float(fraction)
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=opacity, linewidth=0))
        if roomy:
            _centred(ax, column, row - 0.1, formats.count(int(matrix[row, column])), 14 - number)
            _centred(ax, column, row + 0.2, formats.percent(fraction), 10 - 0.5 * number)
        else:
            _centred(ax, column, row, formats.count(int(matrix[row, column])), 9 if number < 10 else 6.5)
    ax.set_xlim(-0.5, number - 0.5)
    ax.set_ylim(number - 0.5, -0.5)
    ax.set_aspect("equal")
    labels = [formats.short(name, 14) for name in classes]
    level = sum(map(len, labels)) <= 20
    ax.set_xticks(range(len(labels)), labels, rotation=0 if level else 40, ha="center" if level else "right")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_xlabel("predicted")
    finish(ax, "true")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=True, color=RULE)
    return ax


def plot_class_counts(
    counts: Mapping[str, Mapping[str, int]], colour: str = ARM_COLOURS[0], ax: Axes | None = None
) -> Axes:
    """Plot the images of each class, stacked by split: for each split its counts by class."""
    classes = list(next(iter(counts.values())))
    named = len(classes) <= MAX_NAMED
    ax = ax or new_axes(4.6, min(1 + 0.32 * len(classes), 7))
    rows = range(len(classes))
    height = 0.66 if named else 1
    totals = np.zeros(len(classes))
    for split, of_split in counts.items():
        numbers = np.array([of_split[name] for name in classes])
        # paper beneath, so that the rules do not show through
        ax.barh(rows, numbers, height, left=totals, color=PAPER, linewidth=0)
        ax.barh(
            rows, numbers, height, left=totals, color=colour, alpha=SPLIT_OPACITIES[split], linewidth=0, label=split
        )
        totals += numbers
    for place, total in enumerate(totals if named else ()):
        _beside(ax, total, place, formats.count(total), MUTED)
    ax.set_yticks(rows if named else [], [formats.short(name, 18) for name in classes if named])
    ax.set_ylim(len(classes) - 0.5, -0.5)
    ax.set_xlim(0, max(totals.max(), 1) * 1.15)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: formats.count(value))
    ax.set_xlabel("images")
    finish(ax, "", across=False)
    legend(ax)
    return ax


def new_axes(width: float, height: float) -> Axes:
    """Make axes in a new figure of this size, in inches."""
    axes: Axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    return axes


def percent_tick(fraction: float, _: object) -> str:
    """Write a fraction as an axis does, in percent."""
    return f"{100 * fraction:.4g}%"


def _name(arm: str) -> str:
    return formats.short(arm, 24)


def _beside(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    ax.annotate(text, (x, y), (8, 0), textcoords="offset points", va="center_baseline", color=colour, fontsize=9)


def _centred(ax: Axes, x: float, y: float, text: str, size: float) -> None:
    ax.text(x, y, text, ha="center", va="center_baseline", color=INK, fontsize=size)


def legend(ax: Axes) -> None:
    """Put the legend above the axes, in as many columns as fit, row by row."""
    handles, labels = ax.get_legend_handles_labels()
    fitting = max(1, 56 // (max(map(len, labels)) + 7))
    columns = -(-len(labels) // -(-len(labels) // fitting))
    # matplotlib fills columns first; this order reads row by row
    order = [place for column in range(columns) for place in range(column, len(labels), columns)]
    legend = ax.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.6,
        borderaxespad=0.2,
    )
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):
            handle.set_alpha(1)


def finish(ax: Axes, ylabel: str, across: bool = True) -> None:
    """Give axes the look of all figures: no box, faint rules across or upright, names taken literally."""
    ax.set_ylabel(ylabel)
    ax.set_facecolor("none")
    ax.spines[["top", "right", "bottom" if across else "left"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(RULE)
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis="y" if across else "x", color=RULE, linewidth=0.8)
    ax.tick_params(which="both", colors=MUTED, labelsize=9, length=0, pad=5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=MUTED, fontsize=9)
    for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]:
        label.set_parse_math(False)
