"""The cache's size: what lies in it, what is in use, and what goes when there is no room."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from thaw.cache.files import free_bytes, lock_or_wait, no_room, writing

CACHE_BYTES = 20 << 30
"""Bytes that the cache may hold before the entries used longest ago are removed."""


@dataclass(frozen=True)
class Listed:
    """An entry as `thaw cache` lists it."""

    kind: str
    key: str
    bytes: int
    used: float
    """When it was last used, in seconds since the epoch."""
    path: Path
    finished: bool
    """Whether it is whole; else a study was stopped, or is at it."""


def cache_folder() -> Path:
    """`THAW_CACHE`, else the platform's folder for caches."""
    return Path(os.environ.get("THAW_CACHE") or platformdirs.user_cache_dir("thaw")).expanduser()


def datasets_folder() -> Path:
    """Where `datasets` keeps tables that it read: one entry."""
    return cache_folder() / "datasets"


def entries() -> list[Listed]:
    """All entries of the cache, those used longest ago first."""
    found = []
    for folder in (*cache_folder().glob("*/*/"), datasets_folder()):
        with contextlib.suppress(OSError):
            manifest, whole = folder / "manifest.json", not (folder / "chunks.jsonl").exists()
            used = (manifest if manifest.exists() else folder).stat().st_mtime
            if folder.parent != datasets_folder():
                found.append(Listed(folder.parent.name, folder.name, _bytes(folder), used, folder, whole))
    return sorted(found, key=lambda entry: entry.used)


def clear() -> tuple[int, int]:
    """Remove every entry that no process uses; returns the bytes that were freed and the number of those in use."""
    freed = in_use = 0
    for entry in entries():
        if _removed(entry.path):
            freed += entry.bytes
        else:
            in_use += 1
    return freed, in_use


def make_room(folder: Path, wanted: int) -> None:
    """Remove the entries used longest ago until the budget and the disk have room for `wanted` bytes in `folder`.

    Raises StorageError where removing all that are not in use does not make enough room on the disk.
    """
    listed = entries()
    excess = max(sum(entry.bytes for entry in listed) + wanted - CACHE_BYTES, wanted - free_bytes(folder))
    for entry in listed:
        if excess <= 0:
            break
        if entry.path != folder and _removed(entry.path):
            excess -= entry.bytes
    if wanted > free_bytes(folder):
        raise no_room(folder, wanted)


def room() -> int:
    """Bytes that the disk has for an entry: what is free, and what could be removed."""
    return free_bytes(cache_folder()) + sum(entry.bytes for entry in entries() if not _in_use(entry.path))


@contextlib.contextmanager
def using(folder: Path) -> Iterator[None]:
    """Keep an entry, which need not exist yet, from being removed during the block."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_or_wait(folder.parent / f"{folder.name}.lock", "the same files"), writing(folder):
        unmark = mark_in_use(folder)
    try:
        yield
    finally:
        unmark()


def mark_in_use(folder: Path) -> Callable[[], None]:
    """Mark an entry, whose lock is held, as in use by this process; returns what to call when it no longer is."""
    _is_marked(folder)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.lock"
    lock = FileLock(path, thread_local=False)
    lock.acquire()

    def unmark() -> None:
        lock.release()
        with contextlib.suppress(OSError):  # who just looks at the mark has it open, and removes it
            path.unlink()

    return unmark


def _is_marked(folder: Path) -> bool:
    """Whether a process holds a mark in an entry, whose lock is held; marks of processes that died are removed.

    A mark is named once and made under the entry's lock, so that no one can take it after it was found free.
    """
    held = False
    for path in folder.glob("*.lock"):
        with _if_free(path) as free:
            held = held or not free
        if free:
            with contextlib.suppress(OSError):
                path.unlink()
    return held


def _in_use(folder: Path) -> bool:
    with _if_free(folder.parent / f"{folder.name}.lock") as free:
        return not free or _is_marked(folder)


def _removed(folder: Path) -> bool:
    """Remove an entry unless a process opens, makes or maps it; returns whether it is gone."""
    with _if_free(folder.parent / f"{folder.name}.lock") as free:
        if not free or _is_marked(folder):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()


@contextlib.contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Hold a lock for the block where no one else does; yields whether it is so."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _bytes(folder: Path) -> int:
    return sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
