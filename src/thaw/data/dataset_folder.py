"""Hugging Face datasets on disk: as `save_to_disk` writes them, as the hub lays Parquet out, or `metadata` tables."""

import contextlib
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from datasets.data_files import DataFilesList

from thaw.cache.arrays import key_of
from thaw.cache.budget import cache_folder, datasets_folder
from thaw.cache.files import is_full, is_read_only, no_room, writing
from thaw.data.delimited import read_delimited
from thaw.data.endings import SPLITS, TABLES
from thaw.errors import DataError, out_of_memory
from thaw.images.files import MAX_BYTES
from thaw.text import format_bytes

METADATA = ("csv", "jsonl", "parquet")
"""Endings of a `metadata` file with the labels of the images beside it."""
CARDS = ("README.md", ".huggingface.yaml")
"""Files of a dataset that may say which others belong to it."""

GROWTH = 100
"""Times its size that a Parquet table may hold, or as much as one image, where that is more. Encoded images are hardly
compressed any further, and text is seldom more than 30 times; a repeated value can be without a bound."""


def is_dataset(folder: Path) -> bool:
    """Tell a dataset from a folder of class folders."""
    marks = ("dataset_dict.json", "state.json", *(f"metadata.{kind}" for kind in METADATA))
    return any((folder / mark).exists() for mark in marks) or any(
        next(folder.glob(pattern), None)
        for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet", *(f"*/metadata.{kind}" for kind in METADATA))
    )


def table_files(path: Path) -> list[Path]:
    """List the files that say what a dataset is, or the one file of a table."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in TABLES or file.name in CARDS)


def load_folder(folder: Path) -> datasets.DatasetDict:
    """Load a dataset folder, images undecoded.

    Nothing outside the folder is read, no script is run and nothing is fetched. Raises DataError.
    """
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _load_saved(folder)
    found = sorted(file for kind in METADATA for file in folder.rglob(f"metadata.{kind}"))
    if found:
        with _one_sentence(folder):
            return _load_metadata(folder, found)
    _check_card(folder)
    files = table_files(folder)
    key = key_of(files=[(str(file.relative_to(folder)), _digest(file)) for file in files])
    cache = datasets_folder().resolve() / key[:32]
    given = folder.resolve()
    if glob.has_magic(str(given)) or "::" in str(given):  # `datasets` takes paths for patterns
        given = _mirror(folder, files, cache / "source")
    with _one_sentence(folder):
        if not any(cache.rglob("*.arrow")):
            _check_growth(folder, [file for file in files if file.suffix == ".parquet"])
        builder = datasets.load_dataset_builder(str(given), cache_dir=str(cache))
        for paths in (builder.config.data_files or {}).values():
            for path in paths:
                if not Path(os.path.abspath(path)).is_relative_to(given):
                    raise DataError(f"the dataset {folder} names the file {path}, outside its folder; move it inside.")
        builder.download_and_prepare()
        loaded: datasets.DatasetDict = builder.as_dataset()
        return loaded


def load_parquet(path: Path) -> datasets.DatasetDict:
    """Load a Parquet table, images undecoded, as the split `all`. Raises DataError."""
    digest, file = _digest(path), Path(os.path.abspath(path))
    folder = datasets_folder().resolve() / digest
    if is_read_only(folder):  # `datasets` would want a lock there
        with _one_sentence(path):
            (made,) = folder.glob("parquet/*/*/*/parquet-train.arrow")
            return datasets.DatasetDict({"all": datasets.Dataset.from_file(str(made))})
    with _one_sentence(path):
        if "::" in str(file):  # `datasets` takes that for an archive and a file in it
            file = _link(folder / "table.parquet", file)
        if not any(folder.rglob("*.arrow")):
            _check_growth(path, [path])
        # a list of files that is not a pattern; known in the cache by their content
        files = DataFilesList([str(file)], [(digest,)])
        loaded = datasets.load_dataset("parquet", data_files={"train": files}, split="train", cache_dir=str(folder))
        return datasets.DatasetDict({"all": loaded})


def load_delimited(path: Path) -> datasets.DatasetDict:
    """Load a CSV or TSV table as the split `all`. Raises DataError."""
    table = read_delimited(path)
    with _one_sentence(path):  # names of columns may be anything
        return datasets.DatasetDict({"all": datasets.Dataset(table)})


def _load_saved(folder: Path) -> datasets.DatasetDict:
    with _one_sentence(folder):
        names, parts = [], [folder]
        if (folder / "dataset_dict.json").exists():
            names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            parts = [folder / name for name in names]
        for part in parts:
            state = json.loads((part / "state.json").read_text(encoding="utf-8"))
            names = [*names, *(file["filename"] for file in state["_data_files"])]
        for name in names:
            if PureWindowsPath(name).name != name or PurePath(name).name != name:
                raise DataError(f"the dataset {folder} names the file {name!r}, outside its folder; save it anew.")
        given = Path(os.path.abspath(folder))
        if "::" in str(given):  # `datasets` takes that for an archive and a file in it
            given = _link(datasets_folder().resolve() / "links" / key_of(folder=str(given)), given)
        loaded = datasets.load_from_disk(str(given))
        return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"all": loaded})


def _load_metadata(folder: Path, found: list[Path]) -> datasets.DatasetDict:
    """Tables of images beside them; folders named like splits are splits where all tables or images lie in them."""
    tables = []
    for file in found:
        table = _read_metadata(file)
        if "file_name" not in table.column_names:
            raise DataError(
                f"{file} has no column 'file_name' for the images beside it; name it so, or give the table itself."
            )
        if "image" in table.column_names:
            raise DataError(f"{file} has a column 'image' beside 'file_name'; keep one of them.")
        place = file.parent.relative_to(folder).as_posix()
        paths = [None if name is None else os.path.join(place, str(name)) for name in table["file_name"].to_pylist()]
        normal = pa.array([None if path is None else os.path.normpath(path) for path in paths], pa.string())
        tables.append(table.set_column(table.column_names.index("file_name"), "image", normal))
    whole = pa.concat_tables(tables, promote_options="permissive")
    first = [PurePath(path).parts[:-1][:1] if path else () for path in whole["image"].to_pylist()]
    named = {parts[0] if parts else "" for parts in first}
    if not named or not all(name.lower() in SPLITS for name in named):
        return datasets.DatasetDict({"train": datasets.Dataset(whole)})
    of_row = pa.array([parts[0] for parts in first])
    return datasets.DatasetDict({name: datasets.Dataset(whole.filter(pc.equal(of_row, name))) for name in named})


def _read_metadata(file: Path) -> pa.Table:
    if file.suffix == ".csv":
        return read_delimited(file)
    with _one_sentence(file):
        if file.suffix == ".parquet":
            _check_growth(file, [file])
            return pq.read_table(file).replace_schema_metadata(None)
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        columns = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: _column([row.get(name) for row in rows]) for name in columns})


def _column(values: list[Any]) -> pa.Array:
    """Values of JSON as an Arrow column, as text where they are of several types."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])


def _check_card(folder: Path) -> None:
    """Raise DataError where a dataset has a script, or its card names files that are not below its folder."""
    script = folder / f"{folder.resolve().name}.py"
    if script.exists():
        raise DataError(f"{folder} is read by a script, {script.name}, which thaw does not run; save it as Parquet.")
    for name in CARDS:
        if not (folder / name).is_file():
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace").removeprefix("\ufeff")
        if name.endswith(".md"):
            text = text.split("\n---", 1)[0].removeprefix("---") if text.startswith("---") else ""
        try:
            stated = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise DataError(f"the card {folder / name} cannot be read; fix its first lines or remove it.") from error
        configs = stated.get("configs") if isinstance(stated, dict) else None
        for path in _texts(configs):
            windows = PureWindowsPath(path)
            outside = ".." in (*windows.parts, *PurePath(path).parts) or windows.anchor or path.startswith("~")
            if outside or "::" in path or "://" in path:
                raise DataError(
                    f"the card of {folder} names {path!r}, which is not below its folder; move the files inside."
                )


def _check_growth(path: Path, files: list[Path]) -> None:
    """Raise DataError if Parquet files hold far more than their size, before that is written or held in memory."""
    size = sum(file.stat().st_size for file in files)
    limit, held = max(MAX_BYTES, GROWTH * size), 0
    for amount in itertools.chain.from_iterable(_amounts(file, limit) for file in files):
        held += amount
        if held > limit:
            raise DataError(
                f"{path} has {format_bytes(size)} and holds more than {format_bytes(limit)}: values are repeated or "
                "compressed far more than images are; save the images as files."
            )


def _amounts(file: Path, limit: int) -> Iterator[int]:
    """The bytes that a Parquet file holds, by parts of about `limit` at most; nothing where it cannot be read."""
    with contextlib.suppress(pa.ArrowException), pq.ParquetFile(file) as parquet:
        groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
        columns = (group.column(index) for group in groups for index in range(group.num_columns))
        largest = max((column.total_uncompressed_size for column in columns), default=1)
        if largest > limit:
            yield largest
        else:  # no value is larger than its column
            for batch in parquet.iter_batches(max(1, min(limit // max(1, largest), 10_000))):
                yield sum(_decoded(column).nbytes for column in batch.columns)


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _mirror(folder: Path, files: list[Path], target: Path) -> Path:
    """A folder of links to some files, below a path that is not a pattern."""
    for file in files:
        _link(target / file.relative_to(folder), file)
    return target


def _link(link: Path, file: Path) -> Path:
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(os.path.abspath(file))
    return link


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _is_cached(file: Any) -> bool:
    return isinstance(file, str) and Path(file).is_relative_to(datasets_folder().resolve())


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """A block in which whatever other libraries raise becomes a DataError."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said below, once
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a stranger's file makes its readers fail in many ways
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and is_full(cause):
            raise no_room(datasets_folder(), 0) from error
        if isinstance(cause, OSError) and is_read_only(cache_folder()) and _is_cached(cause.filename):
            with writing(datasets_folder()):
                raise cause from None
        if out_of_memory(cause):
            raise
        reason = str(cause).strip().splitlines() or [type(cause).__name__]
        raise DataError(f"{path} cannot be read as a dataset: {reason[0]}; fix the file or give another.") from error
