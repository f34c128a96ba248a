"""Heat maps: how much evidence each place of an image gave for the predicted class."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw.nets.prefix.trace import twin
from thaw.progress import say

SIDE = 14
"""Height and width of a heat map."""
MIN_SIDE = 4
"""Height and width below which the map of a layer is too coarse, if another layer has a finer one."""
LAYER_IMAGES = 8
"""The number of images on which the layer is chosen."""
PREFIX_TOKENS = 8
"""The largest number of class, register or distillation tokens before those of the patches."""


def heat_maps(network: nn.Module, batches: Iterable[Tensor]) -> NDArray[np.uint8] | None:
    """Compute HiResCAM heat maps of the predicted classes.

    HiResCAM is the positive part of a layer's activations times their gradients, summed over channels: Draelos and
    Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks (2020). For a
    network that ends in global average pooling and one linear layer it equals Grad-CAM, and it is defined for the
    tokens of a transformer, too. The gradient is that of the predicted class's logit minus the mean of all logits,
    because adding a constant to all logits does not change the softmax. `find_layer` chooses the layer.

    Parameters
    ----------
    network
        Maps normalised images to logits (batch, classes); its mode is not changed.
    batches
        Images (batch, 3, height, width), n in all.

    Returns
    -------
    array of uint8 or None
        Maps (n, 14, 14), 255 at the place with the most evidence; None if the network has no suitable layer or torch
        cannot compute its gradients, which is then reported.
    """
    evidence, layer, maps = _Evidence(twin(network)).train().eval(), None, []
    try:
        for images in batches:
            if layer is None:
                layer = find_layer(evidence, images[:LAYER_IMAGES])
                if layer is None:
                    return None
                layer.register_forward_hook(_begin)
            attributed = LayerGradientXActivation(evidence, layer).attribute(images)
            places = as_places(attributed.detach(), images.shape[2:])
            assert places is not None  # find_layer chose a layer that has them
            maps.append(_as_bytes(places.float().sum(1, keepdim=True).relu()))
    except RuntimeError as error:  # torch's own, including out of memory: not worth losing a study for
        say(f"no heat maps could be computed: {str(error).splitlines()[0]}")
        return None
    return np.concatenate(maps)


def find_layer(network: nn.Module, images: Tensor) -> nn.Module | None:
    """Return the last module to finish whose output is a spatial map that the network's output depends on.

    Maps smaller than 4 x 4 are chosen only if there are no larger ones. Layers that a transformer applies to its class
    token alone do not count, because no gradient reaches the other tokens there. Returns None if there is no such
    module.

    Parameters
    ----------
    network
        The network to search.
    images
        A batch (n, 3, height, width) to run through it.
    """
    calls: Counter[nn.Module] = Counter()
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] += 1
        if isinstance(output, Tensor) and output.requires_grad and as_places(output, images.shape[2:]) is not None:
            outputs.pop(module, None)
            outputs[module] = output

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.enable_grad():
            result = network(images.detach().requires_grad_())
            candidates = [module for module in outputs if calls[module] == 1]
            if not candidates:
                return None
            gradients = torch.autograd.grad(result.sum(), [outputs[module] for module in candidates], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    reaching = {}
    for module, gradient in zip(candidates, gradients, strict=True):
        places = None if gradient is None else as_places(gradient, images.shape[2:])
        if places is not None and (places != 0).any(1).flatten(1).sum(1).max() > 1:
            reaching[module] = min(places.shape[2:])
    fine = [module for module, side in reaching.items() if side >= MIN_SIDE]
    return next(reversed(fine or sorted(reaching, key=reaching.__getitem__)), None)


def as_places(values: Tensor, size: Sequence[int]) -> Tensor | None:
    """Return a layer's output as a spatial map (n, channels, h, w), or None if it is not one.

    A map has the aspect ratio of the images, to within one place, and sides of at least 2 places and at most half of
    the images': attention between all pairs of tokens looks alike but is larger.

    Parameters
    ----------
    values
        (n, channels, h, w), channels last as in Swin, or (n, tokens, channels) as in a vision transformer, where other
        tokens may come before those of the patches.
    size
        Height and width of the images in pixels.
    """
    if values.dim() == 3:
        grid = _grid(values.shape[1], size)
        if grid is None:
            return None
        values = values[:, -math.prod(grid) :].transpose(1, 2).reshape(len(values), -1, *grid)
    if values.dim() != 4:
        return None
    if not _is_shaped(values.shape[2:], size) and _is_shaped(values.shape[1:3], size):
        values = values.permute(0, 3, 1, 2)
    fits = all(1 < places <= side // 2 for places, side in zip(values.shape[2:], size, strict=True))
    return values if fits and _is_shaped(values.shape[2:], size) else None


def _grid(tokens: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Return the rows and columns of the patches among tokens: nearest in shape to the images, then the most."""
    grids = []
    for count in range(max(tokens - PREFIX_TOKENS, 4), tokens + 1):
        rows = round(math.sqrt(count * size[0] / size[1]))
        if rows > 0 and count % rows == 0 and _is_shaped((rows, count // rows), size):
            grids.append((rows, count // rows))
    return min(grids, key=lambda grid: (_deviation(grid, size), -math.prod(grid)), default=None)


def _is_shaped(places: Sequence[int], size: Sequence[int]) -> bool:
    return _deviation(places, size) < 1


def _deviation(places: Sequence[int], size: Sequence[int]) -> float:
    """Return by how many places a map of h x w is too long or too wide for the aspect ratio of images."""
    return abs(places[0] * size[1] - places[1] * size[0]) / max(size)


def _as_bytes(maps: Tensor) -> NDArray[np.uint8]:
    """Resize non-negative maps (n, 1, h, w) to (n, 14, 14) and scale the maximum of each to 255."""
    maps = functional.interpolate(maps.float(), (SIDE, SIDE), mode="bilinear", antialias=True).squeeze(1)
    highest = maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    scaled: NDArray[np.uint8] = (255 * maps / highest).round().byte().cpu().numpy()
    return scaled


def _begin(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """Begin gradients at this layer, so that autograd stores nothing of the layers before it."""
    return output.detach().requires_grad_().clone()  # a copy, because the next layer may change it in place


class _Evidence(nn.Module):
    """Map images to the logit of the predicted class minus the mean of all logits, (n,)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).float()
        return logits.amax(1) - logits.mean(1)
