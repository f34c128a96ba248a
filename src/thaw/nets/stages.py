"""The blocks of a backbone in the order in which they run, and its last stage."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thaw.nets.prefix.trace import twin


@dataclass(frozen=True)
class Block:
    """A part of a network that is trained or frozen as one."""

    name: str
    """The name of its module: a direct child of the outermost `nn.Sequential` or `nn.ModuleList` around it, or a layer
    outside of these."""
    positions: int
    """The number of positions, pixels or tokens, in the output of its last layer for an image; 1 for a vector."""


def blocks(model: nn.Module, head: str, size: int) -> list[Block]:
    """Return the blocks that have parameters, without the head, in the order in which they run.

    Parameters
    ----------
    model
        The network; not changed.
    head
        The name of the module that computes the logits.
    size
        Height and width of the images on which the blocks are observed.
    """
    return [Block(name, count) for name, count in parts_in_order(model, head, size, _block).items()]


def parts_in_order(model: nn.Module, head: str, size: int, part_of: Callable[[nn.Module, str], str]) -> dict[str, int]:
    """Return the parts of a network that have parameters, without the head, in the order in which they run.

    Parameters
    ----------
    model
        The network; not changed.
    head
        The name of the module that computes the logits.
    size
        Height and width of the images on which the parts are observed.
    part_of
        The name of the part that a module belongs to, of the network and the module's name.

    Returns
    -------
    dict
        By name, the number of positions in the output of each part's last layer; see `Block.positions`.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None and name != head
    }
    parts = {name: part_of(model, name) for name in layers}
    # parameters that a network adds between its parts, such as a position embedding, are not a part
    parts = {
        name: part for name, part in parts.items() if not any(o.startswith(f"{part}.") for o in layers if name == part)
    }
    positions: dict[str, int] = {}
    network = twin(model).eval()
    hooks = []

    def watch(name: str) -> None:
        def note(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                weight = getattr(layers[name], "weight", None)
                channels = 1 if weight is None else weight.shape[0]
                positions[parts[name]] = max(1, output[0].numel() // channels)

        hooks.append(network.get_submodule(name).register_forward_hook(note))

    for name in parts:
        watch(name)
    device = next(model.parameters()).device
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size, device=device))
    for hook in hooks:
        hook.remove()
    return positions


def last_stage(of: list[Block]) -> list[str]:
    """Return the names of the blocks from the last downsampling on.

    Layers whose output is a vector, such as those after the pooling of AlexNet, belong to the stage before them. If
    this would be more than half of all blocks, as in a transformer of one resolution, the last quarter is returned.
    """
    extended = [block.positions for block in of if block.positions > 1]
    if not extended:
        return [of[-1].name]
    # class tokens and the like change the number of positions by a few; downsampling at least halves it
    first = next(i for i, block in enumerate(of) if 1 < block.positions < 2 * extended[-1] and _stays(of[i:]))
    stage = of[first:]
    if len(stage) > len(of) / 2:
        stage = of[-max(1, round(len(of) / 4)) :]
    return [block.name for block in stage]


def is_normalisation(module: nn.Module) -> bool:
    """Return True for a normalisation layer of torch, torchvision or timm."""
    return "norm" in type(module).__name__.lower()


def _stays(of: list[Block]) -> bool:
    """Return True if no block halves the number of positions of the first one."""
    return all(2 * block.positions > of[0].positions for block in of if block.positions > 1)


def _block(model: nn.Module, name: str) -> str:
    """Return the name of the block that a layer belongs to."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        if type(model.get_submodule(".".join(parts[:depth]))) in (nn.Sequential, nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return name
