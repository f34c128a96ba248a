"""Low-rank adapters on linear layers (LoRA: Hu et al., 2021, arXiv:2106.09685)."""

import math

import torch
from torch import Tensor, nn

from thaw.errors import ModelError


class LoRALinear(nn.Module):
    """A linear layer plus a low-rank update of its weight, the product of two thin matrices.

    `up` starts at zero, so that the output is that of the layer alone until the first step.

    Parameters
    ----------
    base
        The linear layer; meant to be frozen.
    rank
        The inner dimension of the product.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return outputs

    @property
    def weight(self) -> Tensor:
        """The effective weight (out, in), for code that reads it without calling the layer."""
        return self.base.weight + self.up.weight @ self.down.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (out,) of the layer, or None."""
        return self.base.bias


def add_adapters(model: nn.Module, head: str, rank: int, seed: int) -> None:
    """Replace every linear layer except the head by a LoRALinear, in place.

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
        If there is no linear layer before the head.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != head]
    if not linear:
        raise ModelError(
            "train = 'lora' needs linear layers before the head, and this backbone has none; use 'last-stage'."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name in linear:
            owner, _, last = name.rpartition(".")
            base = model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            setattr(model.get_submodule(owner), last, LoRALinear(base, rank))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> nn.Module:
    """Add every low-rank update to the weight of its layer and remove the adapters, in place; return the network."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            owner, _, last = name.rpartition(".")
            module.base.weight.copy_(module.weight)
            setattr(model.get_submodule(owner), last, module.base)
    return model
