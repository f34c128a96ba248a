"""A commented recipe for somebody's images, from a look at them."""

import os
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from numpy.typing import NDArray

from thaw.cache.files import write_atomic
from thaw.errors import StorageError
from thaw.init.guess import Look
from thaw.nets.backbones import native_size
from thaw.recipe import recipe_text
from thaw.scoring.baselines import imbalance
from thaw.settle import ALL_SQUARE, EPOCHS, choose_size, choose_training
from thaw.text import escape_line

SHOWN_CLASSES = 12
WIDTH = 110


def write_recipe(look: Look, out: Path) -> Path:
    """Write the recipe that fits what `look` found; `out` must not be there yet. Raises StorageError."""
    if out.exists():
        raise StorageError(f"{out} is already there and is left as it is; give another file with --out.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, suggest(look, out))
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}; give another file with --out.") from error
    return out


def suggest(look: Look, out: Path) -> str:
    """The recipe as TOML text; `out` is where it will lie, which its path to the images is relative to."""
    photos = recipe_text("photos")
    model = "[model]" + photos.partition("[model]")[2].partition("[train]")[0].rstrip()
    arms = "[arms." + photos.partition("[arms.")[2]
    if imbalance(look.source.classes, _counts(look)):
        model += '\nmetric = "balanced_accuracy"'
    lines = [
        *_found(look, out),
        "",
        *_data(look, out),
        "",
        *_images(look),
        "",
        model,
        "",
        *_train(look),
        *_verdict(look),
    ]
    return "\n".join([*lines, "", arms])


def _found(look: Look, out: Path) -> Iterator[str]:
    source, shapes, names = look.source, look.shapes, look.source.classes
    counts = _counts(look)
    order = np.argsort(-counts, kind="stable")
    told = ", ".join(f"{names[code]} {counts[code]:,}" for code in order[:SHOWN_CLASSES])
    more = f" and {len(names) - SHOWN_CLASSES:,} more" if len(names) > SHOWN_CLASSES else ""
    yield from comment("Written by thaw init from a look at the images. Change what is wrong, then:")
    yield f"#   thaw study --recipe {escape_line(out.name)} --dry-run"
    yield f"#   thaw study --recipe {escape_line(out.name)}"
    yield "#"
    yield from comment(f"{len(source.ids):,} images of {len(names):,} classes: {told}{more}.")
    if counts.max() > 3 * counts.min():
        yield from comment(
            f"The largest class has {counts.max() / counts.min():.0f} times the images of the smallest: read F1 and "
            "the confusion matrix beside accuracy."
        )
    if counts.min() < 20:
        yield from comment(
            f"{names[int(counts.argmin())]} has {counts.min():,} images only, too few to be sure of anything about it."
        )
    for warning in source.warnings:
        yield from comment(f"Warning: {warning}.")
    if source.skipped:
        yield from comment(f"{len(source.skipped):,} files or rows are skipped; the report names each with its reason.")
    if shapes.unreadable:
        yield from comment(
            f"{shapes.unreadable:,} of {shapes.unreadable + len(shapes.sizes):,} images looked at cannot be opened."
        )


def _data(look: Look, out: Path) -> Iterator[str]:
    data, why = look.data, look.why
    yield "[data]"
    yield from _key("source", source_from(data.source, out), why.get("source", ""))
    if "image" in why:
        yield from _key("image", data.image, why["image"])
    if "image" in why:
        yield from _key("label", data.label, why["label"])
    if data.split:
        yield from _key("split", data.split, why["split"])
    if data.group:
        yield from _key("group", data.group, why["group"])
    else:
        yield from comment(
            f"group: {why['group']}."
            if "group" in why
            else "group = a column that says what images share (a person, a patient), where near copies of an image "
            "could lie in train and test alike."
        )
    yield from _key("validation", data.validation, why["validation"])
    yield from _key("test", data.test, why["test"])


def _images(look: Look) -> Iterator[str]:
    shapes = look.shapes
    sizes, size = np.array(shapes.sizes), choose_size(shapes, native_size(_photos_backbone()))
    width, height = np.median(sizes, 0).astype(int)
    yield "[images]"
    yield from comment(
        f"{len(sizes):,} images looked at: {width} x {height} pixels in the median, shorter sides from "
        f"{sizes.min()} to {sizes.min(1).max()}."
    )
    yield from _key("size", size.value, size.why)
    if shapes.squares >= ALL_SQUARE:
        yield from _key("resize", "squash", f"{shapes.squares:.0%} are square, so that nothing is distorted")
    else:
        yield from comment(
            f"{1 - shapes.squares:.0%} are not square. squash bends their shape and cuts nothing off; crop cuts the "
            "ends off, letterbox adds a border; auto compares them by a probe before anything is trained."
        )
        yield from _key("resize", "auto", "")
    if shapes.jpegs > len(sizes) / 2 and isinstance(size.value, int) and shapes.shorter_side >= 4 * size.value:
        yield from comment('These JPEGs are large: decode = "fast" lets the decoder shrink them first.')


def _photos_backbone() -> str:
    backbone: str = tomllib.loads(recipe_text("photos"))["model"]["backbone"]
    return backbone


def _train(look: Look) -> Iterator[str]:
    """The recipe's own training with what it leaves to the images filled in, and a view for each epoch."""
    chosen = choose_training(look.source.classes, np.bincount(look.source.labels[look.splits.train]))
    epochs = chosen[EPOCHS].value
    rest = "[train]" + recipe_text("photos").partition("[train]")[2].partition("[arms.")[0].rstrip()
    for line in rest.splitlines():
        key = line.partition(" =")[0]
        if ("train", key) in chosen:
            yield from _key(key, *chosen["train", key])
        elif key == "views":
            yield from _key(key, epochs, "one for each epoch")
        else:
            yield line


def _verdict(look: Look) -> Iterator[str]:
    """What to judge by, where accuracy would mislead."""
    why = imbalance(look.source.classes, _counts(look))
    if why:
        yield from ("", "[verdict]")
        yield from _key("metric", "balanced_accuracy", f"{why}; balanced accuracy counts every class alike")


def _counts(look: Look) -> NDArray[np.int64]:
    return np.bincount(look.source.labels, minlength=len(look.source.classes))


def _key(name: str, value: Any, why: str) -> Iterator[str]:
    line = f"{name} = {tomlkit.item(value).as_string()}"
    told = f"{line:<36}# {escape_line(why)}"
    if why and len(told) <= WIDTH:
        yield told
        return
    if why:
        yield from comment(why)
    yield line


def comment(text: str) -> list[str]:
    """Wrap a text into lines of a comment in TOML."""
    return textwrap.wrap(escape_line(text), WIDTH, initial_indent="# ", subsequent_indent="# ")


def source_from(source: str, out: Path) -> str:
    """Return the source as a recipe at `out` names it: relative where it lies below the recipe's folder."""
    if source.startswith(("hf:", "thaw:")):
        return source
    path, folder = Path(source).expanduser().resolve(), out.resolve().parent
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
