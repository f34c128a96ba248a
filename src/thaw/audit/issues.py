"""Odd files: pictures that can be used, yet are seldom meant: misnamed, animated, tiny, very long."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.cache.arrays import Array
from thaw.data.source import Source

TINY, LONG = 8, 4.0
"""A picture is tiny with a side of fewer pixels, and long where one side is more than so many times the other."""


@dataclass(frozen=True)
class Odd:
    """A picture that is used, and what is odd about it."""

    id: str
    kind: str
    """`misnamed`, `animated`, `tiny`, `long` or `grey`."""
    why: str


def odd_files(source: Source, headers: Array, grey: NDArray[np.bool_]) -> list[Odd]:
    """All that is odd, in the order of the rows; `headers`, (n,) of `images.header.HEADER`; `grey`, (n,), counts where
    most pictures have colours."""
    known = Image.registered_extensions()
    odd = []
    greys = grey if grey.mean() < 0.5 else np.zeros_like(grey)
    for row, (form, width, height, animated) in enumerate(headers.tolist()):
        name, kind = str(source.ids[row]), form.decode()
        if greys[row]:
            odd.append(Odd(name, "grey", "is grey among pictures in colour"))
        if not kind:
            continue
        meant = known.get(Path(name).suffix.lower())
        if meant is not None and meant != kind:
            odd.append(Odd(name, "misnamed", f"is named like {meant} and is {kind}"))
        if animated:
            odd.append(Odd(name, "animated", "is animated; its first frame is used"))
        short, long = sorted((width, height))
        if short < TINY:
            odd.append(Odd(name, "tiny", f"has {width} x {height} pixels"))
        elif long > LONG * short:
            odd.append(Odd(name, "long", f"is {width} x {height} pixels"))
    return odd


def count_kinds(odd: list[Odd]) -> dict[str, int]:
    """How many pictures are odd in which way."""
    return dict(Counter(one.kind for one in odd))
