"""What the optimizer spares: layer-wise learning rates, and the parameters that weight decay leaves alone."""

from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from timm.models import group_parameters
from torch import nn

from thaw.nets.stages import is_normalisation, parts_in_order

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NOT_DECAYED = (
    *("*class_token", "*pos_embedding", "*relative_position_bias_table"),
    *("*cpb_mlp.*", "*logit_scale", "*layer_scale"),
)
"""What weight decay leaves alone in torchvision, with the second Swin's networks for position biases; timm's networks
say theirs in `no_weight_decay`."""


def layer_decay_scales(model: nn.Module, head: str, decay: float, size: int) -> dict[nn.Parameter, float]:
    """Return the factor of the learning rate of each parameter: `decay` to the power of the number of layers after it.

    Layer-wise learning-rate decay as in BEiT (Bao et al., 2021, arXiv:2106.08254) and in timm's
    `param_groups_layer_decay`. A layer is a block of a stage; the head, whose factor is 1, counts as one. Position
    embedding and class token go with the first layer, a normalisation outside of the blocks with the layer before it,
    and a reduction of the resolution between two stages with the block after it. Networks of timm are grouped as timm
    groups them.

    Parameters
    ----------
    model
        The network; not changed.
    head
        The name of the module that computes the logits.
    decay
        The factor from one layer to the layer before it; 1 for the same learning rate everywhere.
    size
        Height and width of the images on which the order of the layers is observed.
    """
    if decay == 1:
        return dict.fromkeys(model.parameters(), 1.0)
    matcher: Any = getattr(model, "group_matcher", None)
    places: dict[str, int]
    if matcher:
        places = group_parameters(model, matcher(coarse=False), reverse=True)
    else:
        layers = [*layers_in_order(model, head, size), [head]]
        place_of = {part: place for place, parts in enumerate(layers) for part in parts}
        names = [name for name, _ in model.named_parameters()]
        places = {name: max((place_of.get(above, 0) for above in _enclosing(name)), default=0) for name in names}
    last = max(places.values())
    return {parameter: decay ** (last - places[name]) for name, parameter in model.named_parameters()}


def decayed_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that weight decay applies to: the weights of linear layers, convolutions and the like.

    It leaves alone biases, normalisation layers, whatever else is a vector, and position embeddings, class tokens and
    tables of relative position biases, as timm does.
    """
    spare: Any = getattr(model, "no_weight_decay", set)
    patterns = [*NOT_DECAYED, *spare()]
    return {
        parameter
        for name, module in model.named_modules()
        if not is_normalisation(module)
        for own, parameter in module.named_parameters(prefix=name, recurse=False)
        if parameter.ndim > 1 and not own.endswith("bias")
        if not any(fnmatchcase(own, pattern) for pattern in patterns)
    }


def layers_in_order(model: nn.Module, head: str, size: int) -> list[list[str]]:
    """Return the layers before the head as `layer_decay_scales` counts them, each a list of modules, in running order.

    Parameters
    ----------
    model
        The network; not changed.
    head
        The name of the module that computes the logits.
    size
        Height and width of the images on which the order is observed.
    """
    layers: list[list[str]] = []
    for part in parts_in_order(model, head, size, _block):
        stage = _parent(part)
        follows = bool(layers) and _only_normalises(model.get_submodule(part))
        # a part that stands beside stages and is followed by one only prepares its input
        follows |= len(layers) > 1 and bool(stage) and _parent(layers[-1][-1]) == _parent(stage)
        if follows:
            layers[-1].append(part)
        else:
            layers.append([part])
    return layers


def _block(model: nn.Module, name: str) -> str:
    """Return the name of the block that a module belongs to.

    It is the child of the outermost container, or where that holds nothing but blocks, as a stage does, of this one.
    """
    enclosing = _enclosing(name)
    for above, below in pairwise(enclosing):
        if isinstance(model.get_submodule(above), CONTAINERS) and not _is_stage(model.get_submodule(below)):
            return below
    return name


def _is_stage(module: nn.Module) -> bool:
    """Return True for a container of modules that themselves consist of modules."""
    return isinstance(module, CONTAINERS) and all(any(True for _ in child.children()) for child in module.children())


def _only_normalises(part: nn.Module) -> bool:
    """Return True if a part has parameters in normalisation layers alone."""
    return all(is_normalisation(m) for m in part.modules() if any(True for _ in m.parameters(recurse=False)))


def _enclosing(name: str) -> list[str]:
    """Return a module's name and those of the modules around it, the outermost first: `a`, `a.b`, `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
