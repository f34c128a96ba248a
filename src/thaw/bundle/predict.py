"""Predict with a bundle: pictures are decoded on all cores ahead of the network, in bounded memory."""

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from thaw.compute import choose_layout, hold_frozen
from thaw.errors import DataError
from thaw.images.pixels import MAX_PIXELS, BadImageError, decode_picture, to_square, upright_rgb
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.progress import in_order, workers
from thaw.scoring.metrics import log_probabilities

if TYPE_CHECKING:
    from thaw.bundle.load import Bundle

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A path, an encoded picture, a PIL image, an array uint8 (h, w), (h, w, 3) or (h, w, 4), or a tensor uint8 (3, h, w)
or (h, w, 3)."""
TASK = 8
"""Pictures that a thread decodes at a time."""
BATCH = {"cpu": 64, "cuda": 256, "mps": 64}
"""Pictures that the network sees at a time, by device."""
TRIAL_BATCH = 16
"""Pictures of the trial that chooses a memory layout."""


@dataclass(frozen=True)
class Named:
    """A picture and what to call it."""

    name: str
    picture: Picture


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
    """Batches of predictions, while the pictures of the next ones are read and decoded.

    At most two batches of pictures wait at a time, however many there are.
    """
    size, side = BATCH[bundle.compute.device.type], bundle.preprocessing.size
    names: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    bad: list[tuple[str, str]] = []

    def batch() -> Batch:
        array = np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8)
        made = Batch(names.copy(), array, probabilities(bundle, array), bad.copy())
        for held in (names, pixels, bad):
            held.clear()
        return made

    for name, found in _decoded(bundle, pictures, waiting=2 * size):
        if isinstance(found, str):
            bad.append((name, found))
        else:
            names.append(name)
            pixels.append(found)
        if len(names) == size:
            yield batch()
    if names or bad:
        yield batch()


def probabilities(bundle: "Bundle", pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, classes) from pixels (n, size, size, 3) as `square` gives them: softmax of logits over temperature."""
    tensor, compute = torch.from_numpy(pixels), bundle.compute
    network = bundle.network  # made here, since what is made in inference mode knows no gradients ever after
    if compute.device.type == "cuda":
        tensor = tensor.pin_memory()
    with torch.inference_mode(), compute.autocast():
        logits = network(tensor.to(compute.device, non_blocking=True)).float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise DataError("the model's output is infinite or no number; its weights are damaged: copy the bundle anew.")
    softmax: NDArray[np.float64] = np.exp(log_probabilities(logits / np.float32(bundle.temperature or 1)))
    return softmax


def ready_network(bundle: "Bundle") -> nn.Module:
    """From pixels (n, size, size, 3) uint8 to logits (n, classes), as fast as it goes on the bundle's device."""
    compute = bundle.compute
    model = bundle.model if compute.device.type == "cpu" else copy.deepcopy(bundle.model)
    network: nn.Module = nn.Sequential(Normalise(bundle.preprocessing), model).eval().to(compute.device)
    network = hold_frozen(network, compute)
    side = bundle.preprocessing.size
    trial = torch.zeros(TRIAL_BATCH, side, side, 3, dtype=torch.uint8, device=compute.device)

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
    if picture.width * picture.height > MAX_PIXELS:
        raise BadImageError(f"has {picture.width:,} x {picture.height:,} pixels, more than is safe to resize")
    return np.array(to_square(upright_rgb(picture), preprocessing))


def listed(pictures: Any) -> list[Picture]:
    """One picture, a sequence of them, or an array or a tensor of them, as a list."""
    several = isinstance(pictures, np.ndarray | Tensor) and (pictures.ndim == 4 or pictures.dtype == object)
    if not several and isinstance(pictures, str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor):
        if isinstance(pictures, np.ndarray) and pictures.dtype.kind in "US":
            return [str(path) for path in pictures.ravel()]
        return [pictures]
    return list(pictures)


def _decoded(
    bundle: "Bundle", pictures: Iterable[Named], waiting: int
) -> Iterator[tuple[str, NDArray[np.uint8] | str]]:
    """Each picture's name and pixels, or why it has none, in order; at most `waiting` pictures are read ahead."""

    def decode(task: list[Named]) -> list[tuple[str, NDArray[np.uint8] | str]]:
        return [(named.name, _square_or_reason(named.picture, bundle)) for named in task]

    source = iter(pictures)
    tasks = iter(lambda: list(islice(source, TASK)), [])
    with workers(os.cpu_count()) as pool:
        for done in in_order(pool, decode, tasks, max(1, waiting // TASK)):
            yield from done


def _square_or_reason(picture: Picture, bundle: "Bundle") -> NDArray[np.uint8] | str:
    try:
        return square(picture, bundle.preprocessing, bundle.decode)
    except BadImageError as error:
        return str(error)
