"""Sources: a class folder, a table or a Hugging Face dataset, read into one Arrow table with undecoded pictures."""

import difflib
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thaw.errors import DataError
from thaw.progress import stage
from thaw.recipe import Data
from thaw.store import cache_folder, key_of

PICTURES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".avif",
        ".jp2",
        ".ico",
        ".tga",
    ]
)
"""Endings of file names that are taken for pictures, in lower case."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folder names that name a split, when nothing else stands beside them."""
BROUGHT, CONTENT, PATH = "thaw:split", "thaw:content", "thaw:path"
"""Columns added to what a source holds: its own splits, and the pictures as encoded bytes, mapped, or paths."""


@dataclass(frozen=True)
class Skipped:
    """A row that the study leaves out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Source:
    """Labelled pictures in an order that depends on nothing but their content.

    The same pictures and labels come in the same order whatever kind of source held them.
    """

    classes: tuple[str, ...]
    ids: NDArray[np.str_]
    """(n,) file names relative to the source, or SPLIT/ROW where pictures have none; all different."""
    labels: NDArray[np.int64]
    """(n,) indices into `classes`."""
    splits: NDArray[np.str_]
    """(n,) the split that the source puts each row in; `all` where it has none."""
    digests: tuple[str, ...]
    """n content digests, of the encoded pictures."""
    content: pa.ChunkedArray
    """The encoded bytes of pictures, memory-mapped where the source is; null where a picture is a file."""
    paths: tuple[str | None, ...]
    """The files of pictures without bytes."""
    rows: NDArray[np.int64]
    """(n,) the row of `content` and `paths` that holds each picture."""
    columns: pa.Table
    """(n,) all other columns, to group and to slice by."""
    skipped: tuple[Skipped, ...]

    def picture(self, row: int) -> bytes:
        """The encoded bytes of one picture. Raises OSError where its file cannot be read."""
        return _read(self.content, self.paths, int(self.rows[row]))

    def fingerprint(self) -> str:
        """A digest of everything that a study sees of this source."""
        return key_of(
            classes=self.classes, images=self.digests, labels=self.labels.tolist(), splits=self.splits.tolist()
        )

    def take(self, rows: NDArray[np.int64], skipped: Iterable[Skipped] = ()) -> "Source":
        """The same source with these rows only, in this order."""
        return Source(
            self.classes,
            self.ids[rows],
            self.labels[rows],
            self.splits[rows],
            tuple(self.digests[row] for row in rows),
            self.content,
            self.paths,
            self.rows[rows],
            self.columns.take(rows),
            (*self.skipped, *skipped),
        )


def read_source(data: Data) -> Source:
    """Read what `data.source` names. Raises DataError when it cannot be read or has no such columns or labels."""
    table, skipped = _read_table(data)
    _check_columns(table.column_names, data)
    if data.image == data.label:
        raise DataError(f"data.image and data.label both name the column {data.image!r}; give two columns.")
    classes, labels = _classes(table, data)
    splits = _splits(table, data)
    content, paths = table.column(CONTENT), tuple(table.column(PATH).to_pylist())
    ids = _ids(paths, splits)
    digests, unreadable = _digests(content, paths)
    reasons = {row: f"cannot be read: {reason}" for row, reason in unreadable.items()}
    reasons |= {int(row): "has no label" for row in np.flatnonzero(labels < 0)}
    order = sorted(
        (row for row in range(len(ids)) if row not in reasons),
        key=lambda row: (digests[row], labels[row], splits[row], ids[row]),
    )
    if not order:
        raise DataError(f"{data.source} holds no picture that can be read; give a source with labelled images.")
    source = Source(
        classes,
        ids,
        labels,
        splits,
        tuple(digests),
        content,
        paths,
        np.arange(len(ids)),
        table.drop_columns([BROUGHT, CONTENT, PATH]),
        skipped,
    )
    return source.take(np.array(order), [Skipped(str(ids[row]), reasons[row]) for row in sorted(reasons)])


def open_tables(name: str) -> tuple[datasets.DatasetDict, Path] | None:
    """What a table or dataset holds, by split, and the folder that its pictures lie in; None for a class folder.

    Pictures are not decoded. Raises DataError when there is no such source, or it cannot be read.
    """
    if name == "thaw:emoji-people":
        path = Path(str(resources.files("thaw.recipes") / "assets" / "emoji-people.parquet"))
        return _load(path, name), path.parent
    if name.startswith("hf:"):
        return _from_hub(name.removeprefix("hf:")), Path(datasets.config.HF_CACHE_HOME)
    path = Path(name)
    try:
        if path.is_file() and path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
            raise DataError(f"{path} is no .csv, .tsv or .parquet table; give one of these, or a folder.")
        if path.is_file():
            return _load(path, name), path.parent
        if not path.is_dir():
            raise DataError(f"there is no {name}; give a folder, a .csv or .parquet table, or hf:NAME.")
        return (_load(path, name), path) if _is_dataset(path) else None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}; check the path and its permissions.") from error


def _read_table(data: Data) -> tuple[pa.Table, tuple[Skipped, ...]]:
    opened = open_tables(data.source)
    try:
        if opened is None:
            return _class_folder(Path(data.source), data)
        return _gather(opened[0], data, opened[1]), ()
    except OSError as error:
        raise DataError(f"{data.source} cannot be read: {error}; check the path and its permissions.") from error


def _is_dataset(folder: Path) -> bool:
    marks = ("dataset_dict.json", "state.json", "metadata.csv", "metadata.jsonl", "metadata.parquet")
    return any((folder / mark).exists() for mark in marks) or any(
        next(folder.glob(pattern), None) for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet", "*/metadata.*")
    )


def _load(path: Path, name: str) -> datasets.DatasetDict:
    datasets.disable_progress_bars()
    cache = str(cache_folder() / "datasets")
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        elif path.is_dir():
            loaded = datasets.load_dataset(str(path), cache_dir=cache)
        else:
            kind = "csv" if path.suffix.lower() in (".csv", ".tsv") else "parquet"
            options = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
            loaded = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache, **options)
    except (datasets.exceptions.DatasetsError, ValueError, FileNotFoundError, pa.ArrowException) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or ["unknown"]
        raise DataError(f"{name} cannot be read as a dataset: {reason[0]}; mend the file or give another.") from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"all": loaded})


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
    """All splits in one Arrow table: pictures as bytes and paths, ClassLabel columns as their names' dictionary."""
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
        _check_columns(table.column_names, data)
        content, paths = _pictures(table[data.image], data, folder)
        table = table.drop_columns([data.image]).append_column(CONTENT, content).append_column(PATH, paths)
        tables.append(table.append_column(BROUGHT, pa.array([str(split)] * len(table), pa.string())))
    merged = pa.concat_tables(tables, promote_options="permissive")
    return merged.replace_schema_metadata(None)


def _check_columns(names: list[str], data: Data) -> None:
    for column in filter(None, (data.image, data.label, data.group)):
        if column not in names and not (column == data.image and CONTENT in names):
            near = difflib.get_close_matches(column, names, 1) or [
                name for name in names if not name.startswith("thaw:")
            ]
            raise DataError(
                f"{data.source} has no column {column!r}; it has {', '.join(near)}: "
                "set data.image, data.label or data.group."
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
            f"the column {data.image!r} of {data.source} holds {kind}, not pictures, bytes or paths; set data.image."
        )
    root = folder.resolve()
    known = pc.is_valid(content).to_pylist()
    inside = [
        path if path is None or is_known else _inside(root, path, data)
        for path, is_known in zip(paths.to_pylist(), known, strict=True)
    ]
    return content, pa.array(inside, pa.string())


def _inside(root: Path, path: str, data: Data) -> str:
    full = (root / path).resolve()
    if not full.is_relative_to(root):
        raise DataError(f"{data.source} names the picture {path!r}, outside its folder {root}; move it inside.")
    return str(full)


def _class_folder(root: Path, data: Data) -> tuple[pa.Table, tuple[Skipped, ...]]:
    """`root/CLASS/**/picture`, or `root/SPLIT/CLASS/**/picture` when every folder in `root` is named like a split."""
    folders = _folders(root)
    brings = bool(folders) and all(folder.name.lower() in SPLITS and _folders(folder) for folder in folders)
    parts = (
        [(SPLITS[f.name.lower()], inner) for f in folders for inner in _folders(f)]
        if brings
        else [("all", folder) for folder in folders]
    )
    if not parts:
        raise DataError(f"{root} holds no folder per class; put the pictures of each class in a folder of its own.")
    paths: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    skipped: list[Skipped] = []
    for split, folder in parts:
        before = len(paths)
        for path in sorted(_files(folder)):
            if Path(path).suffix.lower() in PICTURES:
                paths.append(path)
                labels.append(folder.name)
                splits.append(split)
            else:
                skipped.append(Skipped(os.path.relpath(path, root), "is not named like a picture"))
        if len(paths) == before:
            raise DataError(f"the class folder {folder} holds no pictures; add some, or remove the folder.")
    columns = {data.label: labels, BROUGHT: splits, PATH: paths, CONTENT: pa.nulls(len(paths))}
    table = pa.table(columns)
    return table, tuple(skipped)


def _folders(root: Path) -> list[Path]:
    return sorted(item for item in root.iterdir() if item.is_dir() and not item.name.startswith((".", "__")))


def _files(folder: Path) -> Iterable[str]:
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(where, name) for name in files if not name.startswith("."))


def _classes(table: pa.Table, data: Data) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names in their fixed order, and a label for each row, -1 where there is none.

    A ClassLabel keeps its order, numbers are sorted as numbers and names as text.
    """
    column = table.column(data.label)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries().combine_chunks()
        names = [str(name) for name in column.dictionary.to_pylist()]
        values: list[Any] = [None if code is None else names[code] for code in column.indices.to_pylist()]
    else:
        raw = column.to_pylist()
        if any(isinstance(value, (list, dict, bytes)) for value in raw):
            raise DataError(
                f"the column {data.label!r} of {data.source} holds {column.type}, not classes; set data.label."
            )
        raw = [None if value is None or value != value or value == "" else value for value in raw]
        if pa.types.is_floating(column.type):
            if any(value is not None and value != int(value) for value in raw):
                raise DataError(
                    f"the column {data.label!r} of {data.source} holds fractions, not classes; set data.label."
                )
            raw = [None if value is None else int(value) for value in raw]
        names = [str(value) for value in sorted({value for value in raw if value is not None})]
        values = [None if value is None else str(value) for value in raw]
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no class at all"
        raise DataError(f"{data.source} has {found} in the column {data.label!r}; a study needs two or more.")
    if len(names) > 1000 and len(names) > len(values) / 2:
        raise DataError(
            f"the column {data.label!r} of {data.source} has {len(names):,} different values in {len(values):,} rows, "
            "which are no classes; set data.label."
        )
    codes = {name: code for code, name in enumerate(names)}
    return tuple(names), np.array([-1 if value is None else codes[value] for value in values], dtype=np.int64)


def _splits(table: pa.Table, data: Data) -> NDArray[np.str_]:
    if data.split is None:
        return np.array(table.column(BROUGHT).to_pylist(), dtype=np.str_)
    if data.split not in table.column_names:
        raise DataError(f"{data.source} has no column {data.split!r} to name the splits; set data.split.")
    return np.array([str(value) for value in table.column(data.split).to_pylist()], dtype=np.str_)


def _ids(paths: tuple[str | None, ...], splits: NDArray[np.str_]) -> NDArray[np.str_]:
    """The paths below their common folder, where there are paths and all differ; else the split and a number."""
    known = [path for path in paths if path]
    if len(known) == len(paths):
        common = os.path.commonpath([os.path.dirname(path) for path in known]) if os.path.isabs(known[0]) else ""
        names = [os.path.relpath(path, common) if common else path for path in known]
        if len(set(names)) == len(names):
            return np.array(names, dtype=np.str_)
        names = [f"{split}/{name}" for split, name in zip(splits, names, strict=True)]
        if len(set(names)) == len(names):
            return np.array(names, dtype=np.str_)
    seen: dict[str, int] = {}
    ids = []
    for split in splits:
        ids.append(f"{split}/{seen.get(split, 0):06d}")
        seen[split] = seen.get(split, 0) + 1
    return np.array(ids, dtype=np.str_)


def _digests(content: pa.ChunkedArray, paths: tuple[str | None, ...]) -> tuple[list[str], dict[int, str]]:
    """The digest of each picture's encoded bytes; and the rows that cannot be read, with the reason."""
    unreadable: dict[int, str] = {}

    def digest(row: int) -> str:
        try:
            return hashlib.blake2b(_read(content, paths, row), digest_size=16).hexdigest()
        except OSError as error:
            unreadable[row] = error.strerror or str(error)
            return ""

    digests = []
    with ThreadPoolExecutor() as pool, stage("reading", len(paths), "images") as advance:
        for found in pool.map(digest, range(len(paths))):
            digests.append(found)
            advance(1)
    return digests, unreadable


def _read(content: pa.ChunkedArray, paths: tuple[str | None, ...], row: int) -> bytes:
    value = content[row].as_py()
    path = paths[row]
    if value is not None:
        return bytes(value)
    if path is None:
        raise FileNotFoundError(0, "neither bytes nor a path")
    return Path(path).read_bytes()
