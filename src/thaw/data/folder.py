"""Class folders: the files below a folder for each class, whatever their names and links."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thaw.data.skipped import Skipped
from thaw.errors import DataError
from thaw.text import escape_bytes

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
        ".apng",
        ".mpo",
        ".pnm",
        ".dib",
        ".pcx",
        ".qoi",
    ]
)
"""Endings of file names that are taken for pictures, in lower case."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folder names that name a split, when nothing else stands beside them."""


@dataclass
class Listing:
    """The pictures of a class folder: file, class and split of each; and what is left out."""

    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def list_class_folder(root: Path) -> Listing:
    """`root/CLASS/**/picture`, or `root/SPLIT/CLASS/**/picture` when every folder in `root` is named like a split.

    Links to folders are followed, but never into a folder that is read already, or that holds the link. Raises
    DataError where there is no class, one without pictures, or a folder beside splits that is none.
    """
    listing = Listing()
    folders = _folders(root, listing)
    named = [folder for folder in folders if folder.name.lower() in SPLITS]
    divided = [folder for folder in named if _folders(folder, Listing())]
    brings = bool(folders) and len(divided) == len(folders)
    if len(named) > 1 and divided and not brings:
        other = next(folder for folder in folders if folder not in divided)
        raise DataError(
            f"{root} is split into folders such as {divided[0].name!r}, but {other.name!r} beside it is no split with "
            "a folder per class; move it elsewhere, or put its pictures into folders of their classes."
        )
    parts = (
        [(SPLITS[f.name.lower()], inner) for f in folders for inner in _folders(f, listing)]
        if brings
        else [("all", folder) for folder in folders]
    )
    if not parts:
        raise DataError(f"{root} holds no folder per class; put the pictures of each class in a folder of its own.")
    for split, folder in parts:
        before, left_out = len(listing.paths), len(listing.skipped)
        for path in sorted(walk(folder, root, listing.skipped)):
            if Path(path).suffix.lower() in PICTURES:
                listing.paths.append(path)
                listing.labels.append(escape_bytes(folder.name))
                listing.splits.append(split)
            else:
                _skip(listing.skipped, path, root, "is not named like a picture")
        if len(listing.paths) == before:
            others = listing.skipped[left_out:]
            such = f" that can be used; {others[-1].id} {others[-1].reason}" if others else ""
            raise DataError(f"the class folder {folder} holds no picture{such}; add some, or remove the folder.")
    return listing


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
            if again:
                _skip(skipped, path, root, "is a link to a folder that is read already or holds it")
            if again or name.startswith("."):
                folders.remove(name)
            seen.add(real)
        folders.sort()
        yield from (os.path.join(where, name) for name in files if not name.startswith("."))


def _folders(root: Path, listing: Listing) -> list[Path]:
    found = []
    for item in sorted(root.iterdir()):
        if item.name.startswith("."):
            continue
        if not item.is_dir():
            if item.suffix.lower() in PICTURES:
                _skip(listing.skipped, str(item), root, "lies in no class folder")
        elif item.name.startswith("__"):
            _skip(listing.skipped, str(item), root, "is named as programs name folders of their own")
        elif item.is_symlink() and root.resolve().is_relative_to(item.resolve()):
            _skip(listing.skipped, str(item), root, "is a link to a folder that holds it")
        else:
            found.append(item)
    return found


def _skip(skipped: list[Skipped], path: str, root: Path | str, reason: str, bad: bool = False) -> None:
    skipped.append(Skipped(escape_bytes(os.path.relpath(path, root)), reason, bad))
