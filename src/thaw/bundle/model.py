"""A trained model ready to use: images are decoded on all cores, batch by batch, in bounded memory."""

import contextlib
import copy
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.bundle.doubt import Answers, Doubt, join
from thaw.cache.arrays import Array
from thaw.compute.batches import consecutive, read_rows
from thaw.compute.device import Compute
from thaw.errors import DataError
from thaw.images.any import AnyImage, listed, square
from thaw.images.decode import BadImageError
from thaw.images.mirror import average_views, head_path
from thaw.images.preprocessing import Normalise, Preprocessing, describe_size, sides
from thaw.nets.entered import WithFeatures
from thaw.nets.fold import fold_batch_norm
from thaw.nets.layout import choose_layout, hold_frozen
from thaw.scoring.metrics import log_probabilities

BATCH_PIXELS = {"cpu": 128 * 224**2, "cuda": 256 * 224**2, "mps": 64 * 224**2}
"""Pixels in a batch, by device; a batch has at least one image and at most MOST_IMAGES."""
MOST_IMAGES = 1024
TASK = 8
"""Images that a thread decodes at a time."""
AHEAD = {"cpu": 0, "cuda": 1, "mps": 1}
"""Batches that are decoded while the network runs, by device. On a CPU both want every core, and one after the other
is faster than together."""
TRIAL_BATCH = 16
"""Images of the trial that chooses a memory layout."""


@dataclass(frozen=True)
class Named:
    """An image and what to call it."""

    name: str
    """The name, for messages and tables."""
    image: AnyImage | BadImageError
    """The image, or why there is none."""


@dataclass(frozen=True)
class Batch:
    """Predictions for a few images, in the order they came."""

    names: list[str]
    """Names of the n images that can be used."""
    pixels: NDArray[np.uint8]
    """(n, height, width, 3), as the network saw them."""
    probabilities: NDArray[np.float64]
    """(n, classes), calibrated where the bundle has a temperature; each row sums to 1."""
    answers: Answers
    """These probabilities, and what else the model says."""
    bad: list[tuple[str, str]]
    """Names of the images among them that cannot be used, and why."""


@dataclass(frozen=True)
class Bundle:
    """A trained model ready to use; `thaw.load` reads one from its folder.

    Examples
    --------
    >>> bundle = thaw.load("runs/mine/models/head")
    >>> bundle.predict(["photo.jpg"])
    array(['cat'], dtype='<U3')
    """

    model: nn.Module
    """Maps normalised float32 images (n, 3, height, width) to logits (n, classes); in evaluation mode, on the CPU, in
    fp32."""
    classes: tuple[str, ...]
    """The names of the logits, in order."""
    preprocessing: Preprocessing
    """The steps from an image to the model's input."""
    decode: Literal["exact", "fast"]
    """How JPEGs were decoded in training: `fast` lets the decoder shrink them."""
    temperature: float | None
    """Divides the logits before the softmax, so that probabilities are calibrated; None where it was not measured."""
    config: dict[str, Any]
    """The content of `config.json`: provenance, metrics, versions."""
    compute: Compute
    """The device and precision of `predict` and `predict_proba`."""
    test_views: int = 1
    """What the logits are averaged over: 1 is the image alone, 2 the image and its mirror image."""
    head: str = ""
    """The name of the model's head."""
    doubt: Doubt | None = None
    """What the model says besides its probabilities; None where it says nothing else."""

    def predict(self, images: Any) -> NDArray[np.str_]:
        """Return the most probable class of each image.

        Parameters
        ----------
        images
            One image or several, in any form that `predict_proba` takes.

        Returns
        -------
        array of str, shape (n,)
            Names of classes.

        Raises
        ------
        DataError
            An image cannot be used; the message names the first.
        """
        predicted: NDArray[np.str_] = np.array(self.classes)[self.predict_proba(images).argmax(1)]
        return predicted

    def predict_proba(self, images: Any) -> NDArray[np.float64]:
        """Return the probability of each class for each image.

        Parameters
        ----------
        images
            One image or any iterable of images, each of any size: a path, encoded bytes, a PIL image, an array uint8
            (height, width, 3) or a tensor uint8 (3, height, width); or an array uint8 (n, height, width, 3) or a
            tensor uint8 (n, 3, height, width).

        Returns
        -------
        array of float64, shape (n, classes)
            Probabilities in the order of `classes`, calibrated where the bundle has a temperature.

        Raises
        ------
        DataError
            An image cannot be used; the message names the first.
        """
        return self.answer(images).probabilities

    def answer(self, images: Any) -> Answers:
        """Return all that the model says of each image: probabilities, prediction sets, decisions, what is unlike.

        Parameters
        ----------
        images
            One image or several, in any form that `predict_proba` takes.

        Returns
        -------
        Answers
            None for what the bundle does not hold.

        Raises
        ------
        DataError
            An image cannot be used; the message names the first.
        """
        named = (Named(_name(index, one), one) for index, one in enumerate(listed(images)))
        parts = []
        for batch in self.batches(named):
            for name, why in batch.bad:
                raise DataError(f"{name} {why}; fix it or leave it out.")
            parts.append(batch.answers)
        parts = parts or [self.answers(np.empty((0, *sides(self.preprocessing.size), 3), np.uint8))]
        return join(parts)

    def batches(self, images: Iterable[Named]) -> Iterator[Batch]:
        """Yield predictions batch by batch, in the order of the images; at most two batches are in memory.

        Parameters
        ----------
        images
            Named images, as many as there are: they are taken from their source as they are needed.

        Yields
        ------
        Batch
            The predictions, and which of the batch's images cannot be used.

        Raises
        ------
        DataError
            The model's output is NaN or infinite.
        """
        device, source = self.compute.device.type, iter(images)
        size = self.batch_size
        coming: deque[tuple[list[Named], Iterator[list[NDArray[np.uint8] | str]]]] = deque()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while True:
                while len(coming) <= AHEAD[device] and (few := list(islice(source, size))):
                    tasks = [few[start : start + TASK] for start in range(0, len(few), TASK)]
                    coming.append((few, pool.map(self._squares, tasks)))
                if not coming:
                    return
                few, decoded = coming.popleft()
                yield self._answer(few, chain.from_iterable(decoded))

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the probabilities of images that are decoded and resized already.

        Parameters
        ----------
        pixels
            uint8, shape (n, height, width, 3), of the preprocessing's size.

        Returns
        -------
        array of float64, shape (n, classes)
            The softmax of the logits over the temperature.

        Raises
        ------
        DataError
            The model's output is NaN or infinite.
        """
        return self.answers(pixels).probabilities

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, without the temperature, of images that are decoded and resized already.

        Parameters
        ----------
        pixels
            uint8, shape (n, height, width, 3), of the preprocessing's size.

        Returns
        -------
        array of float32, shape (n, classes)
            In the order of `classes`.

        Raises
        ------
        DataError
            One is NaN or infinite.
        """
        return self._run(pixels)[0]

    def logits_of(self, array: Array) -> NDArray[np.float32]:
        """Return the logits of a whole array of such images, batch by batch.

        Parameters
        ----------
        array
            uint8, shape (n, height, width, 3), in memory or mapped.

        Returns
        -------
        array of float32, shape (n, classes)
            See `logits`.

        Raises
        ------
        DataError
            One is NaN or infinite.
        """
        rows = consecutive(np.arange(len(array)), self.batch_size)
        return np.concatenate([self.logits(read_rows(array, few)) for few in rows])

    @property
    def batch_size(self) -> int:
        """How many images go through the network at a time."""
        pixels = math.prod(sides(self.preprocessing.size))
        return min(MOST_IMAGES, max(1, BATCH_PIXELS[self.compute.device.type] // pixels))

    def answers(self, pixels: NDArray[np.uint8]) -> Answers:
        """Return all that the model says of images that are decoded and resized already.

        Parameters
        ----------
        pixels
            uint8, shape (n, height, width, 3), of the preprocessing's size.

        Returns
        -------
        Answers
            None for what the bundle does not hold.

        Raises
        ------
        DataError
            The model's output is NaN or infinite.
        """
        logits, features = self._run(pixels)
        softmax: NDArray[np.float64] = np.exp(log_probabilities(logits / np.float32(self.temperature or 1)))
        if self.doubt is None:
            return Answers(softmax)
        with torch.inference_mode():
            told = self.doubt(torch.from_numpy(softmax).float(), *features)
        said = dict(zip(self.doubt.names(), (part.numpy() for part in told), strict=True))
        return Answers(softmax, said.get("set"), said.get("decided"), said.get("unlike"))

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[Tensor]]:
        """The logits of such images, and the features where the bundle says more than probabilities."""
        tensor, compute = torch.from_numpy(pixels), self.compute
        network: nn.Module = self.network  # made here, since what is made in inference mode never gives gradients
        telling = self.doubt is not None
        if telling:
            network = WithFeatures(network, head_path(self.head, self.test_views))
        pinned = compute.device.type == "cuda"
        if pinned:
            tensor = tensor.pin_memory()
        with torch.inference_mode(), compute.autocast():
            found = network(tensor.to(compute.device, non_blocking=pinned))
            logits, *features = (part.float().cpu() for part in (found if telling else (found,)))
        if not torch.isfinite(logits).all():
            raise DataError("the model's output is NaN or infinite, so its weights are damaged; copy the bundle again.")
        return logits.numpy(), features

    @cached_property
    def network(self) -> nn.Module:
        """The model behind its normalisation, prepared for `compute`: pixels uint8 (n, height, width, 3) to logits.

        In fp32 it is the trained network, operation for operation.
        """
        compute = self.compute
        model = self.model if compute.device.type == "cpu" else copy.deepcopy(self.model)
        network: nn.Module = nn.Sequential(Normalise(self.preprocessing), model).eval().to(compute.device)
        size = self.preprocessing.size
        drawn = torch.randint(256, (TRIAL_BATCH, *sides(size), 3), generator=torch.Generator().manual_seed(0))
        trial = drawn.byte().to(compute.device)
        if compute.precision == "bf16":
            network = hold_frozen(fold_batch_norm(network, trial[:2]), compute)

        def step() -> None:
            with torch.inference_mode(), compute.autocast():
                network(trial)

        with contextlib.suppress(OSError):  # a cache that cannot be written only means another trial next time
            choose_layout(network, step, compute, f"bundle of {type(model).__name__}, {describe_size(size)}")
        return average_views(network, self.test_views)

    def _answer(self, few: list[Named], squares: Iterable[NDArray[np.uint8] | str]) -> Batch:
        names, pixels, bad = [], [], []
        for named, found in zip(few, squares, strict=True):
            if isinstance(found, str):
                bad.append((named.name, found))
            else:
                names.append(named.name)
                pixels.append(found)
        array = np.stack(pixels) if pixels else np.empty((0, *sides(self.preprocessing.size), 3), np.uint8)
        answers = self.answers(array)
        return Batch(names, array, answers.probabilities, answers, bad)

    def _squares(self, task: list[Named]) -> list[NDArray[np.uint8] | str]:
        """Return the pixels of each image of a task, or why it has none."""
        found: list[NDArray[np.uint8] | str] = []
        for named in task:
            try:
                if isinstance(named.image, BadImageError):
                    raise named.image
                found.append(square(named.image, self.preprocessing, self.decode))
            except BadImageError as error:
                found.append(str(error))
        return found


def _name(index: int, image: Any) -> str:
    return str(image) if isinstance(image, str | os.PathLike) else f"image {index}"
