"""A small study's `metrics.json`, to lay over it what a test is about."""

import copy
from typing import Any

from thaw.run.metrics import FORMAT, Metrics

NAMES = ("accuracy", "precision", "recall", "f1", "balanced_accuracy", "macro_f1", "auroc", "average_precision")
SCORES: dict[str, Any] = {**dict.fromkeys(NAMES, 0.9), "log_loss": 0.3, "brier": 0.08, "top5": None}
INTERVALS: dict[str, Any] = {
    **{name: [0.8, 0.95] for name in NAMES},
    "log_loss": [0.2, 0.4],
    "brier": [0.05, 0.1],
    "top5": None,
}
CLASS: dict[str, Any] = {
    "support": 500,
    **dict.fromkeys(("precision", "recall", "f1"), 0.9),
    **{name: [0.87, 0.92] for name in ("precision_interval", "recall_interval", "f1_interval")},
}
TRIAL: dict[str, Any] = {
    "seed": 0,
    "learning_rate": 1e-3,
    "edge": None,
    "search": [],
    "tied": [],
    "learned": True,
    "epochs": [],
    "rehearsal": None,
    "stopped": None,
    "probe": None,
    "test": {**SCORES, "confusion": [[0, 0, 450], [0, 1, 50], [1, 0, 50], [1, 1, 450]]},
    "precision": "fp32",
    "seconds": {"prepare": 0.0, "search": 1.0, "train": 2.0, "test": 0.1, "total": 3.1},
}
ARM: dict[str, Any] = {
    **TRIAL,
    "weights": "IMAGENET1K_V1",
    "train": "head",
    "parameters": {"total": 57_012_034, "trainable": 8_194},
    "frontier": {"nodes": [], "bytes_per_image": 0, "fraction_saved": 0.0, "reason": ""},
    "channels_last": False,
    "intervals": INTERVALS,
    "over_seeds": {name: {"mean": value, "deviation": None} for name, value in SCORES.items() if value}
    | {"top5": None},
    "classes": [],
    "curves": None,
    "calibration": {
        "ece": 0.0,
        "ece_by_chance": 0.01,
        "ece_limit": 0.02,
        "bins": [{"low": 0.0, "high": 1.0, "count": 1, "confidence": 0.9, "accuracy": 0.9}],
        "temperature": None,
        "gain": None,
        "gain_interval": None,
        "ece_after": None,
        "reason": "the final training saw the validation images",
    },
    "trials": [],
}
DUPLICATES: dict[str, Any] = {
    "groups": 0,
    "images": 0,
    "across": {"train/validation": 0, "train/test": 0, "validation/test": 0},
}
COMPARISON: dict[str, Any] = {
    "difference": 0.0,
    "interval": [-0.02, 0.02],
    "p": 1.0,
    "p_holm": 1.0,
    "test": "exact McNemar",
    "groups": None,
    "p_least": 0.0,
    "images_needed": None,
}
VERDICT: dict[str, Any] = {
    "score": 0.9,
    "cost": None,
    "probability_best": 1.0,
    "regret": 0.0,
    "loss": 0.0,
    "loss_interval": [0.0, 0.0],
    "within": True,
    "learned": True,
    "images_needed": None,
}
STUDY: dict[str, Any] = {
    "format": FORMAT,
    "thaw": "0.1.0",
    "recipe": "shapes",
    "command": "",
    "classes": ["disc", "square"],
    "splits": {"train": 5000, "validation": 500, "test": 1000},
    "data": {
        "source": "shapes/",
        "fingerprint": "5f2a9c0e7b1d4f63",
        "splits": "9c0e7b1d4f635f2a",
        "how": {},
        "group": None,
        "counts": {},
        "skipped": [],
    },
    "audit": {
        "images": 6500,
        "splits": {"train": 5000, "validation": 500, "test": 1000},
        "classes": {},
        "sizes": None,
        "test_groups": None,
        "skipped": 0,
        "unusable": [],
        "issues": {"counts": {}, "examples": []},
        "exact": DUPLICATES,
        "near": DUPLICATES,
        "leaked": 0,
        "conflicting": {"exact": 0, "near": 0, "examples": []},
        "pairs": [],
        "leak": None,
        "findings": [],
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
    "baselines": {
        "commonest_class": "disc",
        "commonest": {**SCORES, "accuracy": 0.5, "log_loss": None},
        "frequencies": {**SCORES, "accuracy": 0.5},
    },
    "comparisons": [],
    "rule": "the best arm by accuracy",
    "verdict": {"metric": "accuracy", "margin": 0.01, "cost": "none", "expected": 0.9, "baseline": 0.5, "arms": {}},
    "costs": [],
    "slices": [],
    "agreement": {"all_right": 0, "none_right": 0, "only_right": {}, "only_wrong": {}, "pairs": []},
    "label_errors": {"count": 0, "checked": 6500, "method": "a probe"},
    "seconds": {"total": 42.0},
}


def completed(part: dict[str, Any]) -> dict[str, Any]:
    """Return what `metrics.json` holds of a study of which `part` is told, arms and all."""
    whole = _over(STUDY, part)
    whole["arms"] = {arm: _over(ARM, it) for arm, it in whole["arms"].items()}
    for it in whole["arms"].values():
        first = {name: it[name] for name in TRIAL}
        it["classes"] = it["classes"] or [CLASS] * len(whole["classes"])
        it["trials"] = [_over(TRIAL, trial) for trial in it["trials"]] or [first]
    for only in ("only_right", "only_wrong"):
        whole["agreement"][only] = dict.fromkeys(whole["arms"], 0) | whole["agreement"][only]
    whole["verdict"]["arms"] = {arm: _over(VERDICT, whole["verdict"]["arms"].get(arm, {})) for arm in whole["arms"]}
    whole["comparisons"] = [_over(COMPARISON, it) for it in whole["comparisons"]]
    return whole


def as_metrics(part: dict[str, Any]) -> Metrics:
    """Return the metrics of a study of which `part` is told."""
    return Metrics.model_validate(completed(part))


def _over(default: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """`part` laid over `default`, dictionary by dictionary."""
    whole = copy.deepcopy(default)
    for name, value in part.items():
        inside = isinstance(value, dict) and isinstance(whole.get(name), dict)
        whole[name] = _over(whole[name], value) if inside else copy.deepcopy(value)
    return whole
