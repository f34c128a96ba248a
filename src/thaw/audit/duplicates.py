"""Duplicates: images with the same bytes, and images that look nearly the same."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from thaw.audit.exposure import WEIGHTS, measure_exposure
from thaw.cache.arrays import Chunks, Field, cached, key_of
from thaw.compute.batches import Inputs, consecutive
from thaw.progress import stage

Rows = NDArray[np.int64]
Outlines = NDArray[np.float32]

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
BATCH, CHUNK, BLOCK = 16, 512, 2048
"""Images outlined together, few enough for a processor's cache; rows that are read and written, and compared, together.
"""
EDGES = 1 << 20
"""Pairs that are held at once while components are found."""


def cached_outlines(pixels: Inputs, key: str) -> tuple[Outlines, NDArray[np.bool_], NDArray[np.float32]]:
    """Return the `outlines` of every image, from the cache or computed now; `key` stands for the pixels."""
    how = [SIDE, CELL, BINS, FAINT, GREY, WEIGHTS, BATCH, torch.__version__, pixels.device.type]

    def make(first: int) -> Chunks:
        batches = consecutive(np.arange(first, len(pixels)), CHUNK)
        with stage("outlines", len(pixels), "images", first) as advance:
            for rows, (batch,) in zip(batches, pixels.batches(batches), strict=True):
                yield outlines(batch), {}
                advance(len(rows))

    fields = [Field((SIDE**2 // CELL**2 * BINS,), "float32"), Field((), "bool"), Field((3,), "float32")]
    looks, grey, levels = cached("outlines", key_of(pixels=key, how=how), len(pixels), fields, make).arrays
    return looks, np.array(grey), np.array(levels)


@torch.inference_mode()
def outlines(pixels: Tensor) -> tuple[Outlines, NDArray[np.bool_], NDArray[np.float32]]:
    """Describe the edges of images, uint8 (n, height, width, 3), as (n, 512) of length 1 (0 where there are none); tell
    whether each is grey, (n,); and measure its exposure, (n, 3), see `measure_exposure`.

    Histograms of oriented gradients with unsigned orientations and local contrast normalisation (Dalal and Triggs,
    CVPR 2005) of a smoothed thumbnail of 64 x 64: 8 x 8 cells, 8 orientations, square roots of gradients. They hardly
    change with colours, light, contrast, size and compression, so that a drawing in another skin tone, or a photograph
    saved again, keeps them; they do change when an image is mirrored, turned, or cropped by more than 3%.
    """
    if pixels.device.type == "mps":
        pixels = pixels.cpu()  # it has no means over areas that do not divide, 224 into 64
    looks, grey, levels = [], [], []
    for batch in torch.split(pixels, BATCH):
        small = functional.interpolate(
            batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format),
            (SIDE, SIDE),
            mode="area",
        )
        looks.append(_histograms(small))
        grey.append((small.amax(1) - small.amin(1)).amax((1, 2)) <= GREY)
        levels.append(measure_exposure(small))
    return torch.cat(looks).cpu().numpy(), torch.cat(grey).cpu().numpy(), torch.cat(levels).cpu().numpy()


def near_pairs(looks: Outlines, device: torch.device) -> Iterator[tuple[Rows, Rows, NDArray[np.float32]]]:
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


def _histograms(small: Tensor) -> Tensor:
    """(n, 3, 64, 64) levels to (n, 512) of length 1."""
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
    votes = strength**0.25 * (1 - torch.minimum(apart, BINS - apart)).clamp(min=0)
    cells = functional.avg_pool2d(votes, CELL)
    energy = functional.avg_pool2d((cells**2).sum(1, keepdim=True), 3, 1, 1, divisor_override=1)
    return functional.normalize((cells / (energy + FAINT**2).sqrt()).flatten(1), dim=1, eps=1e-6)
