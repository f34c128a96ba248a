"""The cache: entries are atomic, resume where they stopped, stay within the budget, and are computed once."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock, Timeout

from helpers.cli import thaw
from thaw.cache import arrays as store
from thaw.cache import budget as eviction
from thaw.cache.arrays import Chunks, Field, cached, key_of, opened
from thaw.cache.budget import cache_folder, cache_limit, clear, entries
from thaw.cache.checkpoint import cached_json
from thaw.cache.files import write_atomic
from thaw.data.dataset_folder import load_parquet
from thaw.errors import StorageError

ROWS, CHUNK = 10, 4
FIELDS = [Field((3,), "uint8"), Field((), "float32")]


def expected(value: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(ROWS)
    return (rows[:, None] * value + np.arange(3)).astype(np.uint8), rows.astype(np.float32) * value


def maker(value: int = 1, asked: list[int] | None = None, stop: int = ROWS) -> Callable[[int], Chunks]:
    """Return a function that makes rows in chunks, records where it was asked to begin, and fails at the row `stop`."""

    def make(first: int) -> Chunks:
        if asked is not None:
            asked.append(first)
        for start in range(first, ROWS, CHUNK):
            if start >= stop:
                raise RuntimeError("power cut")
            yield tuple(array[start : start + CHUNK] for array in expected(value)), {str(start): "noted"}

    return make


def entry(key: str = "k", make: Callable[[int], Chunks] | None = None) -> store.CachedArrays:
    return cached("tests", key, ROWS, FIELDS, make or maker())


def folder_of(key: str = "k") -> Path:
    return cache_folder() / "tests" / key


def is_whole(found: store.CachedArrays) -> bool:
    return found.notes.keys() == {"0", "4", "8"} and all(map(np.array_equal, found.arrays, expected()))


def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_checked", {})


def test_an_entry_is_made_once_and_found_again() -> None:
    first, again = entry(), entry(make=maker(2))
    assert (first.made, again.made) == (True, False)
    assert is_whole(first)
    assert is_whole(again)


def test_an_entry_goes_on_from_its_last_finished_chunk() -> None:
    asked: list[int] = []
    for stop in (0, 4, 8):
        with pytest.raises(RuntimeError, match="power cut"):
            entry(make=maker(asked=asked, stop=stop))
        assert not (folder_of() / "manifest.json").exists()
        assert [one.finished for one in entries()] == [False]
    assert is_whole(entry(make=maker(asked=asked)))
    assert asked == [0, 0, 4, 8]
    assert not (folder_of() / "chunks.jsonl").exists()


def test_an_entry_whose_chunks_are_all_there_only_lacks_its_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a process was killed just before writing it."""
    with monkeypatch.context() as killed:
        killed.setattr(store, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            entry()
    assert not (folder_of() / "manifest.json").exists()
    assert is_whole(entry(make=lambda _: pytest.fail("nothing is to be made")))


def _torn(folder: Path) -> int:
    """Leave a chunk and its line half written; return the next row to make."""
    with (folder / "data-0.bin").open("ab") as data, (folder / "chunks.jsonl").open("a") as lines:
        data.write(b"123")
        lines.write('{"end": 12, "dig')
    return 8


def _lost(folder: Path) -> int:
    """Leave the files as a power cut does before the second chunk's bytes reached the disk."""
    os.truncate(folder / "data-1.bin", 6 * 4)
    return 4


def _other(folder: Path) -> int:
    """Leave chunks of an entry with another layout."""
    path = folder / "chunks.jsonl"
    path.write_text(path.read_text().replace('"rows": 10', '"rows": 11'))
    return 0


def _none(folder: Path) -> int:
    (folder / "chunks.jsonl").write_bytes(b"")
    return 0


@pytest.mark.parametrize("damage", [_torn, _lost, _other, _none])
def test_finished_chunks_of_an_unfinished_entry_are_checked(damage: Callable[[Path], int]) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        entry(make=maker(stop=8))
    first, asked = damage(folder_of()), []
    assert is_whole(entry(make=maker(asked=asked)))
    assert asked == [first]


def test_a_damaged_entry_is_made_again_from_its_first_damaged_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    entry()
    for row, first in ((0, 0), (5, 4), (9, 8)):
        as_in_a_new_process(monkeypatch)
        with (folder_of() / "data-0.bin").open("rb+") as file:
            file.seek(row * 3 + 1)
            file.write(b"\xff")
        asked: list[int] = []
        found = entry(make=maker(asked=asked))
        assert (found.made, asked) == (True, [first])
        assert is_whole(found)
    path = folder_of() / "data-1.bin"
    for damage in (lambda: os.truncate(path, 7), path.unlink, (folder_of() / "manifest.json").unlink):
        damage()
        assert is_whole(entry())
    (folder_of() / "manifest.json").write_text('{"layout": ')
    assert entry().made


def test_a_change_that_keeps_size_and_time_is_found_in_a_small_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry()
    path = folder_of() / "data-0.bin"
    before = path.stat()
    path.write_bytes(bytes(ROWS * 3))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    as_in_a_new_process(monkeypatch)
    assert is_whole(entry())


def test_a_large_entry_is_checked_whole_only_when_it_was_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    entry()
    checked: list[int] = []
    real = store._is_sound
    monkeypatch.setattr(store, "_is_sound", lambda *given: checked.append(given[3]) or real(*given))
    monkeypatch.setattr(store, "CHECK_BYTES", 30)
    for touched, count in ((False, 1), (True, 3), (False, 1)):
        as_in_a_new_process(monkeypatch)
        if touched:
            os.utime(folder_of() / "data-0.bin")
        for _ in range(2):  # once a process
            assert not entry().made
        assert len(checked) == count
        checked.clear()


def test_those_used_longest_ago_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for index, key in enumerate("abc"):
        entry(key)
        os.utime(folder_of(key) / "manifest.json", (index, index))
    entry("a")  # used again, so now the newest
    monkeypatch.setenv("THAW_CACHE_LIMIT", str(sum(one.bytes for one in entries()) + 5))
    entry("d")
    assert [one.key for one in entries()] == ["c", "a", "d"]
    assert clear()[0] > 0
    assert entries() == []


def test_what_is_in_use_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    view = entry("mapped").arrays[0][2:]
    entry("idle")
    monkeypatch.setenv("THAW_CACHE_LIMIT", "1")
    entry("new")
    assert {one.key for one in entries()} == {"mapped", "new"}
    assert clear()[1] == 1
    assert np.array_equal(view, expected()[0][2:])
    assert not entry("mapped").made
    del view
    assert clear()[1] == 0


def test_the_mark_of_a_killed_process_goes_where_a_file_that_is_open_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def as_on_windows(path: Path, missing_ok: bool = False) -> None:
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            raise PermissionError(13, "The process cannot access the file", str(path)) from None
        unlink(path, missing_ok)

    view = entry().arrays[0]
    monkeypatch.setattr(Path, "unlink", as_on_windows)
    (folder_of() / "1-dead.lock").touch()
    assert clear()[1] == 1
    (own,) = folder_of().glob("*.lock")
    assert own.name.startswith(f"{os.getpid()}-")
    del view
    (folder_of() / "1-dead.lock").touch()
    assert clear()[1] == 0
    assert entries() == []


@pytest.mark.parametrize(
    ("text", "limit"),
    [("50GB", 50 * 10**9), ("200GiB", 200 * 2**30), ("1000", 1000), (" 1.5 tb ", 1_500_000_000_000), ("0", 0)],
)
def test_the_limit_is_a_setting(monkeypatch: pytest.MonkeyPatch, text: str, limit: int) -> None:
    monkeypatch.setenv("THAW_CACHE_LIMIT", text)
    assert cache_limit() == limit


@pytest.mark.parametrize(
    "text", ["much", "50G", "-1", "1e9", "nan", "inf", "1,000", "5 0", "\u0665GB", "GB", "1" * 9 + "XB"]
)
def test_a_limit_that_is_no_number_of_bytes_is_one_sentence(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("THAW_CACHE_LIMIT", text)
    with pytest.raises(StorageError, match=r"^THAW_CACHE_LIMIT is .*, not a number of bytes; write it like 50GB"):
        cache_limit()


def test_without_a_setting_the_disk_says_the_limit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is held and free; it stays while the cache and other programs fill the disk."""
    free = 1000
    monkeypatch.setattr(eviction, "free_bytes", lambda _: free)
    entry("held")
    held = sum(one.bytes for one in entries())
    eviction._default_limit.cache_clear()
    assert cache_limit() == (held + 1000) // 2
    free = 70
    assert cache_limit() == (held + 1000) // 2


def test_the_command_says_the_limit_and_where_it_is_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thaw(monkeypatch, "cache") == 0
    assert "The limit is 50% of what the cache holds and its disk has free" in capsys.readouterr().out
    monkeypatch.setenv("THAW_CACHE_LIMIT", "200GiB")
    assert thaw(monkeypatch, "cache") == 0
    told = capsys.readouterr().out
    assert "0 bytes of 200 GiB used" in told
    assert "The limit is THAW_CACHE_LIMIT" in told
    monkeypatch.setenv("THAW_CACHE_LIMIT", "lots")
    assert thaw(monkeypatch, "cache") == 2
    assert capsys.readouterr().err.startswith("thaw: THAW_CACHE_LIMIT is 'lots', not a number of bytes")


def test_work_that_cannot_fit_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    entry("idle")
    monkeypatch.setattr(eviction, "free_bytes", lambda _: 69)
    with pytest.raises(StorageError, match=r"not enough disk space .*70 bytes needed.* run the same command again"):
        entry(make=maker(asked=asked))
    assert asked == []
    assert not folder_of("idle").exists()  # room was made, though not enough
    monkeypatch.setattr(eviction, "free_bytes", lambda _: 70)
    with pytest.raises(RuntimeError, match="power cut"):
        entry(make=maker(stop=4))
    monkeypatch.setattr(eviction, "free_bytes", lambda _: 42)  # what is still to write
    assert is_whole(entry())


def test_a_disk_that_fills_up_leaves_what_was_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    left = 45
    real = store._append

    def append(file: Any, content: Any, sync: bool) -> None:
        nonlocal left
        left -= len(content) if file.name.endswith(".bin") else 0
        if left < 0:
            file.write(content[: len(content) + left])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, content, sync)

    monkeypatch.setattr(store, "_append", append)
    with pytest.raises(StorageError, match=r"not enough disk space .*42 bytes needed"):
        entry()
    monkeypatch.setattr(store, "_append", real)
    asked: list[int] = []
    assert is_whole(entry(make=maker(asked=asked)))
    assert asked == [4]


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match=r"cannot write to .*THAW_CACHE"):
        entry()


@contextlib.contextmanager
def read_only() -> Iterator[None]:
    """Mount the cache read-only during the block; root may write wherever the disk lets it."""
    folder = str(cache_folder())
    if not shutil.which("mount") or subprocess.run(["mount", "--bind", folder, folder], check=False).returncode:
        pytest.skip("needs the right to mount a disk of its own")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_finished_entry_is_opened_from_a_read_only_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry()
    with pytest.raises(RuntimeError, match="power cut"):
        entry("begun", maker(stop=4))
    cached_json(cache_folder() / "values", "known", lambda: 7)
    os.utime(folder_of() / "data-1.bin")
    before = {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*")}
    as_in_a_new_process(monkeypatch)
    with read_only():
        found, again = opened("tests", "k", ROWS, FIELDS), entry(make=lambda _: pytest.fail("nothing is to be made"))
        assert found is not None
        assert is_whole(found)
        assert is_whole(again)
        assert cached_json(cache_folder() / "values", "known", lambda: pytest.fail("nothing is to be made")) == 7
        assert {path: path.stat().st_mtime_ns for path in cache_folder().rglob("*")} == before
        del found, again
        for key in ("begun", "missing"):
            with pytest.raises(StorageError, match=r"cannot (write to|be written).*THAW_CACHE"):
                entry(key)
        with pytest.raises(StorageError, match=r"cannot write to .*THAW_CACHE"):
            cached_json(cache_folder() / "values", "missing", lambda: 7)
        assert thaw(monkeypatch, "cache") == 0
        assert thaw(monkeypatch, "cache", "clear") == 2
        assert "is read-only and cannot be cleared" in capsys.readouterr().err


def test_a_damaged_entry_on_a_read_only_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    entry()
    (folder_of() / "data-0.bin").write_bytes(bytes(ROWS * 3))
    as_in_a_new_process(monkeypatch)
    with read_only(), pytest.raises(StorageError, match="is unfinished or damaged, and cannot be written"):
        entry()
    assert is_whole(entry())


def test_a_table_is_opened_from_a_read_only_disk(tmp_path: Path) -> None:
    known, other = tmp_path / "known.parquet", tmp_path / "other.parquet"
    pq.write_table(pa.table({"label": ["a", "b"]}), known)
    pq.write_table(pa.table({"label": ["c"]}), other)
    first = load_parquet(known)["all"].to_dict()
    with read_only():
        assert load_parquet(known)["all"].to_dict() == first == {"label": ["a", "b"]}
        with pytest.raises(StorageError, match=r"cannot write to .*datasets \(Read-only file system\)"):
            load_parquet(other)


def test_a_home_that_is_unknown_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user without HOME and without an entry in the system's list, as in containers."""
    monkeypatch.setenv("THAW_CACHE", "~nobody-of-this-name/cache")
    assert thaw(monkeypatch, "cache") == 2
    monkeypatch.delenv("THAW_CACHE")
    monkeypatch.setattr(eviction.platformdirs, "user_cache_dir", lambda _: "~/.cache/thaw")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert thaw(monkeypatch, "cache") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "thaw: the home folder in ~nobody-of-this-name/cache is unknown; set THAW_CACHE to a folder."
    assert second == "thaw: the home folder in ~/.cache/thaw is unknown; set THAW_CACHE to a folder."


def _ask(counter: str, dies: bool) -> None:
    def counted(first: int) -> Iterator[tuple[tuple[np.ndarray, ...], dict[str, Any]]]:
        for chunk in maker()(first):
            with open(counter, "a") as file:
                file.write(f"{next(iter(chunk[1]))}\n")
            if dies and first + 4 == int(next(iter(chunk[1]))):
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    assert is_whole(cached("tests", "shared", ROWS, FIELDS, counted))


def test_processes_that_want_the_same_entry_make_it_once(tmp_path: Path) -> None:
    """Even if one of them is killed: the others repeat no finished chunk."""
    counter = tmp_path / "counter"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_ask, args=(str(counter), dies)) for dies in (True, False, False)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes[1:] == [0, 0]
    # the first may have found the entry made by another
    expected = {0: ["0", "4", "8"], -signal.SIGKILL: ["0", "4", "4", "8"]}
    assert counter.read_text().split() == expected[codes[0] or 0]


def test_keys_differ_when_anything_differs() -> None:
    keys = [key_of(a=1), key_of(a=2), key_of(a="1"), key_of(b=1), key_of(a=[1]), key_of(a=1, b=None)]
    assert len(set(keys)) == len(keys)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(StorageError, match="not enough disk space"):
        write_atomic(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_an_hour_later(tmp_path: Path) -> None:
    path = tmp_path / "file"
    young, old, other = (tmp_path / name for name in (".file-a.part", ".file-b.part", ".else-b.part"))
    for left in (young, old, other):
        left.touch()
    for left in (old, other):
        os.utime(left, (0, 0))
    write_atomic(path, "whole")
    assert set(tmp_path.iterdir()) == {path, young, other}
