"""The run directory: what a study leaves behind, and what others read."""

import contextlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thaw.cache.files import PART, lock_or_refuse, write_atomic, writing
from thaw.errors import StorageError
from thaw.recipe import Recipe, to_toml
from thaw.run.live import FILE as PROGRESS

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
    with lock_or_refuse(folder / LOCK, f"another study is running in {folder}"):
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
