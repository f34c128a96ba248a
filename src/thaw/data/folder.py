"""Class folders: the files below a folder for each class, whatever their names and links."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from thaw.data.delimited import open_delimited
from thaw.data.endings import PICTURES, SPLITS, TABLES
from thaw.data.skipped import Skipped
from thaw.errors import DataError
from thaw.progress import say
from thaw.text import escape_bytes

SYSTEM = frozenset(
    [
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
        *("system volume information", "__macosx", "__pycache__"),
    ]
)
"""Folders, in lower case, that file servers and archives make: thumbnails, bins, copies."""
OF_SYSTEM = "is a folder that file servers or archives make"
NOT_NAMED = "is not named like an image"
BESIDE = 200
"""About as many rows of a table beside class folders are compared with the folders."""
TWINS = 0.9
"""Where so large a fraction of the file names is there with two endings, one of the two is something else."""


@dataclass
class Listing:
    """The images of a class folder: file, class and split of each; and what is left out."""

    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def list_class_folder(root: Path) -> Listing:
    """List `root/CLASS/**/image`, or `root/SPLIT/CLASS/**/image` when every folder in `root` is named like a split.

    A lone folder that holds more folders stands for `root`. Links to folders are followed, but never into a folder
    that is read already, or that holds the link. Raises DataError where there is no class or one without images, or
    where the folders can be meant in two ways: classes or splits, classes or what a table beside them says.
    """
    listing = Listing()
    top = descend(root)
    if top != root:
        say(f"reading {top}, since {root} holds nothing else")
    folders = _folders(top, listing, root)
    _check_table_beside(top)
    brings = _bring_splits(top, folders)
    parts = (
        [(folder.name, inner) for folder in folders for inner in _folders(folder, listing, root)]
        if brings
        else [("all", folder) for folder in folders]
    )
    if not parts:
        hint = _suggest_classes(_images(top))
        raise DataError(f"{root} holds no folder per class{hint}; put the images of each class in a folder of its own.")
    for split, folder in parts:
        before, left_out = len(listing.paths), len(listing.skipped)
        for path in sorted(walk(folder, root, listing.skipped)):
            if Path(path).suffix.lower() in PICTURES:
                listing.paths.append(path)
                listing.labels.append(escape_bytes(folder.name))
                listing.splits.append(split)
            else:
                _skip(listing.skipped, path, root, NOT_NAMED)
        if len(listing.paths) == before:
            others = listing.skipped[left_out:]
            such = f" that can be used; {others[-1].id} {others[-1].reason}" if others else ""
            raise DataError(f"the class folder {folder} holds no image{such}; add some, or remove the folder.")
    _check_twins(listing.paths, root)
    return listing


def descend(folder: Path) -> Path:
    """Go down from a folder through each that holds one folder and no file of a source, to where the choice begins."""
    seen = {folder.resolve()}
    while True:
        inner = _folders(folder, Listing())
        if len(inner) != 1 or inner[0].name.lower() in SPLITS or inner[0].resolve() in seen:
            return folder
        if any(path.suffix.lower() in (*PICTURES, *TABLES) for path in folder.iterdir()):
            return folder
        if not any(path.is_dir() and not _is_system(path.name) for path in inner[0].iterdir()):
            return folder
        folder = inner[0]
        seen.add(folder.resolve())


def _bring_splits(top: Path, folders: list[Path]) -> bool:
    """Tell whether folders are splits with a folder per class, or classes. Raises DataError where they are neither."""
    named = [folder for folder in folders if folder.name.lower() in SPLITS]
    divided = [folder for folder in named if _folders(folder, Listing())]
    brings = bool(folders) and len(divided) == len(folders)
    if len(named) > 1 and divided and not brings:
        other = next(folder for folder in folders if folder not in divided)
        raise DataError(
            f"{top} is split into folders such as {divided[0].name!r}, but {other.name!r} beside it is no split with "
            "a folder per class; move it elsewhere, or put its images into folders of their classes."
        )
    for folder in named if len(named) == len(folders) else []:
        if found := _images(folder):
            raise DataError(
                f"{folder} is named like a split and has images that lie in no class folder, such as "
                f"{found[0].name!r}{_suggest_classes([path for one in named for path in _images(one)])}; put them "
                "into a folder for each class, or give a table with a column for the class and one for the split."
            )
    return brings


def _images(folder: Path) -> list[Path]:
    """The files right in a folder that are named like images."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )


def _suggest_classes(images: list[Path]) -> str:
    """The classes that names such as `cat.12.jpg` suggest, to end half a sentence; nothing where they suggest none."""
    words = Counter(re.sub(r"[\W_]*\d*[\W_]*$", "", escape_bytes(path.stem)) for path in images)
    del words[""]
    if not 2 <= len(words) <= max(2, len(images) // 2):
        return ""
    shown = ", ".join(f"{word!r} ({times:,})" for word, times in words.most_common(3))
    return f"; file names suggest the classes {shown}" + (f" and {len(words) - 3:,} more" if len(words) > 3 else "")


def _check_table_beside(top: Path) -> None:
    """Raise DataError where a table beside the folders says something else of their images than the folders do."""
    folders = [top, *(path for path in top.iterdir() if path.is_dir())]
    for table in sorted(path for path in top.iterdir() if path.suffix.lower() in (".csv", ".tsv") and path.is_file()):
        try:
            with open_delimited(table) as (_, lines):
                rows = list(lines)
        except (DataError, OSError):
            continue
        rows = rows[:: max(1, len(rows) // BESIDE)]
        named = [(image.parent, row) for row in rows if (image := _named_image(row, folders))]
        places = [place for place, _ in named]
        columns = zip(*(row for _, row in named), strict=True)
        pairs = [set(zip(places, column, strict=True)) for column in columns]
        agrees = any(len(set(places)) == len(pair) == len({value for _, value in pair}) > 1 for pair in pairs)
        if named and not agrees:
            raise DataError(
                f"{top} has folders and a table, {table.name}, that names their images; give {table} to use its "
                "columns, or move it elsewhere to have the folders as classes."
            )


def _named_image(row: list[str], folders: list[Path]) -> Path | None:
    """The image that a row names below one of some folders, if it does."""
    cells = [cell for cell in row if PurePath(cell).suffix.lower() in PICTURES and "\0" not in cell]
    return next((folder / cell for cell in cells for folder in folders if os.path.isfile(folder / cell)), None)


def _check_twins(paths: list[str], root: Path) -> None:
    """Raise DataError where nearly all names are there with two endings, such as photographs and their masks."""
    endings: dict[str, set[str]] = {}
    for path in paths:
        stem, ending = os.path.splitext(path)
        endings.setdefault(stem, set()).add(ending.lower())
    twins = [stem for stem, several in endings.items() if len(several) > 1]
    if twins and len(twins) >= TWINS * len(endings):
        first = os.path.relpath(twins[0], root)
        told = " and ".join(repr(escape_bytes(first + ending)) for ending in sorted(endings[twins[0]]))
        raise DataError(
            f"{len(twins):,} of the {len(endings):,} names of images in {root} are there with two endings, such as "
            f"{told}; move one kind elsewhere, since masks and copies are not images to learn from."
        )


def walk(folder: Path | str, root: Path | str, skipped: list[Skipped]) -> Iterator[str]:
    """The files below a folder, in no order, but for hidden ones; links to folders are followed, none of them twice.

    What is left out otherwise is added to `skipped`, by its path below `root`.
    """

    def unreadable(error: OSError) -> None:
        _skip(skipped, str(error.filename), root, f"cannot be read: {error.strerror}", bad=True)

    seen = {os.path.realpath(folder)}
    for where, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        for name in sorted(folders):
            path = os.path.join(where, name)
            real = os.path.realpath(path)
            again = real in seen or Path(os.path.realpath(where)).is_relative_to(real)
            if _is_system(name):
                _skip(skipped, path, root, OF_SYSTEM)
            elif again:
                _skip(skipped, path, root, "is a link to a folder that is read already or holds it")
            if again or name.startswith(".") or _is_system(name):
                folders.remove(name)
            seen.add(real)
        folders.sort()
        yield from (os.path.join(where, name) for name in files if not name.startswith("."))


def _folders(folder: Path, listing: Listing, root: Path | None = None) -> list[Path]:
    """The folders in a folder that can be classes or splits; what else lies there is listed, as below `root`."""
    found, root = [], root or folder
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if not item.is_dir():
            if item.suffix.lower() in PICTURES:
                _skip(listing.skipped, str(item), root, "lies in no class folder")
        elif _is_system(item.name):
            _skip(listing.skipped, str(item), root, OF_SYSTEM)
        elif item.name.startswith("__"):
            _skip(listing.skipped, str(item), root, "is named as programs name folders of their own")
        elif item.is_symlink() and folder.resolve().is_relative_to(item.resolve()):
            _skip(listing.skipped, str(item), root, "is a link to a folder that holds it")
        else:
            found.append(item)
    return found


def _is_system(name: str) -> bool:
    return name.lower() in SYSTEM


def _skip(skipped: list[Skipped], path: str, root: Path | str, reason: str, bad: bool = False) -> None:
    skipped.append(Skipped(escape_bytes(os.path.relpath(path, root)), reason, bad))
