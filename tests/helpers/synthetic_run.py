"""A made-up run directory with the shape of a real one: drawn faces, plausible curves, predictions that agree."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from helpers.small_metrics import completed
from helpers.synthetic_errors import add_errors, small_pictures
from thaw.recipe import Verdict
from thaw.run.metrics import rule
from thaw.scoring.baselines import baselines
from thaw.scoring.comparison import compare, cost_steps
from thaw.scoring.curves import trace_curves
from thaw.scoring.intervals import all_intervals, class_scores
from thaw.scoring.labels import Labels, Share, label_curves
from thaw.scoring.metrics import score
from thaw.scoring.statistics import score_intervals
from thaw.scoring.verdict import judge

TWO = ("female", "male")
SEVEN = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
ARMS = {
    "scratch": ("random", "all", 0.83, 57_012_034),
    "head": ("IMAGENET1K_V1", "head", 0.915, 8_194),
    "last-two-fc": ("IMAGENET1K_V1", ["classifier.4", "classifier.6"], 0.943, 16_789_506),
    "everything": ("IMAGENET1K_V1", "all", 0.938, 57_012_034),
}
THAWED = {
    "head": {"first": "classifier.6", "arithmetic": 0.00001, "parameters": 0.00014},
    "last-two-fc": {"first": "classifier.4", "arithmetic": 0.0236, "parameters": 0.294},
    "everything": {"first": "features.0", "arithmetic": 1.0, "parameters": 1.0},
}
RATES = (1e-5, 1e-4, 1e-3)


def make_run(
    folder: Path,
    classes: tuple[str, ...] = TWO,
    seeds: tuple[int, ...] = (0,),
    epochs: int = 3,
    images: int = 700,
    arms: tuple[str, ...] = tuple(ARMS),
    refit: str = "train+validation",
    skipped: int = 2,
    text: str = "",
    group: str | None = None,
    errors: bool = False,
    labels: bool = False,
) -> Path:
    """Write a finished run into `folder` and return it; `text` is added to whatever a source or recipe can name.

    With `group`, each five test images in a row are one. With `errors`, the run also has slices, label errors and an
    audit that finds something, with `labels` also curves over a quarter, half and all of the training images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    sizes = {"train": images * 8, "validation": images, "test": images}
    share = np.linspace(1.3, 0.7, len(classes)) / len(classes)
    codes = {split: np.sort(random.choice(len(classes), size=size, p=share)) for split, size in sizes.items()}
    found, predictions = {}, []
    answered: dict[str, NDArray[np.float64]] = {}
    logits: dict[str, list[NDArray[np.float32]]] = {}
    guesses: dict[str, list[NDArray[np.int64]]] = {arm: [] for arm in arms}
    for arm in arms:
        weights, train, skill, trainable = ARMS[arm]
        runs = []
        for seed in seeds:
            probabilities = _probabilities(codes["test"], len(classes), skill, random)
            guesses[arm].append(probabilities.argmax(1))
            answered.setdefault(arm, probabilities)
            logits.setdefault(arm, []).append(_logits(probabilities))
            predictions.append(_prediction_rows(arm, seed, codes["test"], probabilities, classes, text))
            runs.append(_run(seed, arm, skill, codes["test"], probabilities, epochs, refit, random))
        found[arm] = {
            "weights": weights,
            "train": train,
            **runs[0],
            "parameters": {"total": 57_012_034, "trainable": trainable},
            "thawed": THAWED.get(arm),
            "frontier": {}
            if train == "all"
            else {"nodes": ["flatten"], "bytes_per_image": 36864, "fraction_saved": 0.9124, "reason": ""},
            "trials": runs,
        }
    mean = {arm: np.mean([run["test"]["accuracy"] for run in it["trials"]]) for arm, it in found.items()}
    metrics: dict[str, Any] = {
        "thaw": "0.1.0",
        "recipe": f"celeba-hq-gender{text}",
        "command": "thaw study ../shared/celeba --recipe celeba-hq-gender --out runs/celeba --set data.test=validation"
        + text,
        "classes": list(classes),
        "best": max(mean, key=mean.__getitem__),
        "splits": sizes,
        "data": {
            "source": f"../shared/celeba{text}",
            "fingerprint": "5f2a9c0e7b1d4f63",
            "skipped": [{"id": f"train/{i}.jpg{text}", "reason": f"not an image{text}"} for i in range(skipped)],
            "how": {
                "train": f"what remains of the source's split 'train' ({images * 8:,} images)",
                "validation": f"{images} drawn from the source's split 'train', stratified by label, seed 0",
                "test": "the source's split 'validation'",
            },
            "group": None,
            "counts": {
                split: {name: int((of == code).sum()) for code, name in enumerate(classes)}
                for split, of in codes.items()
            },
        },
        "images": {
            "size": 224,
            "resize": "squash",
            "interpolation": "bilinear",
            "crop": 1.0,
            "decode": "exact",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "model": {
            "backbone": "torchvision/alexnet",
            "weights": "IMAGENET1K_V1",
            "head": "classifier.6",
            "frozen": "train",
            "precision": "fp32",
            "features": "f",
        },
        "arms": found,
        "seconds": {"total": 142.0, "pixels": 11.0, "activations": 9.0},
    }
    metrics = completed(metrics)
    add_statistics(metrics, codes["test"], {arm: np.stack(of) for arm, of in guesses.items()}, group)
    for arm, of_seeds in logits.items():
        curves = trace_curves(codes["test"], of_seeds[0])
        metrics["arms"][arm] |= {
            "intervals": all_intervals(codes["test"], of_seeds, _fives(images) if group else None).model_dump(),
            "curves": None if curves is None else curves.model_dump(),
        }
    if labels:
        whole = {arm: (np.stack(of) == codes["test"]) * 1.0 for arm, of in guesses.items()}
        metrics["labels"] = _labels(whole, images * 8, random).model_dump()
    counts = [np.bincount(codes[split], minlength=len(classes)) for split in ("train", "test")]
    metrics["baselines"] = baselines(classes, *counts).model_dump()
    add_errors(folder, metrics, codes["test"], answered, small_pictures(codes["test"], draw_face, random), text)
    if not errors:
        metrics |= {name: completed({"arms": {}})[name] for name in ("audit", "slices", "label_errors")}
    rows = [row for of_arm in predictions for row in of_arm]
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "environment.json", _environment())
    write_json(folder / "modules.json", {arm: _modules(arm) for arm in arms})
    pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
    pq.write_table(pa.Table.from_pylist(_examples(codes, classes, rows, random)), folder / "examples.parquet")
    (folder / "recipe.toml").write_text(_recipe(seeds, epochs, refit, arms) + f"# {text}\n", encoding="utf-8")
    return folder


def add_statistics(
    metrics: dict[str, Any],
    labels: NDArray[np.int64],
    predicted: dict[str, NDArray[np.int64]],
    group: str | None = None,
    groups: NDArray[np.int64] | None = None,
    cost: str = "none",
) -> None:
    """What a study adds to `metrics.json` from labels (n,) and each arm's predictions (seeds, n).

    `groups` (n,), where `group` names their column; of five images each where not given.
    """
    if group and groups is None:
        groups = _fives(len(labels))
    metrics["data"]["group"] = group
    settings = Verdict.model_validate({"cost": cost})
    for arm, it in metrics["arms"].items():
        for name in it["over_seeds"]:
            scored = [trial["test"][name] for trial in it["trials"]]
            if None in scored:
                continue
            deviation = float(np.std(scored, ddof=1)) if len(scored) > 1 else None
            it["over_seeds"][name] = {"mean": float(np.mean(scored)), "deviation": deviation}
        it["intervals"] |= score_intervals(labels, predicted[arm], len(metrics["classes"]), groups).model_dump()
        it["classes"] = [
            one.model_dump() for one in class_scores(labels, predicted[arm], len(metrics["classes"]), groups)
        ]
    accuracy = {arm: it["over_seeds"]["accuracy"]["mean"] for arm, it in metrics["arms"].items()}
    trained = {arm: it["parameters"]["trainable"] for arm, it in metrics["arms"].items()}
    seconds = {arm: it["seconds"]["search"] + it["seconds"]["train"] for arm, it in metrics["arms"].items()}
    values = {arm: (of == labels) * 1.0 for arm, of in predicted.items()}
    commonest = (labels == np.bincount(labels).argmax()) * 1.0
    counted = {"none": None, "trained parameters": trained, "train seconds": seconds}[cost]
    judged = judge(values, counted, settings.margin, commonest, groups)
    metrics["comparisons"] = [it.model_dump() for it in compare(values, groups)]
    metrics["best"], metrics["recommended"], metrics["rule"] = judged.best, judged.recommended, rule(settings)
    metrics["verdict"] = {
        **settings.model_dump(),
        "expected": judged.expected,
        "baseline": float(commonest.mean()),
        "arms": {arm: it.model_dump() for arm, it in judged.arms.items()},
    }
    metrics["costs"] = [step.model_dump() for step in cost_steps(accuracy, trained, seconds)]


def _labels(whole: dict[str, NDArray[np.float64]], images: int, random: np.random.Generator) -> Labels:
    """Curves of arms that are right on fewer images the fewer they are trained on."""
    shares = []
    for fraction, lost in ((0.25, 0.08), (0.5, 0.03), (1.0, 0.0)):
        values = {arm: of * (random.random(of.shape) >= lost) for arm, of in whole.items()}
        shares.append(Share(fraction, round(fraction * images), values, dict.fromkeys(whole, 10 * fraction)))
    return label_curves("accuracy", shares)


def _fives(images: int) -> NDArray[np.int64]:
    return np.arange(images) // 5


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _probabilities(
    labels: NDArray[np.int64], classes: int, skill: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """(images, classes), right for about `skill` of the images, unsure where wrong."""
    wrong = random.random(len(labels)) > skill - 0.04 * labels / classes
    step = np.where(random.random(len(labels)) < 0.6, 1, random.integers(1, max(classes, 2), len(labels)))
    predicted = np.where(wrong, (labels + step) % classes, labels)
    logits = random.normal(0, 0.4, (len(labels), classes))
    logits[np.arange(len(labels)), predicted] = 2 + random.gamma(2, np.where(wrong, 0.6, 2))
    exponentials: NDArray[np.float64] = np.exp(logits)
    exponentials /= exponentials.sum(1, keepdims=True)
    return exponentials


def _run(
    seed: int,
    arm: str,
    skill: float,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    epochs: int,
    refit: str,
    random: np.random.Generator,
) -> dict[str, Any]:
    rate = 1e-4 if arm in ("scratch", "everything") else 1e-3
    search = [
        {
            "learning_rate": tried,
            "steps": 15,
            "accuracy": skill - 0.05 - 0.06 * abs(math.log10(tried / rate)) + random.normal(0, 0.006),
            "loss": 0.4 + 0.2 * abs(math.log10(tried / rate)),
        }
        for tried in RATES
    ]
    speed = {"scratch": 0.6, "head": 2.4}.get(arm, 1.6)
    curve = []
    for epoch in range(1, epochs + 1):
        away = math.exp(-speed * epoch)
        curve.append({"loss": 0.1 + (1 - skill) * 1.4 + 0.8 * away, "accuracy": skill + 0.012 - 0.35 * away})
        if refit == "train":
            curve[-1] |= {"validation_loss": curve[-1]["loss"] + 0.05, "validation_accuracy": skill - 0.3 * away}
    return {
        "seed": seed,
        "learning_rate": rate,
        "edge": "highest" if rate == RATES[-1] else None,
        "search": search,
        "tied": [],
        "learned": True,
        "rehearsal": None,
        "epochs": [{name: value + random.normal(0, 0.003) for name, value in row.items()} for row in curve],
        "test": score(labels, _logits(probabilities)).model_dump(),
        "seconds": {
            "search": 12.4 if skill < 0.9 else 1.2,
            "train": 71.5 if skill < 0.9 else 2.31,
            "test": 0.12,
            "total": 84.0,
        },
    }


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.log(probabilities).astype(np.float32)


def _prediction_rows(
    arm: str,
    seed: int,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: tuple[str, ...],
    text: str,
) -> list[dict[str, Any]]:
    return [
        {
            "id": f"validation/{row}.jpg{text}",
            "split": "test",
            "arm": arm,
            "seed": seed,
            "label": classes[label],
            "predicted": classes[int(of_image.argmax())],
            **{f"p_{name}": float(share) for name, share in zip(classes, of_image, strict=True)},
        }
        for row, (label, of_image) in enumerate(zip(labels, probabilities, strict=True))
    ]


def _examples(
    codes: dict[str, NDArray[np.int64]],
    classes: tuple[str, ...],
    predictions: list[dict[str, Any]],
    random: np.random.Generator,
) -> list[dict[str, Any]]:
    def row(name: str, split: str, code: int, role: str) -> dict[str, Any]:
        image = draw_face(code, random)
        return {"id": name, "split": split, "label": classes[code], "role": role, "image": image}

    rows = [
        row(f"{split}/{number}.jpg", split, code, "sample")
        for split, of in codes.items()
        for code in range(len(classes))
        for number in np.flatnonzero(of == code)[:6]
    ]
    wrong = [one for one in predictions if one["predicted"] != one["label"]]
    wrong.sort(key=lambda one: -one[f"p_{one['predicted']}"])
    kept: dict[str, str] = {}
    for arm, seed in dict.fromkeys((one["arm"], one["seed"]) for one in wrong):
        kept |= {one["id"]: one["label"] for one in [o for o in wrong if (o["arm"], o["seed"]) == (arm, seed)][:12]}
    return rows + [row(name, "test", classes.index(label), "mistake") for name, label in kept.items()]


def draw_face(code: int, random: np.random.Generator, size: int = 224) -> bytes:
    """A JPEG of a simple face on a soft ground; `code` bends the mouth."""

    def tone(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(value) for value in random.integers(low, high, 3))

    image = Image.new("RGB", (size, size), tone(120, 235))
    draw = ImageDraw.Draw(image)
    skin, hair = (int(random.integers(150, 240)), int(random.integers(110, 190)), 110), tone(20, 110)
    x, y = (int(value) for value in random.integers(96, 128, 2))
    draw.ellipse((x - 78, y - 92, x + 78, y + 70), fill=hair)
    draw.ellipse((x - 60, y - 62, x + 60, y + 84), fill=skin)
    for side in (-24, 24):
        draw.ellipse((x + side - 8, y - 12, x + side + 8, y + 4), fill=(250, 250, 250))
        draw.ellipse((x + side - 4, y - 8, x + side + 4, y), fill=(30, 30, 40))
    bend = 26 - 12 * code
    mouth = (x - 26, y + 40 - abs(bend), x + 26, y + 40 + abs(bend))
    draw.arc(mouth, *((15, 165) if bend > 0 else (195, 345)), fill=(120, 30, 40), width=5)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _modules(arm: str) -> list[dict[str, Any]]:
    sizes = {"features.0": 23_296, "features.3": 307_392, "features.6": 663_936, "features.8": 884_992}
    sizes |= {"features.10": 590_080, "classifier.1": 37_752_832, "classifier.4": 16_781_312, "classifier.6": 8_194}
    train = ARMS[arm][1]
    return [
        {
            "module": name,
            "kind": "Conv2d" if name.startswith("features") else "Linear",
            "parameters": number,
            "trained": train == "all" or name in train or (train == "head" and name == "classifier.6"),
        }
        for name, number in sizes.items()
    ]


def _environment() -> dict[str, Any]:
    packages = {"torch": "2.9.1", "torchvision": "0.24.1", "timm": "1.0.22", "datasets": "4.4.1", "numpy": "2.4.6"}
    return {
        "thaw": "0.1.0",
        "python": "3.11.2",
        **dict(list(packages.items())[:3]),
        "platform": "Linux-6.1-x86_64",
        "processor": "AMD EPYC 9B14",
        "cores": 2,
        "memory_gib": 7.8,
        "device": "cpu",
        "precision": "fp32",
        "packages": packages,
        "looks": 3,
        "date": "2026-03-05T10:11:12+00:00",
    }


def _recipe(seeds: tuple[int, ...], epochs: int, refit: str, arms: tuple[str, ...]) -> str:
    tables = "\n".join(
        f"[arms.{arm}]\nweights = {json.dumps(ARMS[arm][0])}\ntrain = {json.dumps(ARMS[arm][1])}\n" for arm in arms
    )
    return f"""name = "celeba-hq-gender"

[data]
source = "../shared/celeba"
image = "image"
label = "label"
validation = 700
test = "validation"
seed = 0

[images]
size = 224
resize = "squash"
decode = "exact"

[model]
backbone = "torchvision/alexnet"
weights = "IMAGENET1K_V1"
frozen = "train"

[search]
learning_rates = [1e-05, 0.0001, 0.001]
steps = 15

[train]
optimizer = "adam"
batch_size = 512
epochs = {epochs}
refit = "{refit}"
seeds = {list(seeds)}
precision = "auto"

{tables}"""
