"""Fold batch normalisation into the convolution before it, which saves work when a network only predicts."""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from thaw.nets.prefix.observe import close
from thaw.nets.prefix.trace import twin


@torch.no_grad()
def fold_batch_norm(network: nn.Module, images: Tensor) -> nn.Module:
    """Return the network with every batch normalisation that follows a convolution folded into it.

    The pairs are observed while `images` run through the network, and the logits of the result are compared on them.

    Parameters
    ----------
    network
        A network in evaluation mode; not changed.
    images
        A batch of its input.

    Returns
    -------
    nn.Module
        A network with the same logits up to rounding, which shares the parameters of other layers; or `network` itself
        if the logits differ, as where a second layer reads the output of the convolution.
    """
    expected = network(images)
    folded = twin(network)
    names = {module: name for name, module in folded.named_modules()}
    for convolution, normalisation in _pairs(folded, images):
        mean, variance = normalisation.running_mean, normalisation.running_var
        if mean is None or variance is None:  # it uses the statistics of each batch
            continue
        scaling = normalisation.eps, normalisation.weight, normalisation.bias
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, *scaling
        )
        # timm's normalisations include an activation
        folded.set_submodule(names[normalisation], nn.Sequential(*normalisation.children()))
    return folded if close(folded(images), expected) else network


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return pairs of a convolution and the normalisation that reads its unchanged output, where both run once."""
    runs: Counter[nn.Module] = Counter()
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] += 1
        if type(module) is nn.Conv2d:
            made[id(output)] = module, output, output._version

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and inputs and id(inputs[0]) in made:
            convolution, output, version = made[id(inputs[0])]
            if output._version == version:  # nothing wrote to it in between
                pairs.append((convolution, module))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_hook(after) for layer in layers]
    hooks += [layer.register_forward_pre_hook(before) for layer in layers]
    network(images)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if runs[pair[0]] == runs[pair[1]] == 1]
