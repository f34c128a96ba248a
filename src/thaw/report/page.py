"""The page: reads a run folder, writes `figures/*.png` and `report.html` into it."""

import base64
import hashlib
import itertools
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from thaw import text as formats
from thaw.cache.files import write_atomic
from thaw.images.preprocessing import sides
from thaw.recipe import Recipe, load_recipe
from thaw.report.analysis import analysis
from thaw.report.classes import class_rows, confused_pairs, many
from thaw.report.doubt import doubt_of
from thaw.report.drawing import slug, write_figures
from thaw.report.failures import failures, gaps, small_slices
from thaw.report.figures import THEME, arm_colour, arm_places
from thaw.report.gallery import duplicate_pairs, gallery, label_errors, mistakes, samples
from thaw.report.limits import findings, harm, leak, limits, narrow, people, sizes
from thaw.report.method import resizing, training, views
from thaw.report.published import agreement, compared
from thaw.report.ranking import mean_accuracies, pairs
from thaw.report.reading import read, read_table
from thaw.report.repeats import repeat_rows, repeating
from thaw.report.sweep import labelling, thawing
from thaw.report.trust import doubts
from thaw.report.verdict import headline, reasons
from thaw.run.metrics import METRICS, Metrics, mean_fit_seconds, read_metrics

FILTERS = (
    *(formats.about, formats.between, formats.count, formats.day, formats.fitted, formats.listed, formats.parameters),
    *(formats.percent, formats.probability, formats.rate, formats.score, formats.seconds, formats.short),
    *(formats.signed, formats.format_bytes, formats.spread, formats.within, slug, small_slices),
)


def write_report(run: Path) -> Path:
    """Write `report.html` and `figures/*.png` from what the run folder holds; returns the page's path.

    Raises StorageError where `run` is not a finished run of this format or cannot be written, RecipeError where its
    recipe is broken.
    """
    metrics, recipe_text = read_metrics(run), read(run / "recipe.toml", str)
    recipe = load_recipe(str(run / "recipe.toml"))
    content = {
        **_sentences(metrics, recipe),
        "metrics": metrics,
        "metric": METRICS[metrics.verdict.metric][:1].upper() + METRICS[metrics.verdict.metric][1:],
        "metric_words": METRICS[metrics.verdict.metric],
        "sides": sides(metrics.images.size),
        "means": mean_accuracies(metrics),
        "many": many(metrics),
        "class_rows": {arm: class_rows(metrics, arm) for arm in metrics.arms},
        "confused_pairs": {arm: confused_pairs(metrics, arm) for arm in metrics.arms},
        "colours": {arm: THEME[arm_colour(place)] for arm, place in arm_places(metrics.arms).items()},
        "bytes": {arm: _size(run, metrics, arm) for arm in metrics.arms},
        "published": compared(metrics, recipe.published),
        "gallery": gallery(run, metrics),
        "shown": read_table(run / "gallery.parquet").num_rows,
        "mistakes": mistakes(run, metrics),
        "samples": samples(run, metrics),
        "label_errors": label_errors(run, metrics),
        "duplicates": duplicate_pairs(run, metrics),
        "recipe_text": recipe_text,
        "recipe": recipe,
        "environment": read(run / "environment.json", json.loads),
        "modules": _modules(read(run / "modules.json", json.loads)),
    }
    page = run / "report.html"
    write_atomic(page, _render(content | {"figures": write_figures(run / "figures", metrics)}))
    return page


def prose(text: str) -> Markup:
    """Set names between backticks in code style, so that an arm called `everything` is not read as the word."""
    return Markup(re.sub(r"`([\w.-]+)`", r"<code>\1</code>", str(escape(text))))


def _size(run: Path, metrics: Metrics, arm: str) -> int:
    """The bytes of an arm's weights: of its bundle's file, or of its parameters where the bundle is not there."""
    try:
        return (run / "models" / arm / "model.safetensors").stat().st_size
    except OSError:
        return 4 * metrics.arms[arm].parameters.total


def _sentences(metrics: Metrics, recipe: Recipe) -> dict[str, Any]:
    """The sentences on the numbers."""
    return {
        "resizing": resizing(metrics.images),
        "training": training(recipe, metrics),
        "views": views(recipe.augment, recipe.train),
        "headline": headline(metrics),
        "reasons": reasons(metrics),
        "doubts": doubts(metrics),
        "agreement": agreement(compared(metrics, recipe.published)),
        "fit_seconds": {arm: mean_fit_seconds([one.seconds for one in it.trials]) for arm, it in metrics.arms.items()},
        "thawing": thawing(metrics),
        "labelling": labelling(metrics),
        "repeating": repeating(metrics),
        "repeat_rows": repeat_rows(metrics),
        "pairs": pairs(metrics),
        "analysis": analysis(metrics),
        "failures": failures(metrics),
        "doubt": doubt_of(metrics, metrics.recommended),
        "gaps": gaps(metrics, metrics.recommended),
        "findings": findings(metrics),
        "limits": limits(metrics),
        "leak": leak(metrics),
        "narrow": narrow(metrics),
        "sizes": sizes(metrics),
        "people": people(metrics),
        "harm": harm(metrics),
    }


def _modules(of_arms: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each module of any arm, adapters included, with `arms`: whether each trains it."""
    rows: dict[str, dict[str, Any]] = {}
    for arm, modules in of_arms.items():
        for it in modules:
            rows.setdefault(it["module"], {**it, "arms": {}})["arms"][arm] = it["trained"]
    return list(rows.values())


def _render(content: dict[str, Any]) -> str:
    """The page; whatever `content` holds that is not Markup is escaped."""
    files = resources.files("thaw.report")

    def text(name: str) -> str:
        return files.joinpath(*name.split("/")).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(text),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {write.__name__: write for write in (*FILTERS, prose)}
    # figures and tables are numbered as they come
    numbers = {"figure": itertools.count(1), "table": itertools.count(1)}
    environment.globals["number"] = lambda kind: next(numbers[kind])
    script = text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        content, css=Markup(text("theme.css") + text("page.css")), script=Markup(script), script_hash=digest
    )
