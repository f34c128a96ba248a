"""Parts of mapped files: read from the file, they are what the mapped column holds."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from thaw.data.mapped import find_parts, read_part

VALUES = [b"one", b"", None, b"three" * 2000, b"four"]


@pytest.fixture(params=[pa.binary(), pa.large_binary()])
def kind(request: pytest.FixtureRequest) -> pa.DataType:
    return request.param


def mapped(path: Path, values: list[bytes | None], kind: pa.DataType) -> pa.ChunkedArray:
    table = pa.table({"label": list(range(len(values))), "image": pa.array(values, kind)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()["image"]


def test_parts_of_mapped_files_are_the_values(tmp_path: Path, kind: pa.DataType) -> None:
    files = [str(tmp_path / name) for name in ("a.arrow", "b.arrow", "same.arrow", "unused.arrow")]
    columns = [mapped(Path(file), VALUES[start:], kind) for start, file in enumerate(files[:3])]
    mapped(Path(files[3]), [b"unused"], kind)
    columns[2] = mapped(Path(files[2]), [b"ten" if value == b"one" else value for value in VALUES], kind)
    in_memory = pa.chunked_array([pa.array([b"held", None], kind)])
    column = pa.chunked_array([*columns[0].chunks, *in_memory.chunks, *columns[1][1:].chunks, *columns[2].chunks])
    content, paths, parts = find_parts(column, files)
    assert content.drop_null().to_pylist() == [b"held"]
    found = [
        value if path is None else read_part(path, *where)
        for value, path, where in zip(content.to_pylist(), paths, parts.tolist(), strict=True)
    ]
    assert found == column.to_pylist()
    assert {path for path in paths if path} == set(files[:3])


def test_a_part_of_a_file_that_became_shorter_is_what_is_left(tmp_path: Path) -> None:
    column = mapped(tmp_path / "a.arrow", [bytes(100_000)], pa.binary())
    _, (path,), parts = find_parts(column, [str(tmp_path / "a.arrow")])
    assert path
    os.truncate(path, parts[0, 0] + 50_000)
    assert read_part(path, *parts[0].tolist()) == bytes(50_000)
    os.truncate(path, 10)
    assert read_part(path, *parts[0].tolist()) == b""


def test_what_lies_in_memory_stays_there(tmp_path: Path) -> None:
    held = pa.chunked_array([pa.array([b"a", None]), pa.nulls(2, pa.binary())])
    content, paths, parts = find_parts(held, [])
    assert content.to_pylist() == [b"a", None, None, None]
    assert paths == [None] * 4
    assert (parts == -1).all()
    content, paths, _ = find_parts(pa.chunked_array([pa.nulls(3)]), [str(tmp_path)])
    assert (content.to_pylist(), paths) == ([None] * 3, [None] * 3)
