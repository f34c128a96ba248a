"""The budget of the cache: its limit, its entries; remove those used longest ago, keep those in use."""

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from thaw.cache.files import free_bytes, is_read_only, lock_or_wait, no_room, write_json, writing
from thaw.errors import StorageError

LIMIT = "THAW_CACHE_LIMIT"
"""The environment variable with the bytes that the cache may hold."""
FRACTION = 0.5
"""What the cache may hold by default: this fraction of what it holds and of what its disk has free. The rest is for
runs, for entries that are in use when another study wants room, and for other programs. The sum of both, unlike the
free space alone, does not change as the cache is filled."""
UNITS = {"": 1, "b": 1} | {
    f"{prefix}{end}": base**power for power, prefix in enumerate("kmgt", 1) for end, base in (("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache as `thaw cache` lists it."""

    kind: str
    key: str
    bytes: int
    used: float
    """When it was last used, in seconds since the epoch."""
    path: Path
    finished: bool
    """False if a study is computing it, or was stopped while it did."""
    made_for: dict[str, str]
    """The `source` and the `network` of the study that made it; empty where that is not known."""


OWNER = "made-for.json"
"""The file in an entry that says which study made it."""
_owner: ContextVar[dict[str, str] | None] = ContextVar("owner", default=None)
"""Set by `making_for` for its block."""


@contextlib.contextmanager
def making_for(source: str, network: str) -> Iterator[None]:
    """Note with each entry that this block makes what it was made for, for those who look at the cache."""
    token = _owner.set({"source": source, "network": network})
    try:
        yield
    finally:
        _owner.reset(token)


def note_owner(folder: Path) -> None:
    """Write down what the entry `folder` is made for, if that is known and not noted yet."""
    owner = _owner.get()
    if owner is not None and not (folder / OWNER).exists():
        with contextlib.suppress(OSError, StorageError):
            write_json(folder / OWNER, owner)


def _made_for(folder: Path) -> dict[str, str]:
    try:
        noted = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return {name: str(noted[name]) for name in ("source", "network")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def cache_folder() -> Path:
    """Return the folder of the cache: `THAW_CACHE`, else the platform's folder for caches.

    Raises StorageError if it begins with `~` and the home folder is unknown.
    """
    given = os.environ.get("THAW_CACHE") or platformdirs.user_cache_dir("thaw")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise StorageError(f"the home folder in {given} is unknown; set THAW_CACHE to a folder.") from error


def cache_limit() -> int:
    """Return the bytes that the cache may hold; beyond them, the entries used longest ago are removed.

    It is `THAW_CACHE_LIMIT`, else half of what the cache holds and its disk has free, as first seen by this process:
    the networks that a study planned to run from the cache are run so, whatever else fills the disk.

    Raises
    ------
    StorageError
        If `THAW_CACHE_LIMIT` is not a number of bytes.
    """
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return _default_limit(cache_folder())
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([a-z]*)", text.lower(), re.ASCII)
    if found is None or found[2] not in UNITS:
        raise StorageError(f"{LIMIT} is {text!r}, not a number of bytes; write it like 50GB, 200GiB or 1000000000.")
    return int(float(found[1]) * UNITS[found[2]])


@functools.cache
def _default_limit(folder: Path) -> int:
    """Return the limit by the disk of a cache; remembered for as long as the process lives."""
    return int(FRACTION * (sum(entry.bytes for entry in entries()) + free_bytes(folder)))


def datasets_folder() -> Path:
    """Return the folder, one entry of the cache, in which `datasets` keeps the tables that it read."""
    return cache_folder() / "datasets"


def entries() -> list[CacheEntry]:
    """Return all entries of the cache, those used longest ago first."""
    listed = []
    for folder in (*cache_folder().glob("*/*/"), datasets_folder()):
        with contextlib.suppress(OSError):
            manifest, whole = folder / "manifest.json", not (folder / "chunks.jsonl").exists()
            used = (manifest if manifest.exists() else folder).stat().st_mtime
            if folder.parent != datasets_folder():
                made_for = _made_for(folder)
                listed.append(
                    CacheEntry(folder.parent.name, folder.name, _bytes(folder), used, folder, whole, made_for)
                )
    return sorted(listed, key=lambda entry: entry.used)


def clear(key: str = "") -> tuple[int, int]:
    """Remove every entry that no process uses; return the bytes freed and the number of entries in use.

    With a key, or how one begins, that entry alone is removed. Raises StorageError if the cache is read-only, or the
    key is that of no entry or begins those of several.
    """
    chosen = [entry for entry in entries() if entry.key.startswith(key)]
    if key and len({entry.key for entry in chosen}) != 1:
        found = "several entries have keys that begin" if chosen else "no entry has a key that begins"
        raise StorageError(f"{found} with {key!r}; `thaw cache` lists them.")
    if is_read_only(cache_folder()):
        raise StorageError(f"{cache_folder()} is read-only and cannot be cleared; set THAW_CACHE to another folder.")
    freed = in_use = 0
    for entry in chosen:
        if _remove(entry.path):
            freed += entry.bytes
        else:
            in_use += 1
    return freed, in_use


def make_room(folder: Path, wanted: int) -> None:
    """Remove the entries used longest ago until limit and disk have room for `wanted` bytes in the entry `folder`.

    Raises StorageError if the disk has no room even after removing every entry that is not in use.
    """
    listed = entries()
    excess = max(sum(entry.bytes for entry in listed) + wanted - cache_limit(), wanted - free_bytes(folder))
    for entry in listed:
        if excess <= 0:
            break
        if entry.path != folder and _remove(entry.path):
            excess -= entry.bytes
    if wanted > free_bytes(folder):
        raise no_room(folder, wanted)


def available_bytes() -> int:
    """Return the bytes that an entry can take on the disk: free space, and entries that could be removed."""
    return free_bytes(cache_folder()) + sum(entry.bytes for entry in entries() if not _in_use(entry.path))


@contextlib.contextmanager
def using(folder: Path) -> Iterator[None]:
    """Keep an entry, which need not exist yet, from being removed during the block; nothing is in a read-only cache."""
    if is_read_only(cache_folder()):
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_or_wait(folder.parent / f"{folder.name}.lock", "the same files"), writing(folder):
        unmark = mark_in_use(folder)
    try:
        yield
    finally:
        unmark()


def mark_in_use(folder: Path) -> Callable[[], None]:
    """Mark an entry as in use by this process, which holds its lock; return a function that removes the mark."""
    _is_marked(folder)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.lock"
    lock = FileLock(path, thread_local=False)
    lock.acquire()

    def unmark() -> None:
        lock.release()
        with contextlib.suppress(OSError):  # a process that is checking the mark has it open, and removes it
            path.unlink()

    return unmark


def _is_marked(folder: Path) -> bool:
    """Return True if a process marks an entry, whose lock is held, as in use; remove the marks of dead processes.

    A mark has a unique name and is created under the entry's lock, so nobody can take it once it was found free.
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


def _remove(folder: Path) -> bool:
    """Remove an entry unless a process opens, computes or maps it; return True if it is gone."""
    with _if_free(folder.parent / f"{folder.name}.lock") as free:
        if not free or _is_marked(folder):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()


@contextlib.contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Hold a lock during the block if no one else does; yield True if so."""
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
