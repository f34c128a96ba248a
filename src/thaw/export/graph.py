"""A bundle as one graph: raw images of any size to the network's, and these to calibrated probabilities."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from thaw.bundle.model import Bundle
from thaw.errors import ExportError, first_line
from thaw.images.mirror import average_views
from thaw.images.preprocessing import Normalise, Size, sides
from thaw.images.resize import resize_to_square
from thaw.nets.cut import unrolled

Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From raw images, uint8 (n, height, width, 3), to probabilities (n, classes)."""


class FromImages(nn.Module):
    """Map raw images, uint8 RGB (n, height, width, 3) of any size, to calibrated probabilities (n, classes)."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.resize = ToSquares(bundle)
        self.classify = FromSquares(bundle)

    def forward(self, pictures: Tensor) -> Tensor:
        probabilities: Tensor = self.classify(self.resize(pictures))
        return probabilities


class ToSquares(nn.Module):
    """Resize raw images, uint8 RGB (n, height, width, 3) of any size, to the size that the network sees."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.preprocessing = bundle.preprocessing

    def forward(self, pictures: Tensor) -> Tensor:
        return resize_to_square(pictures, self.preprocessing)


class FromSquares(nn.Module):
    """Map resized images, uint8 (n, height, width, 3), to calibrated probabilities (n, classes)."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        network = nn.Sequential(Normalise(bundle.preprocessing), unrolled(bundle.model))
        self.network = average_views(network, bundle.test_views)
        self.temperature = bundle.temperature or 1.0

    def forward(self, squares: Tensor) -> Tensor:
        logits: Tensor = self.network(squares)
        return torch.softmax(logits / self.temperature, 1)


def program(module: nn.Module, size: Size | None = None) -> ExportedProgram:
    """Return a module as one graph for any number of images.

    Parameters
    ----------
    module
        Maps images uint8 (n, height, width, 3) to a tensor.
    size
        Of these images; None where it may be any.

    Raises
    ------
    ExportError
        torch.export cannot trace the network.
    """
    images = torch.zeros(2, *sides(size or (50, 70)), 3, dtype=torch.uint8)  # their content does not matter
    free = {} if size else {1: Dim("height", min=1), 2: Dim("width", min=1)}
    try:
        with torch.no_grad():
            made = torch.export.export(module.eval(), (images,), dynamic_shapes=({0: Dim("n", min=1), **free},))
    except Exception as error:  # whatever of the network torch.export does not support
        raise ExportError(
            f"torch.export cannot turn this network into a graph ({first_line(error)}); use thaw predict."
        ) from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return made
