"""The images of the page: test images to filter, mistakes, samples, label errors, pairs of duplicates."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from thaw.audit.results import DuplicatePair
from thaw.images.encode import data_uri
from thaw.report.reading import read_table, rows, thumbnail
from thaw.run.metrics import Metrics

SHOWN_MISTAKES = 5
SHOWN_SAMPLES = 5
"""Sample images of each class and split."""
SHOWN_CLASSES = 12
"""Classes of which sample images are shown."""
SHOWN_LABEL_ERRORS = 24
SHOWN_PAIRS = 12
SAMPLE_SIDE = 112
"""Pixels of a sample's longer side: twice what it takes on the page."""
GALLERY_BYTES = 7 << 20
"""Bytes of the gallery's images and heat maps in the page; beyond that the images become WebP, then smaller."""
SMALLER = ((96, 60), (80, 50), (64, 50), (48, 40))
"""Longer side and WebP quality, tried in this order."""


def gallery(run: Path, metrics: Metrics) -> Markup:
    """Return what `page.js` shows of the test images, as JSON that is safe inside a `<script>`.

    Columns over the images: `ids`, `labels` (places in `classes`), `pictures`; by arm, of its first seed, `predicted`,
    `sure` (probability of that) and `heat` (base64 of a square map of bytes, or null); `slices` by column; `suspects`,
    for a label error the suggested class, else null.
    """
    table = read_table(run / "gallery.parquet")
    names: list[str] = table.column_names
    ids: list[str] = table["id"].to_pylist()
    place_of = {name: place for place, name in enumerate(metrics.classes)}
    suggested = {row["id"]: row["suggested"] for row in rows(run / "label_errors.parquet")}
    answers = {arm: _answers(run, metrics, arm) for arm in metrics.arms}
    shown = [place for place, name in enumerate(ids) if all(name in of_arm for of_arm in answers.values())]

    def column(name: str) -> list[Any]:
        values = table[name].to_pylist()
        return [values[place] for place in shown]

    maps = {arm: [_encoded(heat) for heat in column(f"heat:{arm}")] for arm in answers}
    room = GALLERY_BYTES - sum(len(heat or "") for of_arm in maps.values() for heat in of_arm)
    of_arms = {
        arm: {
            "predicted": [place_of[of_arm[ids[place]][0]] for place in shown],
            "sure": [round(of_arm[ids[place]][1], 4) for place in shown],
            "heat": maps[arm],
        }
        for arm, of_arm in answers.items()
    }
    found = {
        "classes": metrics.classes,
        "best": metrics.recommended,
        "ids": column("id"),
        "labels": [place_of[name] for name in column("label")],
        "pictures": [data_uri(image) for image in _within(column("image"), room)],
        "slices": {name.removeprefix("slice:"): column(name) for name in names if name.startswith("slice:")},
        "suspects": [suggested.get(name) for name in column("id")],
        "arms": of_arms,
    }
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def mistakes(run: Path, metrics: Metrics) -> list[dict[str, Any]]:
    """Return the most confident mistakes of the best arm, with its first seed, on the test images."""
    arm, seed = metrics.best, metrics.arms[metrics.best].seed
    images = {row["id"]: row["image"] for row in rows(run / "examples.parquet", pc.field("role") == "mistake")}
    heat = _heat(run / "gallery.parquet", arm)
    wrong = (
        (pc.field("arm") == arm)
        & (pc.field("seed") == seed)
        & (pc.field("predicted") != pc.field("label"))
        & pc.field("id").isin(pa.array(list(images), pa.string()))
    )
    found = [
        {
            **row,
            "confidence": row[f"p_{row['predicted']}"],
            "image": data_uri(images[row["id"]]),
            "heat": _encoded(heat.get(row["id"])),
        }
        for row in rows(run / "predictions.parquet", wrong)
    ]
    return sorted(found, key=lambda row: -row["confidence"])[:SHOWN_MISTAKES]


def samples(run: Path, metrics: Metrics) -> dict[str, dict[str, list[str]]]:
    """Return data URIs of a few images of each class and split."""
    shown = metrics.classes[:SHOWN_CLASSES]
    found: dict[str, dict[str, list[str]]] = {name: {split: [] for split in metrics.splits} for name in shown}
    for row in rows(run / "examples.parquet", (pc.field("role") == "sample") & pc.field("label").isin(shown)):
        of_split = found[row["label"]][row["split"]]
        if len(of_split) < SHOWN_SAMPLES:
            of_split.append(data_uri(thumbnail(row["image"], SAMPLE_SIDE)))
    return found


def label_errors(run: Path, metrics: Metrics) -> list[dict[str, Any]]:
    """Return the most probable label errors; `heat` is the map of the recommended arm."""
    path = run / "label_errors.parquet"
    heat = _heat(path, metrics.recommended)
    found: list[dict[str, Any]] = read_table(path).slice(0, SHOWN_LABEL_ERRORS).to_pylist()
    return [{**row, "image": data_uri(row["image"]), "heat": _encoded(heat.get(row["id"]))} for row in found]


def duplicate_pairs(run: Path, metrics: Metrics) -> list[tuple[DuplicatePair, str, str]]:
    """Return the duplicates across splits of which the run has both images, with a data URI of each."""
    pairs = metrics.audit.pairs
    wanted = {one for pair in pairs for one in (pair.a, pair.b)}
    images: dict[str, bytes] = {}
    for name in ("gallery.parquet", "label_errors.parquet", "examples.parquet"):
        images |= {row["id"]: row["image"] for row in rows(run / name) if row["id"] in wanted}
    shown = [pair for pair in pairs if pair.a in images and pair.b in images][:SHOWN_PAIRS]
    small = {name: data_uri(thumbnail(images[name], 2 * SAMPLE_SIDE)) for pair in shown for name in (pair.a, pair.b)}
    return [(pair, small[pair.a], small[pair.b]) for pair in shown]


def _encoded(heat: bytes | None) -> str | None:
    """A heat map, a square of bytes, as `page.js` reads it."""
    return None if heat is None else base64.b64encode(heat).decode()


def _heat(path: Path, arm: str) -> dict[str, bytes | None]:
    """By image an arm's heat map, or None."""
    table = read_table(path)
    return dict(zip(table["id"].to_pylist(), table[f"heat:{arm}"].to_pylist(), strict=True))


def _answers(run: Path, metrics: Metrics, arm: str) -> dict[str, tuple[str, float]]:
    """By test image what an arm with its first seed predicts, and the probability it gives to that."""
    seed = metrics.arms[arm].seed
    table = read_table(run / "predictions.parquet", (pc.field("arm") == arm) & (pc.field("seed") == seed))
    sure = {name: table[f"p_{name}"].to_numpy() for name in metrics.classes}
    predicted = table["predicted"].to_pylist()
    return {
        name: (of_image, float(sure[of_image][place]))
        for place, (name, of_image) in enumerate(zip(table["id"].to_pylist(), predicted, strict=True))
    }


def _within(images: list[bytes], budget: int) -> list[bytes]:
    """The images themselves, or smaller ones, so that together they stay in the budget."""
    fitting = images
    for side, quality in SMALLER:
        if sum(map(len, fitting)) * 4 / 3 <= budget:
            break
        fitting = [thumbnail(image, side, quality, "WEBP") for image in images]
    return fitting
