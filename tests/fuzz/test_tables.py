"""The table reader on whatever file: labelled pictures, or a DataError, and nothing else."""

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.guard import confined, fuzzed
from helpers.images import encoded_image
from thaw.data.source import read_source
from thaw.recipe import Data

# `datasets` leaves a file open where reading it failed
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::FutureWarning"
)
PICTURES = [encoded_image(seed, seed % 2, 8) for seed in range(4)]
NAMES = [f"{seed}.png" for seed in range(4)]
PATHS = [*NAMES, "/etc/passwd", "../secret.png", "missing.png", "", "\0.png", "a" * 300, "link.png", ".", "x\ny.png"]
LABELS = ["cat", "dog", "", "nan", "=1+1", "<b>x</b>", "\x1b[2J", "1", "2", "1.5", "inf", "é", "\u202e", "None"]
CELLS = st.sampled_from(PATHS) | st.sampled_from(LABELS) | st.text(max_size=8)
COLUMNS = st.sampled_from(["image", "label", "role", "split", "thaw:content", "thaw:split", "bytes", "", "image.1"])
DATA = st.builds(
    Data,
    source=st.just(""),
    image=st.sampled_from(["image", "label", ""]),
    group=st.none() | COLUMNS,
    split=st.none() | COLUMNS,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pa.string(): CELLS,
    pa.binary(): st.sampled_from(PICTURES) | st.binary(max_size=9),
    pa.int64(): st.integers(-3, 3),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]): st.fixed_dictionaries(
        {"bytes": st.none() | st.sampled_from(PICTURES), "path": st.none() | st.sampled_from(PATHS)}
    ),
    pa.list_(pa.int64()): st.lists(st.integers(0, 3), max_size=2),
    pa.timestamp("s"): st.integers(0, 99),
    pa.null(): st.none(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    (root / "secret.png").write_bytes(PICTURES[0])
    inner = root / "inner"
    inner.mkdir()
    for name, content in zip(NAMES, PICTURES, strict=True):
        (inner / name).write_bytes(content)
    (inner / "link.png").symlink_to(root / "secret.png")
    return inner


def read(folder: Path, table: Path, data: Data) -> None:
    """Read a table; no picture may come from outside its folder but through a link that lies in it."""
    cache = Path(os.environ["THAW_CACHE"])
    with confined(folder, cache):
        source = read_source(data.model_copy(update={"source": str(table)}))
        for row in range(len(source.ids)):
            source.picture(row)
            held = int(source.rows[row])
            path = source.paths[held]
            if not source.content[held].is_valid:  # a file is read, of the source or, where it is part of one, a table
                own = cache if source.parts is not None and source.parts[held, 0] >= 0 else folder
                assert path
                assert Path(os.path.normpath(path)).is_relative_to(own)
    shutil.rmtree(cache, ignore_errors=True)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A Parquet table with columns of any kind, most often one called image and one called label."""
    names = draw(st.sampled_from([["image", "label"], ["image", "label", "role"]]) | st.lists(COLUMNS, max_size=3))
    rows = draw(st.integers(0, 6))
    columns = []
    for name in names:
        likely = [kind for kind in VALUES if pa.types.is_struct(kind) or kind in (pa.string(), pa.binary())]
        kind = draw(st.sampled_from(likely if name == "image" and draw(st.booleans()) else list(VALUES)))
        values = draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows))
        columns.append(pa.array(values, kind))
    return pa.Table.from_arrays(columns, names)


@fuzzed
@given(tables(), DATA)
def test_parquet_tables_of_any_columns(folder: Path, table: pa.Table, data: Data) -> None:
    pq.write_table(table, folder / "table.parquet")
    read(folder, folder / "table.parquet", data)


@fuzzed
@given(st.lists(st.lists(CELLS, max_size=4), max_size=6), DATA, st.sampled_from(["csv", "tsv"]))
def test_text_tables_of_any_cells(folder: Path, rows: list[list[str]], data: Data, kind: str) -> None:
    text = io.StringIO()
    csv.writer(text, "excel-tab" if kind == "tsv" else "excel").writerows([["image", "label", "role"], *rows])
    (folder / f"table.{kind}").write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    read(folder, folder / f"table.{kind}", data)


@fuzzed
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "parquet"]), DATA)
def test_any_bytes(folder: Path, content: bytes, kind: str, data: Data) -> None:
    (folder / f"table.{kind}").write_bytes(content)
    read(folder, folder / f"table.{kind}", data)


@fuzzed
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4), DATA)
def test_a_parquet_table_with_bytes_overwritten(folder: Path, where: int, content: bytes, data: Data) -> None:
    table = pa.table({"image": PICTURES, "label": ["cat", "dog", "cat", "dog"]})
    pq.write_table(table, folder / "table.parquet")
    whole = (folder / "table.parquet").read_bytes()
    where %= len(whole)
    (folder / "table.parquet").write_bytes(whole[:where] + content + whole[where + len(content) :])
    read(folder, folder / "table.parquet", data)
