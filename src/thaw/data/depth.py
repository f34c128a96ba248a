"""The depth of a source's grey images, measured once."""

from collections.abc import Iterator

import numpy as np

from thaw.cache.arrays import Chunks, Field, cached, key_of
from thaw.data.pixels import unchanged
from thaw.data.source import Source
from thaw.images.depth import Depth, Values, choose_depth, measure
from thaw.images.files import MAX_PIXELS
from thaw.progress import in_order, say, stage, workers

CHUNK = 512
"""Images whose values are written at a time."""


def source_depth(source: Source, given: Depth | None) -> tuple[Depth | None, tuple[str, ...]]:
    """Choose black and white for all grey images of more than 8 bits in a source, from what is in them.

    Returns
    -------
    tuple
        `given` if there is one, else the depth, None where the source has no such images; and warnings.
    """
    found = _measure(source)
    if not found:
        return given, ()
    warnings = []
    if undefined := [row for row, values in found.items() if values.undefined]:
        warnings.append(
            f"{len(undefined):,} grey images have pixels that are NaN or infinite, such as "
            f"{str(source.ids[undefined[0]])!r}; NaN is taken for black"
        )
    chosen = given or choose_depth(found.values())
    if chosen is None:
        warnings.append(
            "grey images of more than 8 bits hold whole numbers and fractions, so each is scaled by its own values; "
            "set images.depth or store them alike"
        )
    else:
        say(f"{len(found):,} grey images have more than 8 bits: {chosen[0]:g} is black and {chosen[1]:g} white")
    return chosen, tuple(warnings)


def _measure(source: Source) -> dict[int, Values]:
    """The values of each image that is grey of more than 8 bits, by its row."""
    rows = np.flatnonzero(source.deep).tolist() if source.deep is not None else []
    if not rows:
        return {}

    def measured(row: int) -> tuple[float, ...]:
        values = measure(unchanged(source, row), MAX_PIXELS)
        return (0.0, 0.0, 0.0, 0.0, 0.0) if values is None else (1.0, *map(float, values))

    def make(first: int) -> Chunks:
        with workers() as pool, stage("measuring", len(rows), "images", first) as advance:
            found: Iterator[tuple[float, ...]] = in_order(pool, measured, rows[first:], CHUNK)
            for start in range(first, len(rows), CHUNK):
                chunk = []
                for _, values in zip(rows[start : start + CHUNK], found, strict=False):
                    chunk.append(values)
                    advance(1)
                yield (np.array(chunk, dtype=np.float64),), {}

    key = key_of(images=[source.digests[row] for row in rows], kind="least, most, whole, undefined")
    (array,) = cached("depth", key, len(rows), [Field((5,), "float64")], make).arrays
    return {
        row: Values(least, most, bool(whole), int(undefined))
        for row, (deep, least, most, whole, undefined) in zip(rows, np.asarray(array).tolist(), strict=True)
        if deep
    }
