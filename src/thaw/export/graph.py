"""A bundle as one graph: raw images of any size to the network's, and these to calibrated probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from thaw.bundle.model import Bundle
from thaw.errors import ExportError, first_line
from thaw.images.mirror import average_views, head_path
from thaw.images.preprocessing import Normalise, Size, sides
from thaw.images.resize import resize_to_square
from thaw.nets.cut import unrolled
from thaw.nets.entered import WithFeatures

Classify = Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]
"""From raw images, uint8 (n, height, width, 3), to the outputs in the order of `outputs`."""


def outputs(bundle: Bundle) -> list[str]:
    """Return the names of a graph's outputs: `probabilities`, then what else the bundle says, see `bundle.doubt`."""
    return ["probabilities", *(bundle.doubt.names() if bundle.doubt else ())]


class FromImages(nn.Module):
    """Map raw images, uint8 RGB (n, height, width, 3) of any size, to calibrated probabilities (n, classes).

    Where the bundle says something else as well, that comes after them in a tuple, see `outputs`.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.resize = ToSquares(bundle)
        self.classify = FromSquares(bundle)
        self.doubt = bundle.doubt

    def forward(self, pictures: Tensor) -> Tensor | tuple[Tensor, ...]:
        found: Tensor | tuple[Tensor, Tensor] = self.classify(self.resize(pictures))
        return found if self.doubt is None else (found[0], *self.doubt(*found))


class ToSquares(nn.Module):
    """Resize raw images, uint8 RGB (n, height, width, 3) of any size, to the size that the network sees."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.preprocessing = bundle.preprocessing

    def forward(self, pictures: Tensor) -> Tensor:
        return resize_to_square(pictures, self.preprocessing)


class FromSquares(nn.Module):
    """Map resized images, uint8 (n, height, width, 3), to calibrated probabilities (n, classes).

    Where the bundle says something else as well, the features that enter the head come beside them.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        whole = nn.Sequential(Normalise(bundle.preprocessing), unrolled(bundle.model))
        network = average_views(whole, bundle.test_views)
        telling = bundle.doubt is not None
        self.network = WithFeatures(network, head_path(bundle.head, bundle.test_views)) if telling else network
        self.telling = telling
        self.temperature = bundle.temperature or 1.0

    def forward(self, squares: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found = self.network(squares)
        logits = found[0] if self.telling else found
        probabilities = torch.softmax(logits / self.temperature, 1)
        return (probabilities, found[1]) if self.telling else probabilities


def program(module: nn.Module, size: Size | None = None) -> ExportedProgram:
    """Return a module as one graph for any number of images.

    Parameters
    ----------
    module
        Maps images uint8 (n, height, width, 3) to tensors.
    size
        Of these images; None where it may be any.

    Raises
    ------
    ExportError
        torch.export cannot trace the network.
    """
    images = torch.zeros(2, *sides(size or (50, 70)), 3, dtype=torch.uint8)  # their content does not matter
    free = {} if size else {1: Dim("height", min=1), 2: Dim("width", min=1)}
    return traced(module, (images,), ({0: Dim("n", min=1), **free},))


def traced(module: nn.Module, examples: tuple[Tensor, ...], free: tuple[dict[int, Any], ...]) -> ExportedProgram:
    """Return a module as one graph; `free` are the sides of each example that may differ. Raises ExportError."""
    try:
        with torch.no_grad():
            made = torch.export.export(module.eval(), examples, dynamic_shapes=free)
    except Exception as error:  # whatever of the network torch.export does not support
        raise ExportError(
            f"torch.export cannot turn this network into a graph ({first_line(error)}); use thaw predict."
        ) from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return made
