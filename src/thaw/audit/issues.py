"""Issues: images that can be used, but are seldom intended: misnamed, animated, tiny, long, grey, one colour, dark."""

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.cache.arrays import Array
from thaw.data.exposure import Exposure
from thaw.data.source import Source
from thaw.record import Record

TINY, LONG = 8, 4.0
"""An image is tiny with a side of fewer pixels, and long where one side is more than this many times the other."""

Kind = Literal["misnamed", "animated", "tiny", "long", "grey", "low_information", "dark", "light"]


class Issue(Record):
    """Something odd about an image that is used."""

    id: str
    """The image."""
    kind: Kind
    """The kind of issue."""
    reason: str
    """What is odd, to follow the image's name."""


class Issues(Record):
    """The issues of all images."""

    counts: dict[Kind, int]
    """How many images have an issue of each kind; kinds without any are left out."""
    examples: list[Issue]
    """The first 50."""


def find_issues(source: Source, headers: Array, grey: NDArray[np.bool_], exposure: Exposure) -> list[Issue]:
    """Find every issue, in the order of the rows.

    Parameters
    ----------
    headers
        (n,) of `images.header.HEADER`
    grey
        (n,) whether an image has no colours; an issue only where most images have some.
    exposure
        Which images are nearly black, nearly white or one colour, as the network sees them.
    """
    known = Image.registered_extensions()
    issues = []
    greys = grey & ~exposure.low_information if grey.mean() < 0.5 else np.zeros_like(grey)
    for row, (form, width, height, animated) in enumerate(headers.tolist()):
        name, kind = str(source.ids[row]), form.decode()
        if greys[row]:
            issues.append(Issue(id=name, kind="grey", reason="is grey among images in colour"))
        if exposure.low_information[row]:
            issues.append(Issue(id=name, kind="low_information", reason="is one colour"))
        if exposure.dark[row]:
            issues.append(Issue(id=name, kind="dark", reason="is nearly black"))
        if exposure.light[row]:
            issues.append(Issue(id=name, kind="light", reason="is nearly white"))
        if not kind:
            continue
        meant = known.get(Path(name).suffix.lower())
        if meant is not None and meant != kind:
            issues.append(Issue(id=name, kind="misnamed", reason=f"is named like {meant} and is {kind}"))
        if animated:
            issues.append(Issue(id=name, kind="animated", reason="is animated; its first frame is used"))
        short, long = sorted((width, height))
        if short < TINY:
            issues.append(Issue(id=name, kind="tiny", reason=f"has {width} x {height} pixels"))
        elif long > LONG * short:
            issues.append(Issue(id=name, kind="long", reason=f"is {width} x {height} pixels"))
    return issues


def summarise_issues(issues: list[Issue], listed: int) -> Issues:
    """Count the issues by kind and list the first of them."""
    return Issues(counts=dict(Counter(one.kind for one in issues)), examples=issues[:listed])
