"""Duplicates: images with the same bytes, and images that look nearly the same."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from thaw.cache.arrays import Chunks, Field, cached, key_of
from thaw.compute.batches import Inputs, consecutive
from thaw.data.exposure import WEIGHTS, measure_exposure
from thaw.progress import stage

Rows = NDArray[np.int64]
Outlines = NDArray[np.float32]
Pairs = tuple[Rows, Rows, NDArray[np.float32]]
"""Rows, first < second, and how far apart they are."""

NEAR = 0.07
"""Images whose outlines are at most this far apart, in cosine distance, are near duplicates.

Chosen on contact sheets of pairs. Among 13,000 aligned photographs of faces (UTKFace, CelebA-HQ), every pair up to 0.08
is one photograph, saved again, in grey, relit or with a watermark; from 0.09 on, other photographs of the same person
come in, then other people. Of the embedded drawings, it finds each in all skin tones.
"""
SIDE, CELL, BINS = 64, 8, 8
FAINT = 4.0
"""A gradient, as the square root of levels in two pixels, below which contrast counts as noise."""
GREY = 2.0
"""Largest distance of the channels, in levels of 256, in a grey image."""
EVEN, STRAIGHT, LEAST = 10.0, 0.7, 0.5
"""Levels of 256 over which a frame varies at most; the part of its inner edge along which the image has another colour,
and the part of each side that lies inside, at least.
"""
SCALE = 9.0
"""Of edges, none of which is stronger than 28, in a byte."""
BRIGHTNESS = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601)."""
BATCH, CHUNK, BLOCK = 16, 512, 2048
"""Images outlined together, few enough for a processor's cache; rows that are read and written, and compared, together.
"""
EDGES = 1 << 20
"""Pairs that are held at once while components are found."""


class Looks(NamedTuple):
    """What images look like, as copies are found by."""

    outlines: Outlines
    """(n, 512) of length 1, or 0 where there are no edges."""
    grey: NDArray[np.bool_]
    """(n,) whether an image is grey."""
    levels: NDArray[np.float32]
    """(n, 3), see `measure_exposure`."""
    thumbnails: NDArray[np.uint8]
    """(n, 64, 64) brightness, without frames."""
    cells: NDArray[np.uint8]
    """(n, 8, 16, 16) the directions of edges in each of 16 x 16 cells, without frames, in ninths."""
    framed: NDArray[np.bool_]
    """(n,) whether an image has a frame on two opposite sides: even borders whose inner edges are straight."""


def cached_outlines(pixels: Inputs, key: str) -> Looks:
    """Return the `outlines` of every image, from the cache or computed now; `key` stands for the pixels."""
    how = [
        SIDE,
        CELL,
        BINS,
        FAINT,
        GREY,
        WEIGHTS,
        EVEN,
        STRAIGHT,
        LEAST,
        BRIGHTNESS,
        BATCH,
        torch.__version__,
        pixels.device.type,
    ]

    def make(first: int) -> Chunks:
        batches = consecutive(np.arange(first, len(pixels)), CHUNK)
        with stage("outlines", len(pixels), "images", first) as advance:
            for rows, (batch,) in zip(batches, pixels.batches(batches), strict=True):
                yield outlines(batch), {}
                advance(len(rows))

    fields = [
        Field((SIDE**2 // CELL**2 * BINS,), "float32"),
        Field((), "bool"),
        Field((3,), "float32"),
        Field((SIDE, SIDE), "uint8"),
        Field((BINS, SIDE * 2 // CELL, SIDE * 2 // CELL), "uint8"),
        Field((), "bool"),
    ]
    found = cached("outlines", key_of(pixels=key, how=how), len(pixels), fields, make).arrays
    looks, grey, levels, thumbnails, cells, framed = found
    return Looks(looks, np.array(grey), np.array(levels), thumbnails, cells, np.array(framed))


@torch.inference_mode()
def outlines(pixels: Tensor) -> Looks:
    """Describe the edges of images, uint8 (n, height, width, 3); tell whether each is grey, and measure its exposure.

    Histograms of oriented gradients with unsigned orientations and local contrast normalisation (Dalal and Triggs,
    CVPR 2005) of a smoothed thumbnail of 64 x 64: 8 x 8 cells, 8 orientations, square roots of gradients. They hardly
    change with colours, light, contrast, size and compression, so that a drawing in another skin tone, or a photograph
    saved again, keeps them; they do change when an image is mirrored, turned, or cropped by more than 3%: for these,
    see `copies`.
    """
    if pixels.device.type == "mps":
        pixels = pixels.cpu()  # it has no means over areas that do not divide, 224 into 64
    looks, grey, levels, thumbnails, cells, framed = [], [], [], [], [], []
    brightness = torch.tensor(BRIGHTNESS, device=pixels.device).view(1, 3, 1, 1)
    for batch in torch.split(pixels, BATCH):
        planes = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        small = functional.interpolate(planes, (SIDE, SIDE), mode="area")
        edges = directions(small)
        looks.append(histograms(edges))
        grey.append((small.amax(1) - small.amin(1)).amax((1, 2)) <= GREY)
        levels.append(measure_exposure(small))
        frames = _frames(small)
        for row in frames.any(1).nonzero()[:, 0].tolist():
            small[row] = _inner(planes[row], frames[row].tolist())
            edges[row] = directions(small[row : row + 1])[0]
        thumbnails.append((small * brightness).sum(1).round().to(torch.uint8))
        cells.append((functional.avg_pool2d(edges, CELL // 2) * SCALE).round().to(torch.uint8))
        framed.append((frames.view(-1, 2, 2) > 0).all(2).any(1))
    return Looks(*(torch.cat(found).cpu().numpy() for found in (looks, grey, levels, thumbnails, cells, framed)))


def near_pairs(looks: Outlines, device: torch.device) -> Iterator[Pairs]:
    """Yield every pair of rows (first < second) at most `NEAR` apart, with the distance, some pairs at a time.

    All pairs are compared, a block of products at a time: n^2 / 2 of them, and no more memory than 4 million pairs and
    the outlines take.
    """
    held = torch.tensor(looks, device=device)
    with stage("near duplicates", len(looks), "images") as advance:
        for start in range(0, len(looks), BLOCK):
            for other in range(start, len(looks), BLOCK):
                alike = held[start : start + BLOCK] @ held[other : other + BLOCK].T
                if other == start:
                    alike = alike.triu(1)
                first, second = (alike >= 1 - NEAR).nonzero(as_tuple=True)
                if len(first):
                    far = (1 - alike[first, second]).clamp(min=0)
                    yield (first + start).cpu().numpy(), (second + other).cpu().numpy(), far.cpu().numpy()
            advance(len(held[start : start + BLOCK]))


def components(count: int, pairs: Iterable[tuple[Rows, Rows]]) -> Rows:
    """Return the connected component of each row, (count,) codes from 0, where pairs are linked."""
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for one, other in pairs:
        first.append(one)
        second.append(other)
        if sum(map(len, first)) > EDGES:
            # each row linked with the first of its component says the same in fewer pairs
            codes = _components(count, np.concatenate(first), np.concatenate(second))
            first, second = [np.arange(count)], [np.unique(codes, return_index=True)[1][codes]]
    return _components(count, np.concatenate(first), np.concatenate(second))


def chain(codes: Rows) -> tuple[Rows, Rows]:
    """Return pairs that link the rows with the same code, each row with the next."""
    order = np.argsort(codes, kind="stable")
    same = codes[order[1:]] == codes[order[:-1]]
    return order[:-1][same], order[1:][same]


def _components(count: int, first: Rows, second: Rows) -> Rows:
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def directions(small: Tensor) -> Tensor:
    """How strong the edges in each of 8 directions are, (n, 8, side, side), of levels (n, channels, side, side)."""
    smooth = functional.avg_pool2d(functional.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    padded = functional.pad(smooth, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strength, channel = (across**2 + down**2).max(1, keepdim=True)
    across, down = across.gather(1, channel), down.gather(1, channel)
    angle = torch.atan2(down, across) / torch.pi * BINS
    centres = torch.arange(BINS, device=small.device).view(1, -1, 1, 1)
    # shared between the two nearest of the orientations, which go around
    apart = torch.remainder(angle - centres, BINS)
    return strength**0.25 * (1 - torch.minimum(apart, BINS - apart)).clamp(min=0)


def histograms(edges: Tensor) -> Tensor:
    """(n, 8, 64, 64) `directions` to (n, 512) of length 1."""
    cells = functional.avg_pool2d(edges, CELL)
    energy = functional.avg_pool2d((cells**2).sum(1, keepdim=True), 3, 1, 1, divisor_override=1)
    return functional.normalize((cells / (energy + FAINT**2).sqrt()).flatten(1), dim=1, eps=1e-6)


def _frames(small: Tensor) -> Tensor:
    """(n, 4): the rows of a frame's top and bottom, the columns of its left and right; 0 where too little is inside."""
    sides = torch.stack([_frame(one) for one in (small, small.flip(2), small.mT, small.mT.flip(2))], dim=1)
    inside = SIDE - torch.stack([sides[:, :2].sum(1), sides[:, 2:].sum(1)], dim=1)
    return sides * (inside.amin(1, keepdim=True) >= LEAST * SIDE)


def _frame(small: Tensor) -> Tensor:
    """(n,) the first rows that are one colour, and one that may be so in part; 0 where what follows is that colour too.

    What follows the background of a drawing is mostly background.
    """
    spread = (small.amax(3) - small.amin(3)).amax(1)
    colour = small.mean(3)
    even = (spread <= EVEN) & ((colour - colour[:, :, :1]).abs().amax(1) <= EVEN)
    rows = even.to(torch.int64).cumprod(1).sum(1)
    inner = small[torch.arange(len(small)), :, (rows + 1).clamp(max=SIDE - 1)]
    differs = ((inner - colour[:, :, :1]).abs().amax(1) > EVEN).to(torch.float32).mean(1) >= STRAIGHT
    return torch.where((rows > 0) & differs, rows + 1, 0)


def _inner(planes: Tensor, frame: list[int]) -> Tensor:
    """(3, 64, 64): what lies inside the frame of an image (3, height, width)."""
    top, bottom, left, right = frame
    height, width = (side / SIDE for side in planes.shape[1:])
    down = slice(round(top * height), round((SIDE - bottom) * height))
    across = slice(round(left * width), round((SIDE - right) * width))
    return functional.interpolate(planes[None, :, down, across], (SIDE, SIDE), mode="area")[0]
