"""The blocks of a backbone in the order in which they run, and which of them are its last stage."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thaw.nets.prefix.trace import twin


@dataclass(frozen=True)
class Block:
    """A part of a network that is trained or frozen as one."""

    name: str
    """The module: a direct child of the outermost `nn.Sequential` or `nn.ModuleList` that holds it, or a layer outside
    of these."""
    positions: int
    """Positions of the map that its last layer gives for an image: pixels or tokens; 1 where it has no extent."""


def blocks(model: nn.Module, head: str, size: int) -> list[Block]:
    """The blocks with parameters, but for the head, in the order in which they run on an image of `size` pixels."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None and name != head
    }
    block_of = {name: _block(model, name) for name in layers}
    # what a network adds between its blocks, such as a position embedding, is no block
    block_of = {
        name: block
        for name, block in block_of.items()
        if not any(o.startswith(f"{block}.") for o in layers if name == block)
    }
    positions: dict[str, int] = {}
    network = twin(model).eval()
    hooks = []

    def watch(name: str) -> None:
        def note(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                weight = getattr(layers[name], "weight", None)
                channels = 1 if weight is None else weight.shape[0]
                positions.setdefault(block_of[name], 0)
                positions[block_of[name]] = max(1, output[0].numel() // channels)

        hooks.append(network.get_submodule(name).register_forward_hook(note))

    for name in block_of:
        watch(name)
    device = next(model.parameters()).device
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size, device=device))
    for hook in hooks:
        hook.remove()
    return [Block(name, count) for name, count in positions.items()]


def last_stage(of: list[Block]) -> list[str]:
    """Names of the blocks from the last reduction of the resolution on.

    Layers without extent, such as those behind the pooling of AlexNet, belong to the stage before them. Where that is
    more than half of all blocks, as in a transformer of one resolution, it is the last quarter of the blocks.
    """
    extended = [block.positions for block in of if block.positions > 1]
    if not extended:
        return [of[-1].name]
    # class tokens and the like change the number of positions by a few; a reduction at least halves it
    first = next(i for i, block in enumerate(of) if 1 < block.positions < 2 * extended[-1] and _stays(of[i:]))
    stage = of[first:]
    if len(stage) > len(of) / 2:
        stage = of[-max(1, round(len(of) / 4)) :]
    return [block.name for block in stage]


def depth_scales(model: nn.Module, head: str, decay: float, size: int) -> dict[nn.Parameter, float]:
    """What multiplies the learning rate of each parameter: `decay` to the power of the blocks that follow it.

    The head has 1, and so has everything where `decay` is 1; what belongs to no block, such as a position embedding,
    counts as before the first one. Layer-wise decay as in BEiT (Bao et al., 2021, arXiv:2106.08254).
    """
    if decay == 1:
        return dict.fromkeys(model.parameters(), 1.0)
    names = [block.name for block in blocks(model, head, size)]
    scales = {}
    for name, parameter in model.named_parameters():
        places = [place for place, block in enumerate([*names, head]) if f"{name}.".startswith(f"{block}.")]
        scales[parameter] = decay ** (len(names) - (places[0] if places else -1))
    return scales


def _stays(of: list[Block]) -> bool:
    """Whether no block reduces the resolution of the first one by half or more."""
    return all(2 * block.positions > of[0].positions for block in of if block.positions > 1)


def _block(model: nn.Module, name: str) -> str:
    parts = name.split(".")
    for depth in range(1, len(parts)):
        if type(model.get_submodule(".".join(parts[:depth]))) in (nn.Sequential, nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return name
