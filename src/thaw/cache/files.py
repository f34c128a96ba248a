"""Files that are there whole or not at all, locks between studies, and what a full disk says."""

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

PART = ".part"
"""The ending of files that are being written."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields an empty file beside `path` to write into; it takes the place of `path` when the block ends well.

    Of a link, it takes the place of what the link leads to. Files that a killed process left so are removed an hour
    later. Raises StorageError where `path` is a folder, a device or the like.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}; give the name of a file.")
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
    """Write a file so that it is there whole or not at all. Raises StorageError where it cannot be written."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path.parent, len(data)), replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def writing(folder: Path, wanted: int = 0) -> Iterator[None]:
    """A block that writes `wanted` bytes into `folder`; an OSError in it becomes a StorageError of one sentence."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise no_room(folder, wanted) from error
        raise StorageError(
            f"{folder} cannot be written ({error.strerror or error}); give another folder with --out, or THAW_CACHE."
        ) from error


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or what one may take of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(folder: Path, wanted: int, remedy: str = "make room") -> StorageError:
    """The sentence about a disk that has no room for `wanted` bytes (0 where unknown) in `folder`."""
    need = f"{size(wanted)} must be free, and" if wanted else "only"
    return StorageError(
        f"there is no room in {folder}: {need} {size(free_bytes(folder))} are; {remedy} and type the same command "
        "again, which goes on from what is kept."
    )


def require_room(folder: Path, wanted: int) -> None:
    """Raise StorageError where a folder's disk has no room for `wanted` bytes: before the work, not after it."""
    if wanted > free_bytes(folder):
        raise no_room(folder, wanted)


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written into a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def lock_or_wait(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; where another process holds it, say that `what` is waited for, and wait.

    The system lets go of the lock when the process ends, however it ends.
    """
    lock = FileLock(path)
    with writing(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another study is making {what}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_or_refuse(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`. Raises StorageError, which begins with `refusal`, where another process holds it."""
    lock = FileLock(path)
    with writing(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(f"{refusal}; wait until it ends, or give another folder with --out.") from error
    try:
        yield
    finally:
        lock.release()


def size(count: float) -> str:
    """Bytes for people: 12 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
