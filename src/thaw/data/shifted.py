"""Further test sets: labelled images of another source, or the test images corrupted, for models that know neither."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from thaw.cache.arrays import Array, Chunks, Field, cached, key_of
from thaw.compute.batches import read_rows
from thaw.data.dataset import Dataset
from thaw.data.pixels import make_pixels
from thaw.data.skipped import Skipped, check_bad
from thaw.data.source import Source, read_source
from thaw.data.splits import group_codes
from thaw.errors import DataError
from thaw.images import corrupt
from thaw.images.preprocessing import Preprocessing
from thaw.progress import say
from thaw.recipe import CORRUPTIONS, Data, Recipe
from thaw.text import count, listed

CHUNK = 256
"""Images that are corrupted and written at a time."""
RULES = [1, corrupt.NOISE, corrupt.BLUR, corrupt.QUALITY, corrupt.LIGHT, corrupt.CONTRAST, corrupt.DEGREES]
"""What corrupted pixels depend on; the first counts up when the code changes them."""


@dataclass(frozen=True)
class ShiftedSet:
    """Labelled images, decoded, that are scored and never trained on."""

    name: str
    """What a table calls it."""
    kind: Literal["source", "corruption"]
    origin: str
    """The source as it was given, or what was done to the test images."""
    ids: NDArray[np.object_]
    """(n,) names of the images."""
    digests: tuple[str, ...]
    """n content digests, of the encoded images."""
    labels: NDArray[np.int64]
    """(n,) indices into the model's classes."""
    groups: NDArray[np.int64] | None
    """(n,) codes from 0 with none left out, where images of a group are alike."""
    pixels: Array
    """uint8 (n, height, width, 3)."""
    key: str
    """A digest of everything that determines the pixels and labels."""
    missing: tuple[str, ...] = ()
    """Classes that it has no image of."""
    skipped: tuple[Skipped, ...] = ()
    """What was left out."""


def read_shifted(
    name: str, data: Data, classes: Sequence[str], preprocessing: Preprocessing, decode: str, *, known: bool = False
) -> ShiftedSet:
    """Read labelled images for a model of given classes and preprocessing.

    Parameters
    ----------
    name
        What to call the set.
    data
        Its source and columns; `data.test`, where it is given, is the split of the source to take, else all is taken.
        A group column is used where the source has it.
    classes
        The model's.
    preprocessing, decode
        How an image becomes the model's input.
    known
        Leave out images of classes that the model does not know; else they are an error.

    Raises
    ------
    DataError
        The source cannot be read, holds a class that the model does not know, or none that it knows.
    """
    source = read_source(data.model_copy(update={"group": None, "slices": None}))
    if isinstance(data.test, str):
        source = _of_split(source, data.test, data)
    place = {of: code for code, of in enumerate(classes)}
    unknown = [of for code, of in enumerate(source.classes) if of not in place and (source.labels == code).any()]
    codes = np.array([place.get(of, -1) for of in source.classes])[source.labels]
    if unknown and (not known or (codes < 0).all()):
        what = f"{data.source} has {_classes(unknown)}, which the model does not know"
        raise DataError(f"{what}: it knows {_classes(classes)}; {_remedy(codes, data)}.")
    if unknown:
        say(f"{name}: {count(int((codes < 0).sum()), 'image')} of {_classes(unknown)} left out: the model has no such")
        source = source.take(np.flatnonzero(codes >= 0), [Skipped(_classes(unknown), "unknown to the model")])
    pixels = make_pixels(source, preprocessing, decode)
    good = np.array([row for row in range(len(source.ids)) if row not in pixels.bad], dtype=np.int64)
    bad = [Skipped(str(source.ids[row]), why, True) for row, why in sorted(pixels.bad.items())]
    if bad:
        say(f"{name}: {count(len(bad), 'image')} that cannot be decoded left out, such as {bad[0].id}: {bad[0].reason}")
    source = source.take(good, bad)
    check_bad(source.skipped, len(good), data)
    codes = np.array([place.get(of, -1) for of in source.classes])[source.labels]
    missing = tuple(of for code, of in enumerate(classes) if not (codes == code).any())
    if missing:
        say(
            f"{name} has no image of {_classes(missing)}, so it says nothing of {'it' if len(missing) == 1 else 'them'}"
        )
    array = pixels.array if len(good) == len(pixels.array) else read_rows(pixels.array, good)
    grouped = data.group is not None and data.group in source.columns.column_names
    groups = group_codes(source, data) if grouped else None
    key = key_of(pixels=pixels.key, good=good.tolist(), labels=codes.tolist())
    return ShiftedSet(
        name,
        "source",
        data.source,
        source.ids,
        source.digests,
        codes,
        None if groups is None else np.unique(groups, return_inverse=True)[1],
        array,
        key,
        missing,
        source.skipped,
    )


def load_shifted(recipe: Recipe, dataset: Dataset) -> tuple[ShiftedSet, ...]:
    """Read the further test sets of a recipe, for models that are trained on a data set. Raises DataError."""
    found, trained = [], np.union1d(dataset.splits.train, dataset.splits.validation)
    known = {dataset.source.digests[row] for row in trained.tolist()}
    for name, source in recipe.data.shifted.items():
        data = recipe.data.model_copy(update={"source": source, "split": None, "test": None})
        own = read_shifted(name, data, dataset.source.classes, dataset.preprocessing, recipe.images.decode)
        if copies := sum(digest in known for digest in own.digests):
            say(f"warning: {count(copies, 'image')} of {name} are also trained on, which flatters every arm there")
        found.append(own)
    return (*found, *(corrupted(kind, recipe, dataset) for kind in CORRUPTIONS if recipe.data.corruptions))


def corrupted(kind: str, recipe: Recipe, dataset: Dataset) -> ShiftedSet:
    """Corrupt the test images of a data set, or find them in the cache; `kind` is one of `recipe.CORRUPTIONS`."""
    rows, source = dataset.splits.test, dataset.source
    digests = tuple(source.digests[row] for row in rows.tolist())
    key = key_of(kind=kind, pixels=dataset.key, rows=rows.tolist(), rules=RULES, pillow=PIL.__version__)
    groups = group_codes(source, recipe.data)

    def make(first: int) -> Chunks:
        for start in range(first, len(rows), CHUNK):
            few = range(start, min(start + CHUNK, len(rows)))
            images = [dataset.pixels.image(int(rows[place])) for place in few]
            seeds = [int(digests[place], 16) for place in few]
            yield (np.stack([corrupt.corrupt(kind, *of) for of in zip(images, seeds, strict=True)]),), {}

    shape = dataset.pixels.image(int(rows[0])).shape
    (array,) = cached("corrupted", key, len(rows), [Field(shape, "uint8")], make).arrays
    return ShiftedSet(
        kind,
        "corruption",
        "the test images",
        source.ids[rows],
        digests,
        source.labels[rows],
        None if groups is None else np.unique(groups[rows], return_inverse=True)[1],
        array,
        key,
    )


def _of_split(source: Source, split: str, data: Data) -> Source:
    rows = np.flatnonzero(source.splits == split)
    if not len(rows):
        raise DataError(f"{data.source} has no split {split!r}; it has {listed(sorted(set(source.splits.tolist())))}.")
    return source.take(rows)


def _classes(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:5]]
    more = [f"{len(names) - 5:,} more"] if len(names) > 5 else []
    return f"the class{'es' if len(names) > 1 else ''} {listed([*shown, *more])}"


def _remedy(codes: NDArray[np.int64], data: Data) -> str:
    if (codes < 0).all():
        return f"rename them, or name another column of classes than {data.label!r}"
    return "rename or remove its images, or leave them out with `thaw test --known`"
