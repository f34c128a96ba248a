"""Copies that are mirrored, turned, cropped, framed or rotated: proposed by coarse outlines, proved by pixels."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from thaw.compute.batches import consecutive
from thaw.data.duplicates import (
    BATCH,
    BINS,
    FAINT,
    SCALE,
    Looks,
    Pairs,
    Rows,
    chain,
    components,
    directions,
    histograms,
    near_pairs,
)
from thaw.data.registration import coarse_contrast, levels_of, register
from thaw.progress import stage

GRID = 4
"""Cells of a coarse outline along a side; 8 orientations in each."""
PARTS = ((1.0, 1), (0.85, 2), (0.72, 3))
"""The parts of an image that are compared with other whole images: of its side, and how many along it."""
FAR, FAR_TURNED = 0.16, 0.06
"""Coarse outlines at most this far apart, in cosine distance, are compared by pixels; the second where one is turned.

Of crops to 70%, 98% have their original's within .15; turned ones, nearly all within .03.
"""
NEAREST = 2
"""The nearest of other images that are compared by pixels with an image's parts; as many with its turns."""
TOPMOST = 7
"""Of the views of an image, those that are nearest to any other image."""
ALIKE, WORST = 0.88, 0.6
"""Images whose correlation is at least this once one lies on the other, with no tile in less agreement, are copies."""
INSIDE = 0.12
"""Images in a frame that are near have outlines at most this far apart inside it."""
OVERLAP = 0.7
"""Fraction of the smaller image that has to lie on the other."""
CELL_SIZE, CELLS, PROBED, ROUNDS = 128, 1024, 4, 6
"""Images in a cell of the search, on average, and cells at most; cells searched for a part; rounds of k-means."""
CHUNK, VERIFIED = 1024, 256
"""Images whose parts are searched, and pairs that are compared by pixels, together."""


def altered_pairs(looks: Looks, known: Rows, device: torch.device) -> Iterator[Pairs]:
    """Yield pairs of rows (first < second) that are one picture, mirrored, turned or cropped, some pairs at a time.

    A coarse outline of each whole image is compared with those of parts of the others, and of their mirror images and
    turns, among clusters of them (an inverted file: Jégou et al., TPAMI 2011, without its codes). The nearest few are
    laid on each other, and are copies where the pixels agree.

    Parameters
    ----------
    looks
        Of n images.
    known
        (n,) codes: images with the same one are copies already, and are not compared.
    device
        Where outlines are compared.

    Yields
    ------
    tuple
        The rows, and 1 less the correlation of their pixels, float32.
    """
    if len(np.unique(known)) < 2:
        return
    placed = _placements().to(device)
    count = len(looks.thumbnails)
    with stage("altered copies", count, "images") as advance:
        chunks = [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
        wholes = torch.cat([_whole(_cells(looks, rows, device)) for rows in chunks])
        coarse = torch.cat([coarse_contrast(levels_of(looks.thumbnails[rows], device)) for rows in chunks])
        index = _Index(wholes, torch.from_numpy(known).to(device))
        for rows in chunks:
            views = _views(_cells(looks, rows, device))
            whole, part, view = _proposed(index, views, rows.start)
            found = _proved(looks.thumbnails, coarse, whole, part, placed[view])
            if len(found[0]):
                yield found
            advance(len(views))


def upright_pairs(looks: Looks, device: torch.device) -> Iterator[Pairs]:
    """Yield the `near_pairs`, but for images in frames only those that are near inside them too."""
    for first, second, far in near_pairs(looks.outlines, device):
        kept = ~(looks.framed[first] | looks.framed[second])
        for rows in consecutive(np.flatnonzero(~kept), CHUNK):
            one, other = (_inside(looks.thumbnails[pair[rows]], device) for pair in (first, second))
            kept[rows] = ((one * other).sum(1) >= 1 - INSIDE).cpu().numpy()
        yield first[kept], second[kept], far[kept]


def copy_clusters(looks: Looks, digests: tuple[str, ...], device: torch.device) -> Rows:
    """Return (n,) codes: images that are copies of each other, in whatever way, have the same."""
    count = len(looks.outlines)
    exact = np.unique(np.array(digests), return_inverse=True)[1].astype(np.int64)
    near = components(count, ((first, second) for first, second, _ in upright_pairs(looks, device)))
    known = components(count, [chain(exact), chain(near)])
    altered = ((first, second) for first, second, _ in altered_pairs(looks, known, device))
    return components(count, itertools.chain([chain(known)], altered))


class _Index:
    """Coarse outlines of whole images, those that are alike in the same cell."""

    def __init__(self, wholes: Tensor, known: Tensor) -> None:
        self.wholes, self.known = wholes, known
        count = min(CELLS, max(1, len(wholes) // CELL_SIZE))
        sample = wholes[torch.linspace(0, len(wholes) - 1, min(len(wholes), 64 * count)).long().to(wholes.device)]
        centres = sample[torch.linspace(0, len(sample) - 1, count).long().to(wholes.device)]
        for _ in range(ROUNDS if count > 1 else 0):
            nearest = (sample @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
            centres = functional.normalize(torch.where(sums.any(1, keepdim=True), sums, centres), dim=1)
        self.centres = centres
        cell = torch.cat([(part @ centres.T).argmax(1) for part in torch.split(wholes, 8192)])
        self.order = cell.argsort(stable=True)
        self.bounds = torch.bincount(cell, minlength=count).cumsum(0).tolist()

    def nearest(self, asked: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest image of another code in each of the cells nearest to each outline: (m, probed) both."""
        cells = (asked @ self.centres.T).topk(min(PROBED, len(self.centres)), dim=1).indices
        alike = torch.full(cells.shape, -1.0, device=asked.device)
        rows = torch.zeros_like(cells)
        flat, order = cells.flatten().sort(stable=True)
        ends = torch.bincount(flat, minlength=len(self.centres)).cumsum(0).tolist()
        for first, end, low, high in zip([0, *ends], ends, [0, *self.bounds], self.bounds, strict=False):
            if first == end or low == high:
                continue
            places, members = order[first:end], self.order[low:high]
            from_rows = places // cells.shape[1]
            products = asked[from_rows] @ self.wholes[members].T
            products[codes[from_rows, None] == self.known[members]] = -1
            best, at = products.max(1)
            alike.view(-1)[places], rows.view(-1)[places] = best, members[at]
        return alike, rows


def _proposed(index: _Index, views: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs to compare by pixels: whole images, the images whose views they resemble, and which views."""
    count, several, _ = views.shape
    codes = index.known[start : start + count].repeat_interleave(several)
    alike, rows = index.nearest(views.flatten(0, 1), codes)
    found = []
    turned = several - len(TURNS)
    for low, high, far in ((0, turned, FAR), (turned, several, FAR_TURNED)):
        likely, at = alike.view(count, several, -1)[:, low:high].flatten(1).topk(TOPMOST, dim=1)
        others = rows.view(count, several, -1)[:, low:high].flatten(1).gather(1, at)
        # the same image may be near to several views
        again = (others[:, :, None] == others[:, None]).tril(-1).any(2)
        chosen = ~again & ((~again).cumsum(1) <= NEAREST) & (likely >= 1 - far)
        image, place = chosen.nonzero(as_tuple=True)
        found.append((others[image, place], image + start, at[image, place] // alike.shape[1] + low))
    whole, part, view = (torch.cat(one) for one in zip(*found, strict=True))
    return whole, part, view


def _proved(thumbnails: NDArray[np.uint8], coarse: Tensor, whole: Tensor, part: Tensor, maps: Tensor) -> Pairs:
    """Those of the pairs whose pixels agree."""
    found = [
        register(thumbnails, coarse, *some)
        for some in zip(*(torch.split(one, VERIFIED) for one in (whole, part, maps)), strict=True)
    ]
    alike, worst, overlap = (torch.cat(one) for one in zip(*found, strict=True))
    same = (alike >= ALIKE) & (worst >= WORST) & (overlap >= OVERLAP)
    first, second = torch.minimum(whole, part)[same], torch.maximum(whole, part)[same]
    return first.cpu().numpy(), second.cpu().numpy(), (1 - alike[same]).cpu().numpy()


def _cells(looks: Looks, rows: slice, device: torch.device) -> Tensor:
    """float32 (n, 8, 16, 16)."""
    return torch.from_numpy(np.array(looks.cells[rows])).to(device, torch.float32) / SCALE


def _inside(thumbnails: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Outlines inside frames."""
    return torch.cat([histograms(directions(some)) for some in torch.split(levels_of(thumbnails, device), BATCH)])


def _whole(cells: Tensor) -> Tensor:
    """The coarse outlines of whole images, (n, 128)."""
    return _normalised(functional.avg_pool2d(cells, cells.shape[2] // GRID))


def _views(cells: Tensor) -> Tensor:
    """(n, views, 128): outlines of the parts, then of the mirror images and turns, as `_placements`."""
    found = []
    for size, number in PARTS:
        rows = [_pooling(size, start, cells) for start in _starts(size, number)]
        found += [_normalised(one @ cells @ other.T) for one in rows for other in rows]
    whole = functional.avg_pool2d(cells, cells.shape[2] // GRID)
    for swapped, down, across in TURNS:
        turned = whole.transpose(2, 3)[:, [(BINS // 2 - one) % BINS for one in range(BINS)]] if swapped else whole
        if down != across:
            turned = turned[:, [-one % BINS for one in range(BINS)]]
        found.append(_normalised(turned.flip([2] * down + [3] * across)))
    return torch.stack(found, dim=1)


TURNS = [(swapped, down, across) for swapped in (0, 1) for down in (0, 1) for across in (0, 1)][1:]
"""The seven mirror images and turns: whether rows and columns are swapped, then each of them reversed."""


def _placements() -> Tensor:
    """(views, 2, 3): where each view lies in its image, as affine maps between squares from -1 to 1."""
    found = [
        [[size, 0.0, 2 * left + size - 1], [0.0, size, 2 * top + size - 1]]
        for size, number in PARTS
        for top in _starts(size, number)
        for left in _starts(size, number)
    ]
    for swapped, down, across in TURNS:
        ahead, beside = 1.0 - 2 * down, 1.0 - 2 * across
        found.append([[0.0, ahead, 0.0], [beside, 0.0, 0.0]] if swapped else [[beside, 0.0, 0.0], [0.0, ahead, 0.0]])
    return torch.tensor(found)


def _starts(size: float, number: int) -> list[float]:
    """Where parts begin along a side of 1: the one in the middle, two halfway to it, more from end to end."""
    if number < 3:
        return [(1 - size) * (place + 0.5) / number for place in range(number)]
    return [(1 - size) * place / (number - 1) for place in range(number)]


def _pooling(size: float, start: float, cells: Tensor) -> Tensor:
    """(4, 16): means over the four cells of a part."""
    edges = 16 * (start + size * torch.arange(GRID + 1, device=cells.device) / GRID)
    pixels = torch.arange(16, device=cells.device)
    shared = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return shared.clamp(min=0) / (16 * size / GRID)


def _normalised(cells: Tensor) -> Tensor:
    """(n, 8, 4, 4) to (n, 128) of length 1."""
    energy = functional.avg_pool2d((cells**2).sum(1, keepdim=True), 3, 1, 1, divisor_override=1)
    return functional.normalize((cells / (energy + FAINT**2).sqrt()).flatten(1), dim=1, eps=1e-6)
