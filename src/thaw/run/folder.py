"""The run directory: what a study leaves behind, and what others read."""

import contextlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
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

    Where the block fails before any work was done, as a mistyped source makes it, what was made is removed again.

    Raises StorageError when it cannot be written, holds something other than this study, or another study is at it.
    """
    text = to_toml(recipe)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_another(folder, text)
    try:
        with _entered(folder, text):
            yield folder
    except BaseException:
        if _names(folder) - {LOCK} <= BEGUN:
            with contextlib.suppress(OSError):
                for name in (*BEGUN, LOCK):
                    (folder / name).unlink(missing_ok=True)
                for path in new:
                    path.rmdir()
        raise


@contextlib.contextmanager
def _entered(folder: Path, text: str) -> Iterator[None]:
    with lock_or_refuse(folder / LOCK, f"another study is running in {folder}"):
        _refuse_another(folder, text)
        for path in folder.rglob(f".*{PART}"):
            path.unlink(missing_ok=True)
        write_atomic(folder / "recipe.toml", text)
        yield


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(PART)}


def _refuse_another(folder: Path, text: str) -> None:
    """Raise StorageError where a folder holds anything but the study of the recipe `text`.

    A study that ended as it began does not count: a mistyped source must not take the folder from the right one.
    """
    if _names(folder) - {LOCK} in (set(), BEGUN):
        return
    before = folder / "recipe.toml"
    if not before.exists():
        raise StorageError(f"{folder} is not empty and holds no study; give another folder with --out.")
    if before.read_text(encoding="utf-8") != text:
        differing = _differing(before, text)
        raise StorageError(f"{folder} holds another study ({differing}); give another folder with --out.")


def _differing(before: Path, text: str) -> str:
    try:
        old, new = tomllib.loads(before.read_text(encoding="utf-8")), tomllib.loads(text)
    except (OSError, ValueError):
        return "its recipe cannot be read"
    found = differences([old, new])
    first = list(found.items())[:3]
    shown = "; ".join(f"{key} is {json.dumps(was)} there, {json.dumps(now)} here" for key, (was, now) in first)
    return shown + (f"; {len(found) - 3} more" if len(found) > 3 else "")


def differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys by which recipes differ, sorted, and the value of each in each recipe; None where it is not set.

    Parameters
    ----------
    recipes
        Tables as dictionaries, as TOML gives them.
    """
    flat = [_flat(recipe) for recipe in recipes]
    values = {key: [one.get(key) for one in flat] for key in sorted({key for one in flat for key in one})}
    return {key: of_each for key, of_each in values.items() if any(value != of_each[0] for value in of_each)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
