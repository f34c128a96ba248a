"""Any source as one Arrow table: images undecoded, as bytes or paths, and the splits that the source brings."""

import difflib
import os
from importlib import resources
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from thaw.cache.budget import datasets_folder
from thaw.cache.files import is_full, no_room
from thaw.data.dataset_folder import is_dataset, load_delimited, load_folder, load_parquet, table_files
from thaw.data.folder import descend, list_class_folder
from thaw.data.skipped import Skipped
from thaw.errors import DataError
from thaw.images.files import below
from thaw.recipe import Data

BROUGHT, CONTENT, PATH = "thaw:split", "thaw:content", "thaw:path"
"""Columns added to what a source holds: its own splits, and the images as encoded bytes, mapped, or paths."""
INDEX = ("Unnamed: ", "__index_level_")
"""How columns begin that pandas wrote as its index: they count the rows and say nothing of the images."""

Stamp = tuple[str, int, int]
"""A file, when it was last written, and its size."""


def open_tables(name: str) -> tuple[datasets.DatasetDict, Path] | None:
    """What a table or dataset holds, by split, and the folder that its images lie in; None for a class folder.

    Images are not decoded. Raises DataError when there is no such source, or it cannot be read.
    """
    if name == "thaw:emoji-people":
        path = Path(str(resources.files("thaw.recipes") / "assets" / "emoji-people.parquet"))
        return _load(path), path.parent
    if name.startswith("hf:"):
        return _from_hub(name.removeprefix("hf:")), Path(datasets.config.HF_CACHE_HOME)
    path = Path(name)
    try:
        if path.is_file() and path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
            raise DataError(f"{path} is not a .csv, .tsv or .parquet table; give one of these, or a folder.")
        if path.is_file():
            return _load(path), path.parent
        if not path.is_dir():
            raise DataError(f"there is no {name}; give a folder, a .csv or .parquet table, or hf:NAME.")
        folder = path if is_dataset(path) else descend(path)
        return (_load(folder), folder) if is_dataset(folder) else None
    except OSError as error:
        if is_full(error):
            raise no_room(datasets_folder(), 0) from error
        raise DataError(f"{name} cannot be read: {error}; check the path and its permissions.") from error


def read_rows(data: Data) -> tuple[pa.Table, tuple[Skipped, ...], tuple[Stamp, ...]]:
    """The rows of a source, what is left out of it, and the files that the rows' bytes are mapped from."""
    opened = open_tables(data.source)
    try:
        if opened is None:
            return *_class_folder(Path(data.source), data), ()
        mapped = tuple(_stamp(one["filename"]) for part in opened[0].values() for one in part.cache_files)
        return _gather(opened[0], data, opened[1]), (), mapped
    except OSError as error:
        raise DataError(f"{data.source} cannot be read: {error}; check the path and its permissions.") from error


def check_same(files: tuple[Stamp, ...]) -> None:
    """Raise DataError where one of some files was written to since it was looked at, or is gone."""
    for file in files:
        try:
            same = _stamp(file[0]) == file
        except OSError:
            same = False
        if not same:
            raise DataError(f"{file[0]} changed while it was read; run the command again when nothing writes to it.")


def _stamp(file: str | Path) -> Stamp:
    found = os.stat(file)
    return str(file), found.st_mtime_ns, found.st_size


def _load(path: Path) -> datasets.DatasetDict:
    """A table or dataset by split. Raises DataError, also where it is written to while it is read."""
    before = tuple(map(_stamp, table_files(path)))
    if path.is_dir():
        loaded = load_folder(path)
    elif path.suffix.lower() == ".parquet":
        loaded = load_parquet(path)
    else:
        loaded = load_delimited(path)
    if tuple(map(_stamp, table_files(path))) != before:
        raise DataError(f"{path} changed while it was read; run the command again when nothing writes to it.")
    return loaded


def _from_hub(name: str) -> datasets.DatasetDict:
    try:
        return datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        offline = isinstance(error, ConnectionError) or datasets.config.HF_HUB_OFFLINE
        why = "there is no network, or offline mode is on" if offline else str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"the dataset {name} cannot be fetched from the Hugging Face hub ({why}); "
            "connect, check the name, or give a local folder: thaw study FOLDER."
        ) from error


def _gather(loaded: datasets.DatasetDict, data: Data, folder: Path) -> pa.Table:
    """All splits in one Arrow table: images as bytes and paths, ClassLabel columns as their names' dictionary."""
    tables = []
    for split, part in loaded.items():
        for name, feature in part.features.items():
            if isinstance(feature, datasets.Image):
                part = part.cast_column(name, datasets.Image(decode=False))
        table = part.with_format("arrow")[:]
        for name, feature in part.features.items():
            if isinstance(feature, datasets.ClassLabel):
                codes = pc.cast(table[name], pa.int32()).combine_chunks()
                codes = pc.if_else(pc.greater_equal(codes, 0), codes, pa.scalar(None, pa.int32()))
                named = pa.DictionaryArray.from_arrays(codes, pa.array(feature.names, pa.string()))
                table = table.set_column(table.column_names.index(name), name, named)
        for name in table.column_names:
            if name in (BROUGHT, CONTENT, PATH):
                raise DataError(f"{data.source} has a column {name!r}, a name that thaw keeps for itself; rename it.")
        check_columns(table.column_names, data)
        content, paths = _pictures(table[data.image], data, folder)
        used = (data.label, data.split, data.group, *(data.slices or ()))
        index = [name for name in table.column_names if name.startswith(INDEX) and name not in used]
        table = table.drop_columns([data.image, *index]).append_column(CONTENT, content).append_column(PATH, paths)
        tables.append(table.append_column(BROUGHT, pa.array([str(split)] * len(table), pa.string())))
    merged = pa.concat_tables(tables, promote_options="permissive")
    return merged.replace_schema_metadata(None)


def check_columns(names: list[str], data: Data) -> None:
    group = None if data.group == "copies" else data.group  # found later where there is no such column
    for column in (data.image, data.label, group, *(data.slices or ())):
        if column is not None and column not in names and not (column == data.image and CONTENT in names):
            near = difflib.get_close_matches(column, names, 1) or [
                name for name in names if not name.startswith("thaw:")
            ]
            if len(near) == 1 and {";", "\t", "|"} & set(near[0]):
                raise DataError(
                    f"{data.source} has only the column {near[0]!r}; separate columns by commas, or by tabs in a .tsv."
                )
            raise DataError(
                f"{data.source} has no column {column!r}; it has {', '.join(map(repr, near))}: "
                "set data.image, data.label, data.group or data.slices."
            )


def _pictures(column: pa.ChunkedArray, data: Data, folder: Path) -> tuple[pa.ChunkedArray, pa.Array]:
    """A column of paths, bytes or structs of both, as bytes, not copied, and paths, none outside `folder`."""
    kind = column.type
    none = pa.chunked_array([pa.nulls(len(column))])
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        content, paths = pc.struct_field(column, "bytes"), pc.struct_field(column, "path")
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        content, paths = column, none
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        content, paths = none, column
    else:
        raise DataError(
            f"the column {data.image!r} of {data.source} holds {kind}, not images, bytes or paths; set data.image."
        )
    known = pc.is_valid(content).to_pylist()
    inside = [
        path if path is None or is_known else _inside(folder, path, data)
        for path, is_known in zip(paths.to_pylist(), known, strict=True)
    ]
    return content, pa.array(inside, pa.string())


def _inside(folder: Path, path: str, data: Data) -> str:
    found = below(folder, path)
    if found is None:
        raise DataError(f"{data.source} names the image {path!r}, outside its folder {folder}; move it inside.")
    return str(found)


def _class_folder(root: Path, data: Data) -> tuple[pa.Table, tuple[Skipped, ...]]:
    found = list_class_folder(root)
    # names are bytes, not always UTF-8
    paths = pa.array([os.fsencode(path) for path in found.paths], pa.binary())
    columns = {data.label: found.labels, BROUGHT: found.splits, PATH: paths, CONTENT: pa.nulls(len(paths))}
    return pa.table(columns), tuple(found.skipped)
