"""Atomic writes, locks between processes, and errors about full or read-only disks."""

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from thaw.errors import StorageError
from thaw.progress import say
from thaw.text import format_bytes

PART = ".part"
"""Suffix of files that are being written."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` to write into; it replaces `path` if the block succeeds.

    If `path` is a link, its target is replaced. Temporary files that a killed process left behind are removed after an
    hour. Raises StorageError if `path` exists and is not a regular file.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise StorageError(
            f"{path} is {'a folder' if path.is_dir() else 'not a regular file'}; give the name of a file."
        )
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{PART}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=PART)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file atomically: it is there as a whole or not at all. Raises StorageError if it cannot be written."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path.parent, len(data)), replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def writing(folder: Path, wanted: int = 0) -> Iterator[None]:
    """Turn an OSError of a block that writes `wanted` bytes into `folder` into a StorageError of one sentence."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise no_room(folder, wanted) from error
        raise StorageError(
            f"cannot write to {folder} ({error.strerror or error}); choose another folder with --out or THAW_CACHE."
        ) from error


def is_read_only(folder: Path) -> bool:
    """Return True if a folder exists and this process may not write into it, or its disk is read-only."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def is_full(error: OSError) -> bool:
    """Return True if an error says that the disk is full or the user's quota used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(folder: Path, wanted: int, remedy: str = "free some space") -> StorageError:
    """Return the error for a disk without room for `wanted` bytes (0 if unknown); `remedy` says what to do."""
    needed = f"{format_bytes(wanted)} needed, " if wanted else ""
    return StorageError(
        f"there is not enough disk space in {folder} ({needed}{format_bytes(free_bytes(folder))} free); {remedy} and "
        "run the same command again to resume."
    )


def require_room(folder: Path, wanted: int) -> None:
    """Raise StorageError if the disk of a folder has no room for `wanted` bytes: before the work, not after it."""
    if wanted > free_bytes(folder):
        raise no_room(folder, wanted)


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def lock_or_wait(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` during the block; if another process holds it, say that it makes `what`, and wait.

    The system releases the lock when the process ends, however it ends.
    """
    lock = FileLock(path)
    with writing(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another study that is computing {what}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_or_refuse(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path` during the block.

    Raises StorageError, whose message begins with `refusal`, if another process holds it.
    """
    lock = FileLock(path)
    with writing(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(f"{refusal}; wait until it ends, or choose another folder with --out.") from error
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
