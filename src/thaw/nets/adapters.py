"""Low-rank adapters (LoRA: Hu et al., 2021, arXiv:2106.09685) on linear layers, 1 x 1 convolutions and attention."""

import math
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thaw.errors import ModelError
from thaw.text import percent

LEAST_ADAPTED = 1 / 3
"""The fraction of a backbone's weights that layers with adapters hold, at least: in ResNet-18, whose only 1 x 1
convolutions are in shortcuts, it is 2%; in ResNet-50 it is 52%."""
LOOKED_UP = (nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag)
"""Layers whose weight is not that of a linear layer, or not of one alone."""


class LoRALayer(nn.Module):
    """A linear layer or 1 x 1 convolution plus a low-rank update of its weight, the product of two thin matrices.

    `up` starts at zero, so that the output is that of the layer alone until the first step.

    Parameters
    ----------
    base
        The layer; meant to be frozen. A convolution has a kernel of 1 x 1, one group and no padding.
    rank
        The inner dimension of the product.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down: nn.Linear | nn.Conv2d
        self.up: nn.Linear | nn.Conv2d
        if isinstance(base, nn.Linear):
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        else:
            rows, columns = base.stride
            self.down = nn.Conv2d(base.in_channels, rank, 1, (rows, columns), bias=False)
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return outputs

    @property
    def weight(self) -> Tensor:
        """The effective weight, in the shape of the layer's, for code that reads it without calling the layer."""
        update = self.up.weight.flatten(1) @ self.down.weight.flatten(1)
        return self.base.weight + update.view(self.base.weight.shape)

    @property
    def bias(self) -> Tensor | None:
        """The bias (out,) of the layer, or None."""
        return self.base.bias


class LoRAProjections(nn.Module):
    """A low-rank update of the projections of queries, keys and values that torch keeps in one packed weight.

    A parametrization of `nn.MultiheadAttention.in_proj_weight`: a pair of thin matrices for each of the three, as if
    they were three linear layers. The update starts at zero.

    Parameters
    ----------
    width
        Of the tokens.
    rank
        The inner dimension of each product.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(3, rank, width))
        self.up = nn.Parameter(torch.zeros(3, width, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def forward(self, packed: Tensor) -> Tensor:
        """Return the effective weight, (3 x width, width) as `packed`."""
        return packed + (self.up @ self.down).flatten(0, 1)


def add_adapters(model: nn.Module, head: str, rank: int, seed: int) -> None:
    """Give every linear layer, 1 x 1 convolution and attention except the head a low-rank update, in place.

    Parameters
    ----------
    model
        The network, which is changed.
    head
        The name of the layer to leave as it is.
    rank
        The rank of the adapters.
    seed
        Seed for their initial weights; torch's global generator is left as it was.

    Raises
    ------
    ModelError
        If a module keeps weights of linear layers in a form that cannot be adapted, or if the layers that can be hold
        little of the network.
    """
    inside = {name: module for name, module in model.named_modules() if name != head}
    for name, module in inside.items():
        if packed := _unreachable(module):
            raise ModelError(
                f"train = 'lora' cannot adapt the weights {packed!r} of {name}, a {type(module).__name__}; use "
                "'last-stage' or module names."
            )
    layers = {name: module for name, module in inside.items() if _is_linear(module)}
    attention = [module for module in inside.values() if isinstance(module, nn.MultiheadAttention)]
    held = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith(f"{head}."))
    weights = [*(layer.weight for layer in layers.values()), *(each.in_proj_weight for each in attention)]
    adapted = sum(weight.numel() for weight in weights)
    if adapted < LEAST_ADAPTED * held:
        raise ModelError(
            f"train = 'lora' adapts linear layers and 1 x 1 convolutions, which hold {percent(adapted / held)} of this "
            "backbone's weights before the head; use 'last-stage'."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, layer in layers.items():
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, LoRALayer(layer, rank))
        for each in attention:
            parametrize.register_parametrization(each, "in_proj_weight", LoRAProjections(each.embed_dim, rank))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> nn.Module:
    """Add every low-rank update to the weight of its layer and remove the adapters, in place; return the network."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALayer):
            owner, _, last = name.rpartition(".")
            module.base.weight.copy_(module.weight)
            setattr(model.get_submodule(owner), last, module.base)
        elif parametrize.is_parametrized(module, "in_proj_weight"):
            parametrize.remove_parametrizations(module, "in_proj_weight")
    return model


def adapter_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters that `add_adapters` added."""
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, (LoRALayer, LoRAProjections))
        for own, _ in module.named_parameters()
        if own.startswith(("down", "up"))
    }


def _is_linear(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Return True for what multiplies each place by one matrix: a linear layer, or a 1 x 1 convolution of one group.

    timm's convolutions that standardise their weight first compute something else.
    """
    if isinstance(module, nn.Conv2d):
        plain = not any("Std" in kind.__name__ for kind in type(module).__mro__)
        return plain and module.kernel_size == (1, 1) and module.groups == 1 and module.padding == (0, 0)
    return isinstance(module, nn.Linear)


def _unreachable(module: nn.Module) -> str | None:
    """Return the name of a weight of a linear layer that `add_adapters` cannot reach, as a recurrent layer's; or None.

    Such a weight belongs to the module itself and is multiplied by code that no adapter can stand in for.
    """
    if isinstance(module, (nn.Linear, *LOOKED_UP)) or "norm" in type(module).__name__.lower():
        return None
    packed = [
        name
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1 and ("weight" in name or name.endswith("_proj"))
    ]
    if isinstance(module, nn.MultiheadAttention) and packed == ["in_proj_weight"]:
        return None
    return next(iter(packed), None)
