"""Predict with a bundle: pictures are decoded on all cores, batch by batch, in bounded memory."""

import contextlib
import copy
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from thaw.errors import DataError
from thaw.images.decode import BadImageError, decode_picture, pixels_of
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.nets.fold import fold
from thaw.nets.layout import choose_layout, hold_frozen
from thaw.scoring.metrics import log_probabilities

if TYPE_CHECKING:
    from thaw.bundle.load import Bundle

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A path, an encoded picture, a PIL image, an array uint8 (h, w), (h, w, 3) or (h, w, 4), or a tensor uint8 (3, h, w)
or (h, w, 3)."""
BATCH_PIXELS = {"cpu": 128 * 224**2, "cuda": 256 * 224**2, "mps": 64 * 224**2}
"""Pixels that the network sees at a time, by device, of one picture at least and MOST_PICTURES at most."""
MOST_PICTURES = 1024
TASK = 8
"""Pictures that a thread decodes at a time."""
AHEAD = {"cpu": 0, "cuda": 1, "mps": 1}
"""Batches that are decoded while the network runs, by device. On a CPU both want every core, and one after the other
is faster than together."""
TRIAL_BATCH = 16
"""Pictures of the trial that chooses a memory layout."""


@dataclass(frozen=True)
class Named:
    """A picture and what to call it."""

    name: str
    picture: Picture | BadImageError
    """Or why there is none."""


@dataclass(frozen=True)
class Batch:
    """What the network says of a few pictures, in the order they came."""

    names: list[str]
    pixels: NDArray[np.uint8]
    """(n, size, size, 3), as the network saw them."""
    probabilities: NDArray[np.float64]
    """(n, classes), calibrated where the bundle has a temperature; each row sums to 1."""
    bad: list[tuple[str, str]]
    """Names of the pictures between them that cannot be used, and why."""


def predict(bundle: "Bundle", pictures: Iterable[Named]) -> Iterator[Batch]:
    """Batches of predictions, in the order of the pictures; two are in memory at most, however many there are."""
    device, source = bundle.compute.device.type, iter(pictures)
    size = min(MOST_PICTURES, max(1, BATCH_PIXELS[device] // bundle.preprocessing.size**2))
    coming: deque[tuple[list[Named], Iterator[list[NDArray[np.uint8] | str]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while True:
            while len(coming) <= AHEAD[device] and (few := list(islice(source, size))):
                tasks = [few[start : start + TASK] for start in range(0, len(few), TASK)]
                coming.append((few, pool.map(partial(_squares, bundle), tasks)))
            if not coming:
                return
            few, decoded = coming.popleft()
            yield _answer(bundle, few, chain.from_iterable(decoded))


def _answer(bundle: "Bundle", few: list[Named], squares: Iterable[NDArray[np.uint8] | str]) -> Batch:
    names, pixels, bad = [], [], []
    for named, found in zip(few, squares, strict=True):
        if isinstance(found, str):
            bad.append((named.name, found))
        else:
            names.append(named.name)
            pixels.append(found)
    side = bundle.preprocessing.size
    array = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
    return Batch(names, array, probabilities(bundle, array), bad)


def probabilities(bundle: "Bundle", pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, classes) from pixels (n, size, size, 3) as `square` gives them: softmax of logits over temperature."""
    tensor, compute = torch.from_numpy(pixels), bundle.compute
    network = bundle.network  # made here, since what is made in inference mode knows no gradients ever after
    pinned = compute.device.type == "cuda"
    if pinned:
        tensor = tensor.pin_memory()
    with torch.inference_mode(), compute.autocast():
        logits = network(tensor.to(compute.device, non_blocking=pinned)).float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise DataError("the model's output is infinite or no number; its weights are damaged: copy the bundle anew.")
    softmax: NDArray[np.float64] = np.exp(log_probabilities(logits / np.float32(bundle.temperature or 1)))
    return softmax


def ready_network(bundle: "Bundle") -> nn.Module:
    """From pixels (n, size, size, 3) uint8 to logits (n, classes), as fast as it goes on the bundle's device.

    In fp32 it is the trained network, operation for operation.
    """
    compute = bundle.compute
    model = bundle.model if compute.device.type == "cpu" else copy.deepcopy(bundle.model)
    network: nn.Module = nn.Sequential(Normalise(bundle.preprocessing), model).eval().to(compute.device)
    side = bundle.preprocessing.size
    drawn = torch.randint(256, (TRIAL_BATCH, side, side, 3), generator=torch.Generator().manual_seed(0))
    trial = drawn.byte().to(compute.device)
    if compute.precision == "bf16":
        network = hold_frozen(fold(network, trial[:2]), compute)

    def step() -> None:
        with torch.inference_mode(), compute.autocast():
            network(trial)

    with contextlib.suppress(OSError):  # a cache that cannot be written only means another trial next time
        choose_layout(network, step, compute, f"bundle of {type(model).__name__}, {side} px")
    return network


def square(picture: Picture, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """A picture as the network sees it, uint8 (size, size, 3). Raises BadImageError."""
    if isinstance(picture, str | os.PathLike):
        try:
            picture = Path(picture).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            raise BadImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode_picture(bytes(picture), preprocessing, decode)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
        if picture.ndim == 3 and picture.shape[0] == 3:
            picture = picture.transpose(1, 2, 0)
    if isinstance(picture, np.ndarray):
        flat = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
        if picture.dtype != np.uint8 or not flat or not picture.size:
            raise BadImageError(f"is an array {picture.dtype} {picture.shape}, not uint8 (height, width, 3)")
        picture = Image.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, Image.Image):
        raise BadImageError(f"is of type {type(picture).__name__}, neither a path, bytes, a PIL image nor an array")
    return pixels_of(picture, preprocessing)


def listed(pictures: Any) -> list[Picture]:
    """One picture, a sequence of them, or an array or a tensor of them, as a list."""
    several = isinstance(pictures, np.ndarray | Tensor) and (pictures.ndim == 4 or pictures.dtype == object)
    if not several and isinstance(pictures, str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor):
        if isinstance(pictures, np.ndarray) and pictures.dtype.kind in "US":
            return [str(path) for path in pictures.ravel()]
        return [pictures]
    return list(pictures)


def _squares(bundle: "Bundle", task: list[Named]) -> list[NDArray[np.uint8] | str]:
    """The pixels of each picture of a task, or why it has none."""
    found: list[NDArray[np.uint8] | str] = []
    for named in task:
        try:
            if isinstance(named.picture, BadImageError):
                raise named.picture
            found.append(square(named.picture, bundle.preprocessing, bundle.decode))
        except BadImageError as error:
            found.append(str(error))
    return found
