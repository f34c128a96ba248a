"""The run directory: what a study leaves behind, and what others read."""

import contextlib
import importlib.metadata
import json
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thaw.audit.label_errors import LabelErrors
from thaw.cache.arrays import key_of
from thaw.cache.budget import datasets_folder, using
from thaw.cache.files import PART, lock_or_refuse, write_atomic, write_json, writing
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.errors import StorageError
from thaw.nets.backbones import content_of
from thaw.recipe import Recipe, to_toml
from thaw.recipes import embedded_weights
from thaw.run.environment import write_environment
from thaw.run.gallery import Gallery
from thaw.run.live import FILE as PROGRESS
from thaw.run.summary import TestOutputs, slices_of_test, summarise
from thaw.run.tables import write_examples, write_gallery, write_label_errors, write_predictions

LOCK = ".lock"
"""The file in a run directory that a running study holds locked."""
BEGUN = {"recipe.toml", PROGRESS}
"""What a study leaves, beside the lock on some systems, that ended before any of its work was done."""


@contextlib.contextmanager
def open_run(folder: Path, recipe: Recipe) -> Iterator[Path]:
    """Make the run directory and write the resolved recipe into it; no other study may enter it during the block.

    Raises StorageError when it cannot be written, holds something other than this study, or another study is at it.
    """
    text = to_toml(recipe)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_another(folder, text)
    with lock_or_refuse(folder / LOCK, f"another study is running in {folder}"), using(datasets_folder()):
        _refuse_another(folder, text)
        for path in folder.rglob(f".*{PART}"):
            path.unlink(missing_ok=True)
        write_atomic(folder / "recipe.toml", text)
        yield folder


def _refuse_another(folder: Path, text: str) -> None:
    """Raise StorageError where a folder holds anything but the study of the recipe `text`.

    A study that ended as it began does not count: a mistyped source must not take the folder from the right one.
    """
    names = {path.name for path in folder.iterdir() if not path.name.endswith(PART)}
    if names - {LOCK} in (set(), BEGUN):
        return
    before = folder / "recipe.toml"
    if not before.exists():
        raise StorageError(f"{folder} is not empty and holds no study; give another folder with --out.")
    if before.read_text(encoding="utf-8") != text:
        differing = _differing(before, text)
        raise StorageError(f"{folder} holds another study ({differing}); give another folder with --out.")


def work_folder(run: Path, dataset: Dataset, recipe: Recipe, compute: Compute) -> Path:
    """Where a run keeps its finished pieces; another folder for other data or splits, another content of a weights
    file, another precision or other versions.
    """
    versions = {name: importlib.metadata.version(name) for name in ("thaw-vision", "torch", "torchvision", "timm")}
    weights = {arm: content_of(embedded_weights(recipe.weights_of(arm))) for arm in recipe.arms}
    how = {"versions": versions, "compute": [compute.device.type, compute.precision]}
    return run / "work" / key_of(pixels=dataset.key, data=dataset.identity(), weights=weights, **how)


def finish_run(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    results: dict[str, list[dict[str, Any]]],
    tested: list[TestOutputs],
    suspects: LabelErrors,
    shown: Gallery,
    audited: dict[str, Any],
    compute: Compute,
    seconds: dict[str, float],
    command: str,
) -> dict[str, Any]:
    """Write everything that the study found, `metrics.json` last; returns what that holds."""
    source, splits = dataset.source, dataset.splits
    write_predictions(run, tested, dataset)
    write_examples(run, tested, audited.get("pairs", []), dataset)
    slices = slices_of_test(dataset, recipe.data)
    write_gallery(run, shown, slices, dataset)
    write_label_errors(run, shown, suspects, dataset)
    write_json(run / "modules.json", {arm: runs[0].pop("modules") for arm, runs in results.items()})
    heads = {one.pop("head") for runs in results.values() for one in runs}
    write_environment(run, compute)
    of_arms, of_study = summarise(recipe, dataset, slices, results, tested)
    found = {
        "thaw": importlib.metadata.version("thaw-vision"),
        "recipe": recipe.name,
        "command": command,
        "classes": list(source.classes),
        "splits": {split: len(rows) for split, rows in splits.rows().items()},
        "data": {
            "source": recipe.data.source,
            **dataset.identity(),
            "how": splits.how,
            "group": recipe.data.group,
            "counts": {
                split: {name: int((source.labels[rows] == code).sum()) for code, name in enumerate(source.classes)}
                for split, rows in splits.rows().items()
            },
            "skipped": [asdict(one) for one in source.skipped],
        },
        "audit": audited,
        "images": {**asdict(dataset.preprocessing), "decode": recipe.images.decode},
        "model": {**recipe.model.model_dump(), "head": heads.pop(), "precision": compute.precision},
        "arms": {arm: {**_of_arm(recipe, arm, runs), **of_arms[arm]} for arm, runs in results.items()},
        **of_study,
        "suspects": {
            "count": int(suspects.contradicted.sum()),
            "checked": len(suspects.rows),
            "method": suspects.method,
        },
        "seconds": seconds,
    }
    write_json(run / "metrics.json", found)
    return found


def _of_arm(recipe: Recipe, arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What `metrics.json` says of an arm: the fields of the first seed's run, and every run."""
    of_run = ("seed", "learning_rate", "edge", "search", "epochs", "stopped", "test", "precision", "seconds")
    return {
        "weights": recipe.weights_of(arm),
        "train": recipe.arms[arm].train,
        **{name: value for name, value in runs[0].items() if name != "seed"},
        "runs": [{name: one[name] for name in of_run} for one in runs],
    }


def _differing(before: Path, text: str) -> str:
    try:
        old, new = _flat(tomllib.loads(before.read_text(encoding="utf-8"))), _flat(tomllib.loads(text))
    except (OSError, ValueError):
        return "its recipe cannot be read"
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    shown = "; ".join(f"{key} is {json.dumps(old.get(key))} there, {json.dumps(new.get(key))} here" for key in keys[:3])
    return shown + (f"; {len(keys) - 3} more" if len(keys) > 3 else "")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
