"""Every figure of a run: drawn from `metrics.json`, written as PNG, and as SVG for the page."""

import re
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thaw import text as formats
from thaw.cache.files import write_atomic, writing
from thaw.report.analysis import confusion
from thaw.report.classes import many
from thaw.report.error_figures import (
    plot_cost,
    plot_precision_recall,
    plot_reliability,
    plot_risk,
    plot_roc,
    plot_slices,
)
from thaw.report.figures import (
    THEME,
    arm_colour,
    arm_places,
    plot_accuracies,
    plot_class_counts,
    plot_confusion,
    plot_curves,
    plot_search,
)
from thaw.report.ranking import accuracies, mean_accuracies
from thaw.report.svg import inline_svg, png
from thaw.report.sweep import by_depth, score_intervals
from thaw.report.sweep_figures import plot_labels, plot_thawed
from thaw.run.metrics import METRICS, Metrics, mean_fit_seconds

Drawn = dict[str, tuple[Axes, str]]
"""By name, the axes of a figure and a sentence that says what it shows."""


def write_figures(folder: Path, metrics: Metrics) -> dict[str, Markup]:
    """Draw every figure: as PNG into `folder`, and by name as SVG for the page. Raises StorageError."""
    with writing(folder.parent):
        folder.mkdir(exist_ok=True)
    drawn = {}
    for name, (axes, label) in {**_of_study(metrics), **_of_sweep(metrics), **_of_errors(metrics)}.items():
        figure = axes.figure
        assert isinstance(figure, Figure)
        write_atomic(folder / f"{name}.png", png(figure))
        # the layout that was found for the PNG serves the SVG too
        figure.set_layout_engine("none")
        drawn[name] = Markup(inline_svg(figure, name, label, THEME))
    return drawn


def slug(name: str, place: int) -> str:
    """Make a column's name part of a figure's name, unique by its place: `age-0`."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:24] or 'column'}-{place}".lower()


def _of_study(metrics: Metrics) -> Drawn:
    arms = metrics.arms
    by_arm, means = accuracies(metrics), mean_accuracies(metrics)
    told = formats.listed([f"“{arm}” {formats.percent(mean)}" for arm, mean in means.items()])
    intervals = {arm: it.intervals.accuracy for arm, it in arms.items()}
    searches = {
        arm: [{one.learning_rate: one.accuracy for one in trial.search if one.failed is None} for trial in it.trials]
        for arm, it in arms.items()
    }
    chosen = {
        arm: [trial.learning_rate for trial in it.trials if trial.learning_rate is not None] for arm, it in arms.items()
    }
    # a logarithmic axis has no zero
    spent = {arm: max(mean_fit_seconds([trial.seconds for trial in it.trials]), 1e-3) for arm, it in arms.items()}
    trained = {arm: max(it.parameters.trainable, 1) for arm, it in arms.items()}
    drawn: Drawn = {
        "accuracy-on-test": (plot_accuracies(by_arm, intervals), f"Test accuracy of each arm: {told}."),
        "cost-seconds": (
            plot_cost(spent, means, intervals, "seconds of search and training"),
            "Test accuracy of each arm against the time of its search and training.",
        ),
        "cost-parameters": (
            plot_cost(trained, means, intervals, "trained parameters"),
            "Test accuracy of each arm against the number of parameters it trains.",
        ),
        "classes": (
            plot_class_counts({str(split): of for split, of in metrics.data.counts.items()}),
            "Images of each class in each split.",
        ),
    }
    if any(chosen.values()):
        drawn |= {
            "loss": (_curves(metrics, "loss"), "Training loss of each arm by epoch."),
            "accuracy": (_curves(metrics, "accuracy"), "Training accuracy of each arm by epoch."),
            "search": (plot_search(searches, chosen), "Validation accuracy of each arm by learning rate."),
        }
    return drawn


def _of_sweep(metrics: Metrics) -> Drawn:
    quantity, drawn = METRICS[metrics.verdict.metric], Drawn()
    if by_depth(metrics):
        thawed = {arm: it.thawed.arithmetic for arm, it in metrics.arms.items() if it.thawed}
        scores = {arm: it.score for arm, it in metrics.verdict.arms.items()}
        drawn["thawed"] = (
            plot_thawed(thawed, scores, score_intervals(metrics), quantity),
            f"Test {quantity} of arms that differ in depth against the fraction of the arithmetic that they thaw.",
        )
    if metrics.labels:
        drawn["labels"] = (
            plot_labels(metrics.labels.arms, quantity),
            f"Test {quantity} of each arm against the number of images trained on.",
        )
    return drawn


def _of_errors(metrics: Metrics) -> Drawn:
    drawn: Drawn = {}
    places = arm_places(metrics.arms)
    for arm, it in metrics.arms.items():
        colour = arm_colour(places[arm])
        if not many(metrics):
            axes = plot_confusion(confusion(metrics, arm), metrics.classes, colour)
            drawn[f"confusion-{arm}"] = (axes, f"Confusion matrix of “{arm}” on the test images.")
        axes = plot_reliability(it.calibration.bins, colour)
        drawn[f"reliability-{arm}"] = (axes, f"Reliability diagram of “{arm}”: its accuracy at each confidence.")
    curves = {arm: it.curves for arm, it in metrics.arms.items() if it.curves}
    if curves:
        second, share = formats.short(metrics.classes[1]), metrics.baselines.frequencies.average_precision
        drawn["roc"] = (plot_roc(curves), f"ROC curve of each arm, of {second}.")
        drawn["precision-recall"] = (
            plot_precision_recall(curves, share),
            f"Precision-recall curve of each arm, of {second}.",
        )
    risks = {arm: it.doubt.risk.curve if it.doubt else [] for arm, it in metrics.arms.items()}
    if any(risks.values()):
        drawn["risk-coverage"] = (plot_risk(risks), "Error of each arm against the fraction of images answered.")
    for place, column in enumerate(metrics.slices):
        axes = plot_slices(column.values, list(metrics.arms))
        label = f"Test accuracy of each arm by {formats.short(column.column)}."
        drawn[f"slices-{slug(column.column, place)}"] = (axes, label)
    return drawn


def _curves(metrics: Metrics, quantity: str) -> Axes:
    def of(name: str) -> dict[str, list[list[float]]]:
        return {
            arm: [[getattr(epoch, name) for epoch in trial.rehearsal or trial.epochs] for trial in it.trials]
            for arm, it in metrics.arms.items()
        }

    validation = f"validation_{quantity}"
    scored = all(
        getattr(epoch, validation) is not None for it in metrics.arms.values() for epoch in it.rehearsal or it.epochs
    )
    return plot_curves(of(quantity), quantity, of(validation) if scored else None)
