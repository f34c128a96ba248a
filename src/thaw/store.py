"""The cache: arrays kept on disk under a key made of everything that determines them.

CACHE/KIND/KEY/data-0.bin ...   rows, appended while the entry is made
CACHE/KIND/KEY/manifest.json    written last: an entry exists when its manifest does
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray

from thaw.errors import StorageError
from thaw.files import write_atomic as write_atomic
from thaw.files import write_json as write_json

Array = NDArray[Any]
BUDGET = 20 << 30
"""Bytes that the cache may hold before the entries used longest ago are removed."""


def cache_folder() -> Path:
    """`THAW_CACHE`, else the platform's folder for caches."""
    return Path(os.environ.get("THAW_CACHE") or platformdirs.user_cache_dir("thaw")).expanduser()


def key_of(**parts: Any) -> str:
    """A content key: the digest of `parts`, which are anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Field:
    """One array of an entry: what a row looks like."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Entry:
    """Arrays of a finished cache entry, memory-mapped, first dimension n; and what was noted about them."""

    arrays: tuple[Array, ...]
    notes: dict[str, Any]
    made: bool
    """Whether this call made it, or found it."""


def cached(
    kind: str,
    key: str,
    rows: int,
    fields: Iterable[Field],
    make: Callable[[], Iterator[tuple[tuple[Array, ...], dict[str, Any]]]],
) -> Entry:
    """The arrays under `kind` and `key`, made if they are not there.

    `make` yields chunks in order: one array of rows for each field, and notes to merge into the entry's. Two processes
    that want the same entry wait for each other. An entry whose files are not as its manifest says is made again.
    Raises StorageError where the cache cannot be written.
    """
    folder = cache_folder() / kind / key
    fields = tuple(fields)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{key}.lock"):
            entry = _open(folder, rows, fields, made=False)
            if entry is None:
                _make_room(sum(rows * _row_bytes(field) for field in fields), keep=folder)
                _write(folder, rows, fields, make())
                entry = _open(folder, rows, fields, made=True)
    except OSError as error:
        raise StorageError(f"the cache {cache_folder()} cannot be written: {error}; set THAW_CACHE.") from error
    if entry is None:
        raise StorageError(f"the cache entry {folder} changed while it was written; run the command again.")
    return entry


def release(array: Array) -> None:
    """Give the memory of a mapped array back to the system; the pages stay in its file cache."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    if isinstance(base.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Listed:
    """A finished entry as `thaw cache` lists it."""

    kind: str
    key: str
    bytes: int
    used: float
    """When it was last used, in seconds since the epoch."""
    path: Path


def entries() -> list[Listed]:
    """All finished entries of the cache, those used longest ago first."""
    found = []
    for manifest in cache_folder().glob("*/*/manifest.json"):
        with contextlib.suppress(OSError):
            folder = manifest.parent
            size = sum(item.stat().st_size for item in folder.iterdir())
            found.append(Listed(folder.parent.name, folder.name, size, manifest.stat().st_mtime, folder))
    return sorted(found, key=lambda entry: entry.used)


def clear() -> int:
    """Remove every entry, finished or not; returns the bytes that were freed."""
    freed = 0
    for folder in cache_folder().glob("*/*/"):
        freed += sum(item.stat().st_size for item in folder.iterdir() if item.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def _row_bytes(field: Field) -> int:
    return int(np.prod(field.shape, dtype=np.int64)) * np.dtype(field.dtype).itemsize


def _file(folder: Path, index: int) -> Path:
    return folder / f"data-{index}.bin"


def _open(folder: Path, rows: int, fields: tuple[Field, ...], made: bool) -> Entry | None:
    manifest = folder / "manifest.json"
    try:
        noted = json.loads(manifest.read_text(encoding="utf-8"))
        expected = [rows * _row_bytes(field) for field in fields]
        if noted["bytes"] != expected or [_file(folder, i).stat().st_size for i in range(len(fields))] != expected:
            return None
        manifest.touch()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    arrays = tuple(
        np.memmap(_file(folder, i), np.dtype(field.dtype), "r", shape=(rows, *field.shape))
        for i, field in enumerate(fields)
    )
    return Entry(arrays, noted["notes"], made)


def _write(
    folder: Path, rows: int, fields: tuple[Field, ...], chunks: Iterator[tuple[tuple[Array, ...], dict[str, Any]]]
) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)
    notes: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_file(folder, i).open("wb")) for i in range(len(fields))]
        for arrays, noted in chunks:
            notes.update(noted)
            for file, field, array in zip(files, fields, arrays, strict=True):
                file.write(np.ascontiguousarray(array, dtype=field.dtype).data)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    write_json(
        folder / "manifest.json",
        {"bytes": [rows * _row_bytes(field) for field in fields], "notes": notes, "made": time.time()},
    )


def _make_room(wanted: int, keep: Path) -> None:
    listed = entries()
    excess = sum(entry.bytes for entry in listed) + wanted - BUDGET
    for entry in listed:
        if excess <= 0:
            return
        if entry.path != keep:
            shutil.rmtree(entry.path, ignore_errors=True)
            excess -= entry.bytes
