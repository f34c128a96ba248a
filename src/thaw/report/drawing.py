"""Every figure of a run: drawn from `metrics.json`, written as PNG, and as SVG for the page."""

import re
import statistics
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thaw import text as formats
from thaw.cache.files import write_atomic, writing
from thaw.report.analysis import confusion
from thaw.report.error_figures import plot_cost, plot_reliability, plot_slices
from thaw.report.figures import (
    THEME,
    arm_colour,
    plot_accuracies,
    plot_class_counts,
    plot_confusion,
    plot_curves,
    plot_search,
)
from thaw.report.ranking import Metrics, accuracies, mean_accuracies
from thaw.report.svg import inline_svg, png
from thaw.scoring.comparison import spent_on

Drawn = dict[str, tuple[Axes, str]]
"""By name, the axes of a figure and a sentence that says what it shows."""


def write_figures(folder: Path, metrics: Metrics) -> dict[str, Markup]:
    """Draw every figure: as PNG into `folder`, and by name as SVG for the page. Raises StorageError."""
    with writing(folder.parent):
        folder.mkdir(exist_ok=True)
    drawn = {}
    for name, (axes, label) in {**_of_study(metrics), **_of_errors(metrics)}.items():
        figure = axes.figure
        assert isinstance(figure, Figure)
        write_atomic(folder / f"{name}.png", png(figure))
        # the layout that was found for the PNG serves the SVG too
        figure.set_layout_engine("none")
        drawn[name] = Markup(inline_svg(figure, name, label, THEME))
    return drawn


def slug(name: str, place: int) -> str:
    """A column's name as part of a figure's name, told apart by its place: `age-0`."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:24] or 'column'}-{place}".lower()


def _of_study(metrics: Metrics) -> Drawn:
    arms = metrics["arms"]
    by_arm, means = accuracies(metrics), mean_accuracies(metrics)
    told = formats.listed([f"{arm} {formats.percent(mean)}" for arm, mean in means.items()])
    intervals = {arm: it["intervals"]["accuracy"] for arm, it in arms.items()}
    trials = {
        arm: [
            {trial["learning_rate"]: trial["accuracy"] for trial in run["search"] if "failed" not in trial}
            for run in it["runs"]
        ]
        for arm, it in arms.items()
    }
    chosen = {arm: [run["learning_rate"] for run in it["runs"]] for arm, it in arms.items()}
    # a logarithmic axis has no zero
    spent = {arm: max(statistics.fmean(map(spent_on, it["runs"])), 1e-3) for arm, it in arms.items()}
    trained = {arm: max(it["parameters"]["trainable"], 1) for arm, it in arms.items()}
    return {
        "accuracy-on-test": (plot_accuracies(by_arm, intervals), f"Test accuracy of each arm: {told}."),
        "cost-seconds": (
            plot_cost(spent, means, intervals, "seconds of search and training"),
            "Test accuracy of each arm against the time of its search and training.",
        ),
        "cost-parameters": (
            plot_cost(trained, means, intervals, "trained parameters"),
            "Test accuracy of each arm against the number of parameters it trains.",
        ),
        "loss": (_curves(metrics, "loss"), "Training loss of each arm by epoch."),
        "accuracy": (_curves(metrics, "accuracy"), "Training accuracy of each arm by epoch."),
        "search": (plot_search(trials, chosen), "Validation accuracy of each arm by learning rate."),
        "classes": (plot_class_counts(metrics["data"]["counts"]), "Images of each class in each split."),
    }


def _of_errors(metrics: Metrics) -> Drawn:
    drawn = {}
    for place, (arm, it) in enumerate(metrics["arms"].items()):
        axes = plot_confusion(confusion(metrics, arm), metrics["classes"], arm_colour(place))
        drawn[f"confusion-{arm}"] = (axes, f"Confusion matrix of {arm} on the test images.")
        if calibration := it.get("calibration"):
            axes = plot_reliability(calibration["bins"], arm_colour(place))
            drawn[f"reliability-{arm}"] = (
                axes,
                f"Reliability diagram of {arm}: how often it is right when it says so.",
            )
    for place, it in enumerate(metrics.get("slices", [])):
        axes = plot_slices(it["values"], list(metrics["arms"]))
        label = f"Test accuracy of each arm by {formats.short(it['column'])}."
        drawn[f"slices-{slug(it['column'], place)}"] = (axes, label)
    return drawn


def _curves(metrics: Metrics, quantity: str) -> Axes:
    def of(name: str) -> dict[str, list[list[float]]]:
        return {
            arm: [[epoch[name] for epoch in run["epochs"]] for run in found["runs"]]
            for arm, found in metrics["arms"].items()
        }

    validation = f"validation_{quantity}"
    scored = all(validation in epoch for found in metrics["arms"].values() for epoch in found["epochs"])
    return plot_curves(of(quantity), quantity, of(validation) if scored else None)
