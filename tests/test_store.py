"""The cache: entries are there whole or not at all, bounded, and made once however many ask."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thaw import store
from thaw.store import Field, cached, clear, entries, key_of, write_atomic

ROWS = 10


def chunks(value: int = 1) -> Iterator[tuple[tuple[np.ndarray, ...], dict[str, Any]]]:
    for start in range(0, ROWS, 4):
        count = min(4, ROWS - start)
        yield (np.full((count, 3), value, np.uint8),), {"last": start}


def entry(key: str = "k", value: int = 1) -> store.Entry:
    return cached("tests", key, ROWS, [Field((3,), "uint8")], lambda: chunks(value))


def test_an_entry_is_made_once_and_found_again() -> None:
    first, again = entry(), entry(value=2)
    assert (first.made, again.made) == (True, False)
    assert np.array_equal(first.arrays[0], np.ones((ROWS, 3)))
    assert np.array_equal(again.arrays[0], first.arrays[0])
    assert again.notes == {"last": 8}


def test_an_entry_that_was_cut_short_is_made_again() -> None:
    path = Path(entry().arrays[0].filename)
    for damage in (lambda: os.truncate(path, 7), path.unlink, (path.parent / "manifest.json").unlink):
        damage()
        assert entry().made
    (path.parent / "manifest.json").write_text('{"bytes": ')
    assert entry().made


def test_an_entry_that_fails_half_way_is_not_there() -> None:
    def failing() -> Iterator[tuple[tuple[np.ndarray, ...], dict[str, Any]]]:
        yield next(chunks())
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cached("tests", "k", ROWS, [Field((3,), "uint8")], failing)
    assert entries() == []
    assert entry().made


def test_those_used_longest_ago_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for index, key in enumerate("abc"):
        path = Path(entry(key).arrays[0].filename)
        os.utime(path.parent / "manifest.json", (index, index))
    entry("a")  # used again, so now the newest
    monkeypatch.setattr(store, "BUDGET", sum(one.bytes for one in entries()) + 5)
    entry("d")
    assert [one.key for one in entries()] == ["c", "a", "d"]
    assert clear() > 0
    assert entries() == []


def _ask(counter: str) -> None:
    def counted() -> Iterator[tuple[tuple[np.ndarray, ...], dict[str, Any]]]:
        with open(counter, "a") as file:
            file.write("made\n")
        yield from chunks()

    cached("tests", "shared", ROWS, [Field((3,), "uint8")], counted)


def test_processes_that_want_the_same_entry_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_ask, args=(str(tmp_path / "counter"),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "counter").read_text() == "made\n"


def test_keys_differ_when_anything_differs() -> None:
    keys = [key_of(a=1), key_of(a=2), key_of(a="1"), key_of(b=1), key_of(a=[1]), key_of(a=1, b=None)]
    assert len(set(keys)) == len(keys)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomic(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
