"""Low-rank adapters on linear layers (LoRA: Hu et al., 2021, arXiv:2106.09685)."""

import math

import torch
from torch import Tensor, nn

from thaw.errors import ModelError


class Adapted(nn.Module):
    """A frozen linear layer and what is added to its weight: the product of two thin matrices.

    It computes the layer as it is until the first step, since `up` starts at zero.
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
        """(out, in) what the layer's weight amounts to, for code that reads it without calling the layer."""
        return self.base.weight + self.up.weight @ self.down.weight

    @property
    def bias(self) -> Tensor | None:
        """(out,) or None."""
        return self.base.bias


def adapt(model: nn.Module, head: str, rank: int, seed: int) -> None:
    """Put an adapter on every linear layer but the head, in place. Raises ModelError where there is none."""
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
            setattr(model.get_submodule(owner), last, Adapted(base, rank))


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter to the weight that it adapts and take it off, in place; nothing else changes."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Adapted):
            owner, _, last = name.rpartition(".")
            module.base.weight.copy_(module.weight)
            setattr(model.get_submodule(owner), last, module.base)
