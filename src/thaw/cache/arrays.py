"""The cache: arrays kept on disk under a key made of everything that determines them.

CACHE/KIND/KEY/data-0.bin ...   rows, appended chunk by chunk while the entry is made
CACHE/KIND/KEY/chunks.jsonl     the finished chunks and their digests, while the entry is made
CACHE/KIND/KEY/manifest.json    all of that, written last: an entry exists when its manifest does
CACHE/KIND/KEY.lock             held by the one process that opens or makes the entry
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

from thaw.cache.budget import cache_folder, make_room, mark_in_use
from thaw.cache.files import lock_or_wait, write_atomic, write_json, writing
from thaw.errors import StorageError
from thaw.progress import say

Array = NDArray[Any]
Made = Iterator[tuple[tuple[Array, ...], dict[str, Any]]]
"""Chunks in order: one array of rows for each field, and notes to merge into the entry's."""
CHECK_BYTES = 1 << 30
"""Of an entry found, at most this much is read and compared with its digests: all of it, or, where it is larger and
its files are as they were left, some chunks drawn at random. A GiB takes 0.1 s from memory (two cores of a Xeon)."""
SYNC_SECONDS = 1.0
"""Chunks reach the disk at least this often; a killed process loses no finished chunk, a power cut about a second."""


@dataclass(frozen=True)
class Field:
    """One array of an entry: what a row looks like."""

    shape: tuple[int, ...]
    dtype: str

    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Entry:
    """Arrays of a finished cache entry, memory-mapped, first dimension n; and what was noted about them."""

    arrays: tuple[Array, ...]
    notes: dict[str, Any]
    made: bool
    """Whether this call made it, or found it."""


@dataclass(frozen=True)
class _Chunk:
    """A finished chunk: the row after its last one, a digest of its bytes in each file, and its notes."""

    end: int
    digests: list[str]
    notes: dict[str, Any]


def key_of(**parts: Any) -> str:
    """A content key: the digest of `parts`, which are anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cached(kind: str, key: str, rows: int, fields: Iterable[Field], make: Callable[[int], Made]) -> Entry:
    """The arrays under `kind` and `key`, made if they are not there.

    `make` takes the first row to make and yields the chunks from there on: what a killed process has finished is kept.
    Two processes that want the same entry wait for each other. Chunks that are not as their digests say are made
    again, with all after them. While its arrays live, an entry is not removed. Raises StorageError where the cache
    cannot be written or has no room.
    """
    folder, fields = cache_folder() / kind / key, tuple(fields)
    wanted = rows * sum(field.row_bytes() for field in fields)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_or_wait(folder.parent / f"{key}.lock", f"the same {kind}"):
        notes = _find(folder, rows, fields)
        made = notes is None
        if notes is None:
            kept = _kept(folder, rows, fields)
            start = kept[-1].end if kept else 0
            if start:
                say(f"{kind}: {start:,} of {rows:,} rows are kept from before; going on from there")
            make_room(folder, wanted - start * wanted // rows)
            _write(folder, rows, fields, kept, make(start) if start < rows else iter(()))
            notes = _find(folder, rows, fields)
        if notes is None:
            raise StorageError(f"the cache entry {folder} changed while it was written; run the command again.")
        return Entry(tuple(_map(folder, index, rows, field) for index, field in enumerate(fields)), notes, made)


def kept_bytes(kind: str, key: str) -> int:
    """Bytes that an entry, finished or not, takes already."""
    return sum(path.stat().st_size for path in (cache_folder() / kind / key).glob("data-*.bin"))


def release(array: Array) -> None:
    """Give the memory of a mapped array back to the system; the pages stay in its file cache."""
    mapped = _mapped(array)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _file(folder: Path, index: int) -> Path:
    return folder / f"data-{index}.bin"


def _layout(rows: int, fields: tuple[Field, ...]) -> dict[str, Any]:
    return {"rows": rows, "fields": [[list(field.shape), field.dtype] for field in fields]}


def _changed(folder: Path, count: int) -> list[list[int]]:
    """Size and time of change of each file: while these stay, nothing has written to it."""
    found = [_file(folder, index).stat() for index in range(count)]
    return [[one.st_size, one.st_mtime_ns] for one in found]


_checked: dict[Path, list[list[int]]] = {}
"""The entries that this process has checked, as their files were then."""


def _find(folder: Path, rows: int, fields: tuple[Field, ...]) -> dict[str, Any] | None:
    """The notes of a finished entry; None where there is none, or where a digest does not fit.

    In the latter case what comes before stays as finished chunks.
    """
    manifest = folder / "manifest.json"
    try:
        noted = json.loads(manifest.read_text(encoding="utf-8"))
        chunks = [_Chunk(**chunk) for chunk in noted["chunks"]]
        changed, before = _changed(folder, len(fields)), noted["changed"]
        expected = [rows * field.row_bytes() for field in fields]
        sound = noted["layout"] == _layout(rows, fields) and [size for size, _ in changed] == expected
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sound and _checked.get(folder) != changed:
        drawn = list(range(len(chunks)))
        if sum(expected) > CHECK_BYTES and before == changed:
            drawn = random.sample(drawn, max(1, len(drawn) * CHECK_BYTES // sum(expected)))
        sound = all(_is_sound(folder, fields, chunks, index) for index in sorted(drawn))
    if not sound:
        say(f"the cache entry {folder} is not as it was written; what is damaged is made again")
        with writing(folder):
            _write_chunks(folder, rows, fields, chunks)
            manifest.unlink()
        return None
    with contextlib.suppress(OSError, StorageError):  # a cache that can only be read serves as well
        if before != changed:
            write_json(manifest, noted | {"changed": changed})
        manifest.touch()
    _checked[folder] = changed
    return {name: value for chunk in chunks for name, value in chunk.notes.items()}


def _is_sound(folder: Path, fields: tuple[Field, ...], chunks: list[_Chunk], index: int) -> bool:
    start = chunks[index - 1].end if index else 0
    for number, (field, digest) in enumerate(zip(fields, chunks[index].digests, strict=True)):
        with _file(folder, number).open("rb", buffering=0) as file:
            file.seek(start * field.row_bytes())
            left = (chunks[index].end - start) * field.row_bytes()
            found = xxhash.xxh3_128()
            while left and (part := file.read(min(left, 8 << 20))):
                found.update(part)
                left -= len(part)
        if left or found.hexdigest() != digest:
            return False
    return True


def _kept(folder: Path, rows: int, fields: tuple[Field, ...]) -> list[_Chunk]:
    """The finished chunks of an entry that is not whole, as far as they are what was written."""
    chunks: list[_Chunk] = []
    try:
        first, *lines = (folder / "chunks.jsonl").read_text(encoding="utf-8").splitlines()
        if json.loads(first) == _layout(rows, fields):
            for line in lines:
                chunks.append(_Chunk(**json.loads(line)))
                if not _is_sound(folder, fields, chunks, len(chunks) - 1):
                    return chunks[:-1]
    except (OSError, ValueError, TypeError):  # a line that was being written when the process ended
        pass
    return chunks


def _write_chunks(folder: Path, rows: int, fields: tuple[Field, ...], chunks: list[_Chunk]) -> None:
    lines = [_layout(rows, fields), *map(asdict, chunks)]
    write_atomic(folder / "chunks.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _write(folder: Path, rows: int, fields: tuple[Field, ...], chunks: list[_Chunk], made: Made) -> None:
    """Append what is `made` to the finished `chunks`, and write the manifest."""
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
        for arrays, notes in made:
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
        changed = _checked[folder] = _changed(folder, len(fields))
        listed = list(map(asdict, chunks))
        write_json(folder / "manifest.json", {"layout": _layout(rows, fields), "chunks": listed, "changed": changed})
        (folder / "chunks.jsonl").unlink()


def _append(file: BinaryIO, content: bytes | memoryview, sync: bool) -> None:
    file.write(content)
    file.flush()
    if sync:
        os.fsync(file.fileno())


def _map(folder: Path, index: int, rows: int, field: Field) -> Array:
    """One array of an entry, and a lock on it for as long as anything maps it."""
    path = _file(folder, index)
    array = np.memmap(path, np.dtype(field.dtype), "r", shape=(rows, *field.shape))
    with contextlib.suppress(OSError):
        weakref.finalize(_mapped(array), mark_in_use(folder))
    return array


def _mapped(array: Array) -> mmap.mmap | None:
    """The mapping of a file that an array looks into."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
