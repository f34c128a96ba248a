"""Registration: one image laid on another by an affine map, and how well they then agree."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

STEPS = ((16, 2, 4, 0.55), (32, 3, 3, 0.75), (64, 4, 3, 0.0))
"""From coarse to fine: sides of the images, the reach of local contrast in their pixels, steps, and the correlation
below which nothing is refined further.

Of crops to 70%, 99% have more than .57 and .80; half of the pairs of different photographs have less than .47.
"""
NOISE = 4.0
"""Levels of 256 that are added to local contrast, so that noise on even ground does not count."""
SMALLEST = 0.3
"""Of the area: a map to less than this part of the other image has gone astray."""
ENLARGED = 0.75
"""Of the area: a part smaller than this is as sharp as the whole image once that is smoothed again."""


@torch.inference_mode()
def register(
    thumbnails: NDArray[np.uint8], coarse: Tensor, whole: Tensor, part: Tensor, maps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay images on others, starting from a guess, and compare them.

    The inverse compositional algorithm of Lucas and Kanade (Baker and Matthews, IJCV 2004) with six parameters, on
    three scales, of images with their local mean taken away and divided by their local contrast.

    Parameters
    ----------
    thumbnails
        uint8 (images, 64, 64).
    coarse
        (images, 16, 16): their `coarse_contrast`.
    whole, part
        (n,) rows: images, and those of which they may be parts.
    maps
        (n, 2, 3): from places in `whole` to those in `part`, both from -1 to 1 in each direction, x first.

    Returns
    -------
    tuple of Tensor
        (n,) the correlation; how well the worst of 4 x 4 tiles agrees, 1 where it is the same and 0 where it would be
        so by chance; and the fraction of `whole` that lies on `part`. All 0 where that is hopeless.
    """
    found = torch.zeros(3, len(whole), device=maps.device)
    rows = torch.arange(len(whole), device=maps.device)
    here, there = coarse[whole], coarse[part]
    for side, reach, steps, hopeless in STEPS:
        if side > len(coarse[0]):
            coarser = torch.linalg.det(maps[:, :, :2]).abs() < ENLARGED
            here = _contrast(levels_of(thumbnails[whole[rows].cpu().numpy()], maps.device), side, reach, coarser)
            there = _contrast(levels_of(thumbnails[part[rows].cpu().numpy()], maps.device), side, reach)
        maps, results = _lay(here, there, maps, steps)
        kept = results[0] >= hopeless
        rows, maps, results = rows[kept], maps[kept], results[:, kept]
        if not len(rows):
            break
    found[:, rows] = results * (torch.linalg.det(maps[:, :, :2]).abs() >= SMALLEST)
    alike, worst, overlap = found
    return alike, worst, overlap


def coarse_contrast(levels: Tensor) -> Tensor:
    """(n, 16, 16): what images (n, 1, 64, 64) are first laid on each other by."""
    side, reach, _, _ = STEPS[0]
    return _contrast(levels, side, reach)


def levels_of(thumbnails: NDArray[np.uint8], device: torch.device) -> Tensor:
    """float32 (n, 1, 64, 64) on a device."""
    return torch.from_numpy(np.array(thumbnails)).to(device, torch.float32)[:, None]


def _contrast(levels: Tensor, side: int, reach: int, coarser: Tensor | None = None) -> Tensor:
    """(n, side, side): without the local mean, divided by the local contrast; some (n,) smoothed once more."""
    small = functional.avg_pool2d(levels, levels.shape[2] // side)
    if side > 16:
        small = _mean(small, 1)
    if side > 16 and coarser is not None:
        small = torch.where(coarser[:, None, None, None], _mean(small, 1), small)
    centred = small - _mean(small, reach)
    return (centred / (_mean(centred**2, reach).sqrt() + NOISE))[:, 0]


def _mean(levels: Tensor, reach: int) -> Tensor:
    """Means over squares, beyond an edge of what is at the edge: two products with a band, faster than pooling."""
    side = levels.shape[-1]
    near = torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)
    band = functional.one_hot(near.clamp(0, side - 1), side).to(torch.float32).mean(1).to(levels.device)
    return band @ levels @ band.T


def _lay(whole: Tensor, part: Tensor, maps: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Refine maps; returns them and (3, n): correlation, agreement of the worst tile, fraction that lies on `part`."""
    count, side, _ = whole.shape
    slopes = _slopes(whole)
    for step in range(steps + 1):
        places = functional.affine_grid(maps, [count, 1, side, side], align_corners=False)
        there = functional.grid_sample(part[:, None], places, padding_mode="border", align_corners=False).flatten(1)
        inside = (places.abs().amax(3) <= 1).flatten(1).to(torch.float32)
        here, there = _standard(whole.flatten(1), inside), _standard(there, inside)
        if step < steps:
            maps = _stepped(maps, slopes * inside[:, None], there - here)
    number = inside.sum(1)
    error = functional.avg_pool2d(((here - there) ** 2).view(count, 1, side, side), side // 4).flatten(1).amax(1)
    return maps, torch.stack([(here * there).sum(1) / number.clamp(min=1), 1 - error / 2, number / side**2])


def _standard(values: Tensor, inside: Tensor) -> Tensor:
    """(n, pixels) with mean 0 and variance 1 over the pixels inside, 0 elsewhere."""
    number = inside.sum(1, keepdim=True).clamp(min=1)
    centred = (values - (values * inside).sum(1, keepdim=True) / number) * inside
    return centred / ((centred**2).sum(1, keepdim=True) / number).sqrt().clamp(min=1e-3)


def _slopes(whole: Tensor) -> Tensor:
    """(n, 6, pixels): how each pixel changes with the six parameters of a map, for images of variance 1."""
    side = whole.shape[2]
    padded = functional.pad(whole[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * (side / 4)
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * (side / 4)
    line = (torch.arange(side, device=whole.device) + 0.5) * (2 / side) - 1
    spread = whole.flatten(1).std(1).clamp(min=1e-3)[:, None, None]
    slopes = [slope * by for slope in (across, down) for by in (line, line[:, None], torch.ones_like(line))]
    return torch.stack(slopes, dim=1).flatten(2) / spread


def _stepped(maps: Tensor, slopes: Tensor, error: Tensor) -> Tensor:
    """Maps after one step of Gauss and Newton."""
    count = len(maps)
    normal = slopes @ slopes.transpose(1, 2)
    ridge = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-6
    eye = torch.eye(6, device=maps.device)
    change = torch.linalg.solve(normal + ridge[:, None, None] * eye, (slopes @ error[:, :, None])[:, :, 0])
    last = torch.tensor([[[0.0, 0.0, 1.0]]], device=maps.device).expand(count, 1, 3)
    moved = torch.cat([torch.eye(2, 3, device=maps.device) + change.view(count, 2, 3), last], dim=1)
    # a square that a step turns inside out has gone astray, and stays so
    moved = torch.where(torch.linalg.det(moved).abs()[:, None, None] > 0.1, moved, torch.eye(3, device=maps.device))
    found: Tensor = torch.cat([maps, last], dim=1) @ torch.linalg.inv(moved)
    return found[:, :2]
