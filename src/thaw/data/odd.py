"""Odd files: pictures that can be used, yet are seldom meant: misnamed, animated, tiny, very long."""

import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.source import Source

TINY, LONG = 8, 4.0
"""A picture is tiny with a side of fewer pixels, and long where one side is more than so many times the other."""


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded."""

    format: str
    width: int
    height: int
    animated: bool


@dataclass(frozen=True)
class Odd:
    """A picture that is used, and what is odd about it."""

    id: str
    kind: str
    """`misnamed`, `animated`, `tiny`, `long` or `grey`."""
    why: str


def read_headers(source: Source) -> list[Header | None]:
    """The header of each picture; None where it cannot be read. Nothing is decoded."""
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd metadata
        return list(pool.map(lambda row: _header(source, row), range(len(source.ids))))


def odd_files(source: Source, headers: list[Header | None], grey: NDArray[np.bool_]) -> list[Odd]:
    """All that is odd, in the order of the rows; `grey`, (n,), counts where most pictures have colours."""
    known = Image.registered_extensions()
    odd = []
    greys = grey if grey.mean() < 0.5 else np.zeros_like(grey)
    for row, header in enumerate(headers):
        name = str(source.ids[row])
        if greys[row]:
            odd.append(Odd(name, "grey", "is grey among pictures in colour"))
        if header is None:
            continue
        meant = known.get(Path(name).suffix.lower())
        if meant is not None and meant != header.format:
            odd.append(Odd(name, "misnamed", f"is named like {meant} and is {header.format}"))
        if header.animated:
            odd.append(Odd(name, "animated", "is animated; its first frame is used"))
        short, long = sorted((header.width, header.height))
        if short < TINY:
            odd.append(Odd(name, "tiny", f"has {header.width} x {header.height} pixels"))
        elif long > LONG * short:
            odd.append(Odd(name, "long", f"is {header.width} x {header.height} pixels"))
    return odd


def count_kinds(odd: list[Odd]) -> dict[str, int]:
    """How many pictures are odd in which way."""
    return dict(Counter(one.kind for one in odd))


def _header(source: Source, row: int) -> Header | None:
    try:
        with source.open(row) as file, Image.open(file) as picture:
            # a JPEG with several pictures in it is a JPEG
            kind = "JPEG" if picture.format == "MPO" else picture.format or ""
            moving = picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
            return Header(kind, picture.width, picture.height, moving)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
