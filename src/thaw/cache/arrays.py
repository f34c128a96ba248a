"""The cache: arrays on disk under a key made of everything that determines them.

CACHE/KIND/KEY/data-0.bin ...   rows, appended chunk by chunk while the entry is computed
CACHE/KIND/KEY/chunks.jsonl     the finished chunks and their digests, while the entry is computed
CACHE/KIND/KEY/manifest.json    the same for the whole entry, written last: an entry exists when its manifest does
CACHE/KIND/KEY.lock             held by the one process that opens or computes the entry
CACHE/KIND/KEY/*.lock           held by each process for as long as it maps the entry's arrays
"""

import contextlib
import hashlib
import json
import mmap
import os
import random
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from thaw.cache.budget import cache_folder, make_room, mark_in_use, note_owner
from thaw.cache.files import is_read_only, lock_or_wait, write_atomic, write_json, writing
from thaw.errors import StorageError
from thaw.progress import say

Array = NDArray[Any]
Chunks = Iterator[tuple[tuple[Array, ...], dict[str, Any]]]
"""Chunks in order: one array of rows per field, and notes that are merged into those of the entry."""
CHECK_BYTES = 1 << 30
"""When an entry is opened, its bytes are compared with their digests: all of them, or, if there are more than this and
the files are unchanged since they were written, about this many in randomly drawn chunks. A GiB takes 0.1 s from memory
(two cores of a Xeon)."""
SYNC_SECONDS = 1.0
"""Seconds after which chunks are flushed to disk at the latest: a killed process loses no finished chunk, a power cut
about a second of work."""


@dataclass(frozen=True)
class Field:
    """The shape and dtype of a row in one array of an entry."""

    shape: tuple[int, ...]
    dtype: str

    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class CachedArrays:
    """The memory-mapped arrays of a finished cache entry, first dimension n, and the notes made with them."""

    arrays: tuple[Array, ...]
    notes: dict[str, Any]
    made: bool
    """True if this call computed the entry, False if it was in the cache."""


@dataclass(frozen=True)
class _Chunk:
    """A finished chunk: the row after its last one, the digest of its bytes in each file, and its notes."""

    end: int
    digests: list[str]
    notes: dict[str, Any]


def key_of(**parts: Any) -> str:
    """Return a content key: the digest of `parts`, which can be anything that JSON can represent."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cached(kind: str, key: str, rows: int, fields: Iterable[Field], make: Callable[[int], Chunks]) -> CachedArrays:
    """Return the arrays under `kind` and `key`, computing what the cache does not have.

    Two processes that want the same entry wait for each other. Finished chunks survive a killed process; chunks that
    do not match their digests are computed again, with all that follow them. An entry is not removed while its arrays
    are in use. A finished entry that may only be read is opened as it is: without locks, which nobody could hold.

    Parameters
    ----------
    kind
        The folder of the entry in the cache, such as "pixels".
    key
        The entry's content key, see `key_of`.
    rows
        The first dimension of every array.
    fields
        The shape and dtype of a row in each array.
    make
        Takes the first missing row, and yields the chunks from there on.

    Returns
    -------
    CachedArrays
        An array (rows, *shape) for each field, mapped from its file and read-only.

    Raises
    ------
    StorageError
        If the cache cannot be written or its disk is full.
    """
    folder, fields = cache_folder() / kind / key, tuple(fields)
    wanted = rows * sum(field.row_bytes() for field in fields)
    if is_read_only(folder):
        return _read_only(folder, rows, fields)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_or_wait(folder.parent / f"{key}.lock", f"the same {kind}"):
        notes = _find(folder, rows, fields)
        made = notes is None
        if notes is None:
            done = _done_chunks(folder, rows, fields)
            start = done[-1].end if done else 0
            if start:
                say(f"{kind}: {start:,} of {rows:,} rows are in the cache; resuming from there")
            make_room(folder, wanted - start * wanted // rows)
            note_owner(folder)
            _write(folder, rows, fields, done, make(start) if start < rows else iter(()))
            notes = _find(folder, rows, fields)
        if notes is None:
            raise StorageError(f"the cache entry {folder} changed while it was written; run the command again.")
        return _cached_arrays(folder, rows, fields, notes, made)


def opened(kind: str, key: str, rows: int, fields: Iterable[Field]) -> CachedArrays | None:
    """Return the arrays under `kind` and `key` if the cache has them, finished and undamaged; compute nothing.

    Parameters
    ----------
    kind, key, rows, fields
        As in `cached`.

    Returns
    -------
    CachedArrays or None
        As `cached` returns them. None where the entry is missing, unfinished or damaged, or has other rows or fields.

    Raises
    ------
    StorageError
        If a damaged entry cannot be marked as unfinished.
    """
    folder, fields = cache_folder() / kind / key, tuple(fields)
    if not (folder / "manifest.json").exists():
        return None
    if is_read_only(folder):
        return _read_only(folder, rows, fields)
    with lock_or_wait(folder.parent / f"{key}.lock", f"the same {kind}"):
        notes = _find(folder, rows, fields)
        return None if notes is None else _cached_arrays(folder, rows, fields, notes, made=False)


def _read_only(folder: Path, rows: int, fields: tuple[Field, ...]) -> CachedArrays:
    """Open a finished entry that cannot be written. Raises StorageError if it is unfinished or damaged."""
    notes = _find(folder, rows, fields)
    if notes is None:
        raise StorageError(
            f"the cache entry {folder} is unfinished or damaged, and cannot be written; choose another folder with "
            "THAW_CACHE."
        )
    return _cached_arrays(folder, rows, fields, notes, made=False)


def entry_bytes(kind: str, key: str) -> int:
    """Return the bytes that an entry, finished or not, takes on disk."""
    return sum(path.stat().st_size for path in (cache_folder() / kind / key).glob("data-*.bin"))


def release(array: Array) -> None:
    """Give the memory of a mapped array back to the system, whose file cache keeps the pages."""
    mapped = _mapped(array)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _cached_arrays(
    folder: Path, rows: int, fields: tuple[Field, ...], notes: dict[str, Any], made: bool
) -> CachedArrays:
    return CachedArrays(tuple(_map(folder, index, rows, field) for index, field in enumerate(fields)), notes, made)


def _file(folder: Path, index: int) -> Path:
    return folder / f"data-{index}.bin"


def _layout(rows: int, fields: tuple[Field, ...]) -> dict[str, Any]:
    return {"rows": rows, "fields": [[list(field.shape), field.dtype] for field in fields]}


def _file_stats(folder: Path, count: int) -> list[list[int]]:
    """Return the size and modification time of each file: while these stay the same, nothing has written to it."""
    stats = [_file(folder, index).stat() for index in range(count)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]


_checked: dict[Path, list[list[int]]] = {}
"""The entries that this process has checked, and the stats of their files then; lives as long as the process."""


def _find(folder: Path, rows: int, fields: tuple[Field, ...]) -> dict[str, Any] | None:
    """Return the notes of a finished entry, or None if there is none or a digest does not match.

    If a digest does not match, the entry becomes an unfinished one again, where it can be written.
    """
    manifest = folder / "manifest.json"
    try:
        noted = json.loads(manifest.read_text(encoding="utf-8"))
        chunks = [_Chunk(**chunk) for chunk in noted["chunks"]]
        changed, before = _file_stats(folder, len(fields)), noted["changed"]
        expected = [rows * field.row_bytes() for field in fields]
        if noted["layout"] != _layout(rows, fields):
            return None
        sound = [size for size, _ in changed] == expected
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sound and _checked.get(folder) != changed:
        drawn = list(range(len(chunks)))
        if sum(expected) > CHECK_BYTES and before == changed:
            drawn = random.sample(drawn, max(1, len(drawn) * CHECK_BYTES // sum(expected)))
        sound = all(_is_sound(folder, fields, chunks, index) for index in sorted(drawn))
    if not sound:
        if not is_read_only(folder):
            say(f"the cache entry {folder} is damaged; computing the damaged part again")
            with writing(folder):
                _write_chunks(folder, rows, fields, chunks)
                manifest.unlink()
        return None
    with contextlib.suppress(OSError, StorageError):  # a read-only cache is fine, too
        if before != changed:
            write_json(manifest, noted | {"changed": changed})
        manifest.touch()
    _checked[folder] = changed
    return {name: value for chunk in chunks for name, value in chunk.notes.items()}


def _is_sound(folder: Path, fields: tuple[Field, ...], chunks: list[_Chunk], index: int) -> bool:
    """Return True if the bytes of a chunk match their digests."""
    start = chunks[index - 1].end if index else 0
    for number, (field, digest) in enumerate(zip(fields, chunks[index].digests, strict=True)):
        with _file(folder, number).open("rb", buffering=0) as file:
            file.seek(start * field.row_bytes())
            left = (chunks[index].end - start) * field.row_bytes()
            actual = xxhash.xxh3_128()
            while left and (block := file.read(min(left, 8 << 20))):
                actual.update(block)
                left -= len(block)
        if left or actual.hexdigest() != digest:
            return False
    return True


def _done_chunks(folder: Path, rows: int, fields: tuple[Field, ...]) -> list[_Chunk]:
    """Return the finished chunks of an unfinished entry, up to the first that does not match its digests."""
    chunks: list[_Chunk] = []
    try:
        first, *lines = (folder / "chunks.jsonl").read_text(encoding="utf-8").splitlines()
        if json.loads(first) == _layout(rows, fields):
            for line in lines:
                chunks.append(_Chunk(**json.loads(line)))
                if not _is_sound(folder, fields, chunks, len(chunks) - 1):
                    return chunks[:-1]
    except (OSError, ValueError, TypeError):  # a line cut short when the process ended
        pass
    return chunks


def _write_chunks(folder: Path, rows: int, fields: tuple[Field, ...], chunks: list[_Chunk]) -> None:
    lines = [_layout(rows, fields), *map(asdict, chunks)]
    write_atomic(folder / "chunks.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _write(folder: Path, rows: int, fields: tuple[Field, ...], chunks: list[_Chunk], new: Chunks) -> None:
    """Append new chunks to the finished `chunks`, then write the manifest."""
    end = chunks[-1].end if chunks else 0
    left = (rows - end) * sum(field.row_bytes() for field in fields)
    with contextlib.ExitStack() as stack:
        with writing(folder, left):
            (folder / "manifest.json").unlink(missing_ok=True)
            _write_chunks(folder, rows, fields, chunks)
            files = [stack.enter_context(_file(folder, index).open("ab")) for index in range(len(fields))]
            for file, field in zip(files, fields, strict=True):
                file.truncate(end * field.row_bytes())
            journal = stack.enter_context((folder / "chunks.jsonl").open("ab"))
        synced = time.monotonic()
        for arrays, notes in new:
            contents = [
                np.ascontiguousarray(array, dtype=field.dtype).reshape(-1).view(np.uint8).data
                for array, field in zip(arrays, fields, strict=True)
            ]
            end += len(arrays[0])
            chunks.append(_Chunk(end, [xxhash.xxh3_128(content).hexdigest() for content in contents], notes))
            due = time.monotonic() - synced > SYNC_SECONDS or end == rows
            with writing(folder, left):
                for file, content in zip(files, contents, strict=True):
                    _append(file, content, due)
                _append(journal, f"{json.dumps(asdict(chunks[-1]))}\n".encode(), due)
            synced = time.monotonic() if due else synced
            left -= sum(content.nbytes for content in contents)
    with writing(folder):
        changed = _checked[folder] = _file_stats(folder, len(fields))
        listed = list(map(asdict, chunks))
        write_json(folder / "manifest.json", {"layout": _layout(rows, fields), "chunks": listed, "changed": changed})
        (folder / "chunks.jsonl").unlink()


def _append(file: BinaryIO, content: bytes | memoryview, sync: bool) -> None:
    file.write(content)
    file.flush()
    if sync:
        os.fsync(file.fileno())


def _map(folder: Path, index: int, rows: int, field: Field) -> Array:
    """Map one array of an entry, and mark the entry as in use until the mapping is gone."""
    path = _file(folder, index)
    array = np.memmap(path, np.dtype(field.dtype), "r", shape=(rows, *field.shape))
    with contextlib.suppress(OSError):
        weakref.finalize(_mapped(array), mark_in_use(folder))
    return array


def _mapped(array: Array) -> mmap.mmap | None:
    """Return the memory mapping that an array is a view of, or None."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
