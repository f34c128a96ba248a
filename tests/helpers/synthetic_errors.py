"""What a made-up run says of its errors and its data: calibration, slices, agreement, label errors, audit, gallery."""

import io
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

AGES = ("0–9", "10–19", "20–29", "30–39", "40–49", "50–59", "60–69", "70 and over")
SIDE = 14
"""Of a heat map."""


def add_errors(
    folder: Path,
    metrics: dict[str, Any],
    labels: NDArray[np.int64],
    probabilities: dict[str, NDArray[np.float64]],
    pictures: list[bytes],
    text: str = "",
) -> None:
    """Add to `metrics` and write into `folder` all that a study finds beyond its scores, each key of it.

    `labels` (n,) of the test images; `probabilities` by arm (n, classes); `pictures`, a small JPEG each.
    """
    random = np.random.default_rng(11)
    classes: list[str] = metrics["classes"]
    ids = [f"validation/{row}.jpg{text}" for row in range(len(labels))]
    right = {arm: of_arm.argmax(1) == labels for arm, of_arm in probabilities.items()}
    columns = {
        f"age{text}": np.array([f"{name}{text}" for name in AGES])[
            random.choice(8, len(labels), p=[0.12, 0.12, 0.28, 0.2, 0.12, 0.08, 0.06, 0.02])
        ],
        "eyeglasses": np.where(random.random(len(labels)) < 0.2, "yes", "no"),
    }
    for place, (arm, of_arm) in enumerate(probabilities.items()):
        metrics["arms"][arm]["calibration"] = _calibration(of_arm.max(1), right[arm], fitted=place % 2 == 0)
    metrics["slices"] = [_slice(name, values, right) for name, values in columns.items()]
    metrics["agreement"] = _agreement({arm: of_arm.argmax(1) for arm, of_arm in probabilities.items()}, right)
    metrics["audit"] = _audit(metrics, classes, ids, labels, text)
    guess = np.mean(list(probabilities.values()), axis=0)
    doubtful = np.argsort(guess[np.arange(len(labels)), labels])
    suspect = [int(place) for place in doubtful[:40] if guess[place].argmax() != labels[place]]
    metrics["label_errors"] = {
        "count": len(suspect) + 3,
        "checked": sum(metrics["splits"].values()),
        "method": f"probabilities of a linear probe, out of fold{text}",
    }
    _write(
        folder / "label_errors.parquet",
        {
            "id": [ids[place] for place in suspect],
            "split": ["test"] * len(suspect),
            "label": [classes[labels[place]] for place in suspect],
            "suggested": [classes[guess[place].argmax()] for place in suspect],
            "p_label": [float(guess[place, labels[place]]) for place in suspect],
            "p_suggested": [float(guess[place].max()) for place in suspect],
            "score": [float(place / max(1, len(suspect))) for place in range(len(suspect))],
            "image": [pictures[place] for place in suspect],
            **{f"heat:{arm}": _heat(len(suspect), random) for arm in probabilities},
        },
    )
    _write(
        folder / "gallery.parquet",
        {
            "id": ids,
            "label": [classes[code] for code in labels],
            "image": pictures,
            **{f"slice:{name}": values.tolist() for name, values in columns.items()},
            **{f"heat:{arm}": _heat(len(ids), random) for arm in probabilities},
        },
    )


def small_pictures(labels: NDArray[np.int64], draw: Any, random: np.random.Generator, side: int = 96) -> list[bytes]:
    """A small JPEG for each label: forty drawings, each in its own light and grain, as costly as photographs."""
    drawn = {code: [Image.open(io.BytesIO(draw(code, random))) for _ in range(10)] for code in np.unique(labels)}
    found = []
    for code in labels:
        image = drawn[code][random.integers(10)].resize((side, side))
        grain = random.normal(0, 7, (side, side, 1)) + random.normal(0, 12, 3)
        pixels = np.clip(np.asarray(image, dtype=float) + grain, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
        found.append(buffer.getvalue())
    return found


def _calibration(sure: NDArray[np.float64], right: NDArray[np.bool_], fitted: bool) -> dict[str, Any]:
    edges = np.linspace(0, 1, 16)
    bins, error = [], 0.0
    for low, high in pairwise(edges):
        inside = (sure > low) & (sure <= high)
        count = int(inside.sum())
        confidence, accuracy = (float(of[inside].mean()) if count else None for of in (sure, right))
        bins.append({"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy})
        if confidence is not None and accuracy is not None:
            error += count / len(sure) * abs(confidence - accuracy)
    return {
        "ece": error,
        "ece_by_chance": 0.021,
        "ece_limit": 0.035,
        "bins": bins,
        "temperature": 1.31 if fitted else None,
        "gain": 0.03 if fitted else None,
        "gain_interval": [0.01, 0.05] if fitted else None,
        "ece_after": error / 2 if fitted else None,
        "reason": "fitted on the 700 validation images, answered by a model that has not trained on them"
        if fitted
        else "the final training saw the validation images; train.rehearse fits a temperature on them before",
    }


def _slice(column: str, values: NDArray[np.str_], right: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    rows = []
    for value in np.unique(values).tolist():
        inside = values == value
        arms = {}
        for arm, of_arm in right.items():
            interval = stats.binomtest(int(of_arm[inside].sum()), int(inside.sum())).proportion_ci(method="wilson")
            arms[arm] = {"accuracy": float(of_arm[inside].mean()), "interval": [interval.low, interval.high]}
        rows.append({"value": value, "count": int(inside.sum()), "small": bool(inside.sum() < 30), "arms": arms})
    gaps = {}
    large = [row for row in rows if not row["small"]]
    for arm in right if len(large) > 1 else ():
        low, high = (pick(large, key=lambda row: row["arms"][arm]["accuracy"]) for pick in (min, max))
        difference = high["arms"][arm]["accuracy"] - low["arms"][arm]["accuracy"]
        p = float(np.exp(-40 * difference))
        gaps[arm] = {
            "low": low["value"],
            "high": high["value"],
            "difference": difference,
            "interval": [difference - 0.05, difference + 0.05],
            "p": p / 10,
            "p_holm": p,
        }
    return {"column": column, "kind": "bins" if "age" in column else "category", "values": rows, "gaps": gaps}


def _agreement(predicted: dict[str, NDArray[np.int64]], right: dict[str, NDArray[np.bool_]]) -> dict[str, Any]:
    table = np.stack(list(right.values()))
    alone, missed = table.sum(0) == 1, (~table).sum(0) == 1
    return {
        "all_right": int(table.all(0).sum()),
        "none_right": int((~table).all(0).sum()),
        "only_right": {arm: int((of & alone).sum()) for arm, of in right.items()},
        "only_wrong": {arm: int((~of & missed).sum()) for arm, of in right.items()},
        "pairs": [
            {"arms": [a, b], "same": float((predicted[a] == predicted[b]).mean()), "kappa": 0.8}
            for a, b in combinations(predicted, 2)
        ],
    }


def _audit(
    metrics: dict[str, Any], classes: list[str], ids: list[str], labels: NDArray[np.int64], text: str
) -> dict[str, Any]:
    first = classes[labels[0]]
    train = [f"train/{place}.jpg" for place in range(3)]
    audit: dict[str, Any] = metrics["audit"]
    return audit | {
        "images": sum(metrics["splits"].values()),
        "splits": metrics["splits"],
        "classes": {name: sum(of[name] for of in metrics["data"]["counts"].values()) for name in classes},
        "sizes": {"smallest": [178, 218], "median": [1024, 1024], "largest": [1024, 1024]},
        "skipped": len(metrics["data"]["skipped"]),
        "exact": {"groups": 4, "images": 8, "across": {"train/validation": 0, "train/test": 3, "validation/test": 0}},
        "near": {
            "groups": 61,
            "images": 150,
            "across": {"train/validation": 38, "train/test": 41, "validation/test": 0},
        },
        "leaked": 44,
        "conflicting": {
            "exact": 1,
            "near": 0,
            "examples": [{"ids": [ids[0], f"train/9.jpg{text}"], "labels": [first, classes[-1]], "kind": "exact"}],
        },
        "pairs": [
            {
                "a": train[place],
                "b": ids[place],
                "split_a": "train",
                "split_b": "test",
                "label_a": first,
                "label_b": first,
                "kind": "exact" if place == 0 else "near",
                "distance": 0.01 * place,
            }
            for place in range(3)
        ]
        + [
            {
                "a": ids[place],
                "b": ids[place + 1],
                "split_a": "validation",
                "split_b": "test",
                "label_a": first,
                "label_b": classes[-1],
                "kind": "near",
                "distance": 0.04,
            }
            for place in range(min(4, len(ids) - 1))
        ],
        "leak": {
            "accuracy": 0.943,
            "accuracy_grouped": 0.931,
            "effect": 0.012,
            "interval": [0.004, 0.02],
            "method": f"a linear probe{text}",
        },
        "findings": [
            {"severity": "note", "what": f"The largest class has 1.4 times the images of the smallest{text}."},
            {"severity": "error", "what": f"44 test images are also in other splits{text}; set data.group."},
            {"severity": "warning", "what": "1 group of duplicates has conflicting labels."},
        ],
    }


def _heat(images: int, random: np.random.Generator) -> list[bytes]:
    """A soft spot for each image."""
    y, x = np.mgrid[:SIDE, :SIDE]
    found = []
    for _ in range(images):
        at, reach = random.uniform(3, SIDE - 3, 2), random.uniform(4, 14)
        spot = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / reach)
        found.append((255 * spot).astype(np.uint8).tobytes())
    return found


def _write(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(columns), path)
