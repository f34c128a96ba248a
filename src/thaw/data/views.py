"""The views of a study's images: drawn once, shared by every arm, learning rate and seed, cached as pixels."""

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from thaw.cache.arrays import Array, Chunks, Field, cached, key_of
from thaw.compute.batches import MISSING, Inputs, Rows, places_of
from thaw.data.dataset import Dataset, View
from thaw.data.pixels import CHUNK, unchanged
from thaw.data.source import Source
from thaw.data.splits import Splits
from thaw.images.decode import RULES, upright_rgb
from thaw.images.files import open_image
from thaw.images.preprocessing import Preprocessing, covered
from thaw.images.views import draw_view, is_mirrored, make_policy, view_seed
from thaw.progress import in_order, stage, workers
from thaw.recipe import Augment

TOGETHER = 8
"""Views that are drawn from one decoding of an image; each eight are a cache entry of their own."""
Picture = Callable[[int], Image.Image]
"""An image of the study, by its row: upright RGB."""


def view_rows(augment: Augment, splits: Splits) -> list[Rows]:
    """Return the images of each view that is stored: of the mirror images, where there are any, then of views drawn.

    Test images are never trained on, so of these there are mirror images alone, and these only where they are averaged.
    """
    trained = np.union1d(splits.train, splits.validation)
    tested = np.union1d(splits.validation, splits.test) if augment.test_views > 1 else np.empty(0, np.int64)
    mirrored = np.union1d(trained, tested) if augment.policy == "flip" else tested
    drawn = [trained] * augment.views if augment.policy in ("crop", "strong") else []
    return [*([mirrored] if len(mirrored) else []), *drawn]


def add_views(dataset: Dataset, augment: Augment, picture: Picture) -> Dataset:
    """Draw the views that a recipe asks for, or open those that the cache holds.

    A view depends on the image's content, its own number and the recipe's seed alone: not on the order of images, on
    who draws it, nor on how many views or images there are.

    Parameters
    ----------
    dataset
        The images, decoded and split.
    augment
        The recipe's policy.
    picture
        Gives an image of the source by its row, as a policy takes it: parts are cut from it before it is resized.

    Returns
    -------
    Dataset
        The same with its views.
    """
    rows = view_rows(augment, dataset.splits)
    mirrored = [_mirrored(dataset, rows.pop(0))] if augment.policy == "flip" or augment.test_views > 1 else []
    tested = (0, 1) if augment.test_views > 1 else (0,)
    if augment.policy == "none":
        return replace(dataset, views=tuple(mirrored), tested=tested)
    images, trained = len(dataset.source.ids), np.union1d(dataset.splits.train, dataset.splits.validation)
    if augment.policy == "flip":
        drawn = np.zeros((augment.views, images), np.int64)
        for number, coins in enumerate(drawn):
            coins[trained] = [
                is_mirrored(view_seed(augment.seed, dataset.source.digests[row], number)) for row in trained
            ]
        return replace(dataset, views=tuple(mirrored), drawn=drawn, tested=tested)
    drawn = np.repeat(len(mirrored) + 1 + np.arange(augment.views)[:, None], images, axis=1)
    views = [*mirrored, *_drawn(dataset, augment, trained, picture)]
    return replace(dataset, views=tuple(views), drawn=drawn, tested=tested)


def pictures_of(source: Source, preprocessing: Preprocessing, decode: str) -> Picture:
    """Return how to decode an image of a source for `add_views`; `fast` keeps twice the pixels that a whole one needs.

    DataError is raised where an image is no longer what it was when the source was read.
    """
    needed = 2 * max(covered(preprocessing))

    def picture(row: int) -> Image.Image:
        with open_image(unchanged(source, row)) as opened:
            if decode == "fast":
                opened.draft("RGB", (needed, needed))
            return upright_rgb(opened, preprocessing.depth)

    return picture


def _mirrored(dataset: Dataset, rows: Rows) -> View:
    """Mirror images, which take no room: the same pixels, read from right to left."""
    (array,), index = dataset.pixels.arrays, dataset.pixels.index
    held = np.full(len(dataset.pixels), MISSING)
    held[rows] = rows if index is None else index[rows]
    pixels = Inputs((array[:, :, ::-1],), dataset.pixels.device, held)
    return View(pixels, rows, key_of(pixels=dataset.key, mirrored=rows.tolist()))


def _drawn(dataset: Dataset, augment: Augment, rows: Rows, picture: Picture) -> list[View]:
    """The views of `rows` that a policy draws."""
    determined = {
        "pixels": dataset.key,
        "preprocessing": asdict(dataset.preprocessing),
        "rows": rows.tolist(),
        "policy": augment.policy,
        "seed": augment.seed,
        "versions": [RULES, PIL.__version__, torch.__version__, torchvision.__version__],
    }
    policy = make_policy(augment.policy, dataset.preprocessing)
    index, views = places_of(rows, len(dataset.source.ids)), list[View]()
    for first in range(0, augment.views, TOGETHER):
        numbers = list(range(first, min(first + TOGETHER, augment.views)))

        def draw(row: int, numbers: list[int] = numbers) -> list[NDArray[np.uint8]]:
            image, digest = picture(row), dataset.source.digests[row]
            return [draw_view(image, policy, view_seed(augment.seed, digest, number)) for number in numbers]

        for number, array in zip(numbers, _cached(draw, rows, numbers, determined, dataset), strict=True):
            pixels = Inputs((array,), dataset.pixels.device, index)
            views.append(View(pixels, rows, key_of(**determined, view=number)))
    return views


def _cached(
    draw: Callable[[int], list[NDArray[np.uint8]]],
    rows: Rows,
    numbers: list[int],
    determined: dict[str, object],
    dataset: Dataset,
) -> tuple[Array, ...]:
    """An array (rows, height, width, 3) for each of the views of these numbers, cached or drawn on all cores."""

    def make(first: int) -> Chunks:
        with workers() as pool, stage("views", len(rows), "images", first) as advance:
            found = in_order(pool, draw, rows[first:].tolist(), CHUNK)
            for start in range(first, len(rows), CHUNK):
                chunk = list(islice(found, min(CHUNK, len(rows) - start)))
                advance(len(chunk))
                yield tuple(np.stack(of_view) for of_view in zip(*chunk, strict=True)), {}

    field = Field(dataset.pixels.arrays[0].shape[1:], "uint8")
    return cached("views", key_of(**determined, views=numbers), len(rows), [field] * len(numbers), make).arrays
