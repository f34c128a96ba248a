"""The page: reads a run directory, writes `figures/*.png` and `report.html` into it."""

import base64
import json
import re
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thaw.errors import StorageError
from thaw.files import write_atomic
from thaw.recipe import ARM_NAME
from thaw.report import formats
from thaw.report.analysis import analysis, confusion
from thaw.report.figures import (
    THEME,
    arm_colour,
    plot_accuracies,
    plot_class_counts,
    plot_confusion,
    plot_curves,
    plot_search,
)
from thaw.report.standing import Metrics, accuracies, mean_accuracies, pairs, verdict
from thaw.report.svg import inline_svg, png

SHOWN_MISTAKES = 5
SHOWN_SAMPLES = 5
"""Sample images of each class and split."""
SHOWN_CLASSES = 12
"""Classes of which sample images are shown."""
NEEDED = {
    *("arms", "best", "classes", "command", "comparisons", "data", "images", "model", "prices", "recipe"),
    *("recommended", "rule", "seconds", "splits", "thaw"),
}


def write_report(run: Path) -> Path:
    """Write `report.html` and `figures/*.png` from what the run directory holds; returns the page's path.

    Raises StorageError when `run` is not a finished run, or cannot be written.
    """
    metrics = _read(run / "metrics.json", json.loads)
    if missing := NEEDED - (metrics.keys() if isinstance(metrics, dict) else set()):
        raise StorageError(f"{run / 'metrics.json'} lacks {formats.listed(sorted(missing))}; run the study again.")
    if strange := [arm for arm in metrics["arms"] if not ARM_NAME.fullmatch(arm)]:
        raise StorageError(
            f"{run / 'metrics.json'} has an arm {strange[0]!r}, which no recipe has; run the study again."
        )
    content = {
        "metrics": metrics,
        "verdict": verdict(metrics),
        "pairs": pairs(metrics),
        "analysis": analysis(metrics),
        "colours": {arm: THEME[arm_colour(place)] for place, arm in enumerate(metrics["arms"])},
        "mistakes": _mistakes(run, metrics),
        "samples": _samples(run, metrics),
        "recipe": _read(run / "recipe.toml", tomllib.loads),
        "recipe_text": _read(run / "recipe.toml", str),
        "environment": _read(run / "environment.json", json.loads),
        "modules": _read(run / "modules.json", json.loads),
    }
    page = run / "report.html"
    try:
        write_atomic(page, _render(content | {"figures": _write_figures(run / "figures", metrics)}))
    except OSError as error:
        raise StorageError(f"{run} cannot be written: {error.strerror}; check its permissions and space.") from error
    return page


def prose(text: str) -> Markup:
    """Text in which a name between backticks stands out."""
    return Markup(re.sub(r"`([\w.-]+)`", r"<b>\1</b>", str(escape(text))))


def _render(content: dict[str, Any]) -> str:
    """The page; whatever `content` holds that is not Markup is escaped."""
    files = resources.files("thaw.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for write in (
        *(
            formats.about,
            formats.between,
            formats.count,
            formats.day,
            formats.listed,
            formats.parameters,
            formats.percent,
        ),
        *(formats.probability, formats.rate, formats.score, formats.seconds, formats.short, formats.signed),
        *(formats.size, formats.spread, prose),
    ):
        environment.filters[write.__name__] = write
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    return template.render(content, css=Markup((files / "page.css").read_text(encoding="utf-8")))


def _write_figures(folder: Path, metrics: Metrics) -> dict[str, Markup]:
    """Draw every figure: as PNG into `folder`, and by name as SVG for the page."""
    folder.mkdir(exist_ok=True)
    drawn = {}
    for name, (axes, label) in _draw(metrics).items():
        figure = axes.figure
        assert isinstance(figure, Figure)
        write_atomic(folder / f"{name}.png", png(figure))
        drawn[name] = Markup(inline_svg(figure, name, label, THEME))
    return drawn


def _draw(metrics: Metrics) -> dict[str, tuple[Axes, str]]:
    """By name, the axes of each figure and a sentence that says what it shows."""
    arms = metrics["arms"]
    by_arm = accuracies(metrics)
    means = mean_accuracies(metrics)
    told = formats.listed([f"{arm} {formats.percent(mean)}" for arm, mean in means.items()])
    trials = {
        arm: [{trial["learning_rate"]: trial["accuracy"] for trial in run["search"]} for run in found["runs"]]
        for arm, found in arms.items()
    }
    chosen = {arm: [run["learning_rate"] for run in found["runs"]] for arm, found in arms.items()}
    drawn = {
        "accuracy-on-test": (
            plot_accuracies(by_arm, {arm: it["intervals"]["accuracy"] for arm, it in arms.items()}),
            f"Test accuracy of each arm: {told}.",
        ),
        "loss": (_curves(metrics, "loss"), "Training loss of each arm by epoch."),
        "accuracy": (_curves(metrics, "accuracy"), "Training accuracy of each arm by epoch."),
        "search": (plot_search(trials, chosen), "Validation accuracy of each arm by learning rate."),
        "classes": (plot_class_counts(metrics["data"]["counts"]), "Images of each class in each split."),
    }
    for place, arm in enumerate(arms):
        axes = plot_confusion(confusion(metrics, arm), metrics["classes"], arm_colour(place))
        drawn[f"confusion-{arm}"] = (axes, f"Confusion matrix of {arm} on the test images.")
    return drawn


def _curves(metrics: Metrics, quantity: str) -> Axes:
    def of(name: str) -> dict[str, list[list[float]]]:
        return {
            arm: [[epoch[name] for epoch in run["epochs"]] for run in found["runs"]]
            for arm, found in metrics["arms"].items()
        }

    first = next(iter(metrics["arms"].values()))["epochs"][0]
    validation = f"validation_{quantity}"
    return plot_curves(of(quantity), quantity, of(validation) if validation in first else None)


def _mistakes(run: Path, metrics: Metrics) -> list[dict[str, Any]]:
    """The test images that the best arm, with its first seed, is surest of and wrong about."""
    arm, seed = metrics["best"], metrics["arms"][metrics["best"]]["runs"][0]["seed"]
    examples = _table(run / "examples.parquet", pc.field("role") == "mistake")
    images = {row["id"]: _data_uri(row["image"]) for row in examples}
    wrong = (
        (pc.field("arm") == arm)
        & (pc.field("seed") == seed)
        & (pc.field("predicted") != pc.field("label"))
        & pc.field("id").isin(pa.array(list(images), pa.string()))
    )
    rows = [
        {**row, "confidence": row[f"p_{row['predicted']}"], "image": images[row["id"]]}
        for row in _table(run / "predictions.parquet", wrong)
    ]
    return sorted(rows, key=lambda row: -row["confidence"])[:SHOWN_MISTAKES]


def _samples(run: Path, metrics: Metrics) -> dict[str, dict[str, list[str]]]:
    """Data URIs of a few images of each class and split."""
    shown = metrics["classes"][:SHOWN_CLASSES]
    found: dict[str, dict[str, list[str]]] = {name: {split: [] for split in metrics["splits"]} for name in shown}
    for row in _table(run / "examples.parquet", (pc.field("role") == "sample") & pc.field("label").isin(shown)):
        of_split = found[row["label"]][row["split"]]
        if len(of_split) < SHOWN_SAMPLES:
            of_split.append(_data_uri(row["image"]))
    return found


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unfinished(path, error) from error


def _table(path: Path, which: pc.Expression) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, filters=which).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unfinished(path, error) from error
    return rows


def _unfinished(path: Path, error: Exception) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{path.parent} is not a finished run: it has no {path.name}; run the study first.")
    return StorageError(f"{path} cannot be read: {error}; run the study again.")
