"""What a network looked at: how much each place of an image spoke for the predicted class."""

from collections import Counter
from collections.abc import Iterable
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
"""Places of a heat map along each side."""
COARSEST = 4
"""A layer with fewer places along a side is not chosen where there is another."""
PROBED = 8
"""Images that the layer is chosen by."""
PREFIX_TOKENS = 8
"""At most so many class, register or distillation tokens stand before those of the patches."""


def heat_maps(network: nn.Module, batches: Iterable[Tensor]) -> NDArray[np.uint8] | None:
    """Heat maps (n, 14, 14) uint8 of an image classifier, 255 where an image spoke most for the predicted class.

    `batches` of images (batch, 3, side, side), normalised, n in all, which `network` maps to logits (batch, classes);
    its mode stays. The map is HiResCAM, the product of a layer's values and gradients summed over channels,
    where that is positive: Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks (2020). On a network that ends in global average pooling and one linear layer it is
    Grad-CAM, and on the tokens of a transformer it is as well defined. The gradient is that of the predicted class's
    logit less the mean of all, since a softmax does not change when all logits rise alike. The layer is that of
    `find_layer`; None where the network has none, or where torch cannot give its gradients, which a line then says.
    """
    evidence, layer, maps = _Evidence(twin(network)).train().eval(), None, []
    try:
        for images in batches:
            if layer is None:
                layer = find_layer(evidence, images[:PROBED])
                if layer is None:
                    return None
                layer.register_forward_hook(_begin)
            attributed = LayerGradientXActivation(evidence, layer).attribute(images)
            places = as_places(attributed.detach(), images.shape[-1])
            assert places is not None  # find_layer saw to it
            maps.append(_as_bytes(places.float().sum(1, keepdim=True).relu()))
    except RuntimeError as error:  # torch's own, also for memory that runs out: no reason to lose a study
        say(f"there are no heat maps: {str(error).splitlines()[0]}")
        return None
    return np.concatenate(maps)


def find_layer(network: nn.Module, images: Tensor) -> nn.Module | None:
    """The last module to finish whose output has a place for each part of the image and reaches the result from there.

    `images` (n, 3, side, side). Passes over layers of fewer than 4 places a side unless there are only such. What a
    transformer computes from its class token alone does not count, since no gradient reaches the places there.
    """
    calls: Counter[nn.Module] = Counter()
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] += 1
        if isinstance(output, Tensor) and output.requires_grad and as_places(output, images.shape[-1]) is not None:
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
        places = None if gradient is None else as_places(gradient, images.shape[-1])
        if places is not None and (places != 0).any(1).flatten(1).sum(1).max() > 1:
            reaching[module] = places.shape[-1]
    fine = [module for module, side in reaching.items() if side >= COARSEST]
    return next(reversed(fine or sorted(reaching, key=reaching.__getitem__)), None)


def as_places(values: Tensor, side: int) -> Tensor | None:
    """A layer's output as (n, channels, h, h), or None where it has no square of places.

    `values` are (n, channels, h, h), channels last as in Swin, or (n, tokens, channels) as in a vision transformer,
    where some tokens may stand before those of the patches. Each side has at least 2 places, and at most half of the
    `side` pixels of an image: attention between all pairs of tokens looks alike but is larger.
    """
    if values.dim() == 3:
        patches = next((int(t**0.5) for t in range(values.shape[1], 3, -1) if int(t**0.5) ** 2 == t), 0)
        if patches < 2 or values.shape[1] - patches**2 > PREFIX_TOKENS:
            return None
        values = values[:, -(patches**2) :].transpose(1, 2).reshape(len(values), -1, patches, patches)
    if values.dim() != 4:
        return None
    if values.shape[2] != values.shape[3] and values.shape[1] == values.shape[2]:
        values = values.permute(0, 3, 1, 2)
    return values if values.shape[2] == values.shape[3] and 1 < values.shape[2] <= side // 2 else None


def _as_bytes(maps: Tensor) -> NDArray[np.uint8]:
    """Maps (n, 1, h, h) of at least 0 to (n, 14, 14), the highest place of each 255."""
    maps = functional.interpolate(maps.float(), (SIDE, SIDE), mode="bilinear", antialias=True).squeeze(1)
    highest = maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    scaled: NDArray[np.uint8] = (255 * maps / highest).round().byte().cpu().numpy()
    return scaled


def _begin(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """Gradients begin at this layer: where parameters are frozen, nothing of what comes before it is kept for them."""
    return output.detach().requires_grad_().clone()  # a copy, since the next layer may change it in place


class _Evidence(nn.Module):
    """From images to the logit of the class that a network predicts, less the mean of all logits, (n,)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).float()
        return logits.amax(1) - logits.mean(1)
