"""The modules that a network can be cut after, one for each layer."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from thaw.nets.cut import Layout, layout_of
from thaw.nets.decay import layers_in_order
from thaw.nets.prefix.trace import twin


@dataclass(frozen=True)
class CutPoint:
    """A module that a network can be cut after."""

    at: str
    """Its name."""
    layout: Layout
    """That of its output."""
    channels: int
    """Of its output."""
    places: int
    """Rows of its output's map, for the smaller side of square images of the size looked at; 1 for others."""
    parameters: int
    """Values of the parameters that stay where the network is cut there, without a head."""


@dataclass
class _Runs:
    """What hooks saw of each module, by its name."""

    begun: dict[str, int]
    ended: dict[str, int]
    calls: Counter[str]
    outputs: dict[str, Any]
    written: dict[str, int]
    """How often each output had been written to then."""


def find_cut_points(model: nn.Module, head: str, size: int) -> list[CutPoint]:
    """Return the modules to cut a network after: for each of its layers the last to run before the next layer begins.

    Layers are those of `decay.layers_in_order`; what follows one without parameters of its own, such as an activation
    or a pooling, goes with it, but for the pooling of the whole map. Modules that run several times are left out.

    Parameters
    ----------
    model
        The network; not changed.
    head
        The name of the module that computes the logits.
    size
        Height and width of the images on which it is observed.
    """
    runs = _observe(model, size)
    layers = layers_in_order(model, head, size)
    found = []
    for layer, following in pairwise([*layers, [head]]):
        own = [name for name in layer if name in runs.ended]
        limit = min((runs.begun[name] for name in following if name in runs.begun), default=math.inf)
        if not own:
            continue
        largest = max(_positions(runs.outputs[name]) for name in own)
        first = max(runs.ended[name] for name in own if _positions(runs.outputs[name]) == largest)
        chosen = _last(runs, head, own, first, limit)
        if chosen is not None:
            found.append(_depth(model, chosen, runs))
    return found


def _observe(model: nn.Module, size: int) -> _Runs:
    network, clock = twin(model).eval(), itertools.count()
    runs = _Runs({}, {}, Counter(), {}, {})

    def watch(name: str, module: nn.Module) -> None:
        def begin(*_: Any) -> None:
            runs.begun.setdefault(name, next(clock))

        def end(_: nn.Module, __: Any, output: Any) -> None:
            runs.calls[name] += 1
            runs.ended[name] = next(clock)
            runs.outputs[name] = output
            runs.written[name] = getattr(output, "_version", 0)

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    for name, module in network.named_modules():
        watch(name, module)
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    return runs


def _last(runs: _Runs, head: str, layer: list[str], first: int, limit: float) -> str | None:
    """The last module to end between two moments; of those with the same values the layer's own, or the first."""
    chosen: str | None = None
    for name in sorted(runs.ended, key=runs.ended.__getitem__):
        given = runs.outputs[name]
        if not first <= runs.ended[name] <= limit or runs.calls[name] > 1 or f"{head}.".startswith(f"{name}."):
            continue
        if not name or layout_of(given) is None or _positions(given) == 1 < _positions(runs.outputs[layer[0]]):
            continue
        same = chosen is not None and given is runs.outputs[chosen] and runs.written[name] == runs.written[chosen]
        if not same or name in layer:
            chosen = name
    return chosen


def _positions(output: Any) -> int:
    """Pixels or tokens of a module's output; 1 for a vector, 0 for what is none of these."""
    layout = layout_of(output)
    if layout is None or layout.kind == "vector":
        return int(layout is not None)
    if layout.kind == "tokens":
        return int(output.shape[1])
    return int(output.shape[2] * (output.shape[3] if layout.kind == "map" else output.shape[1]))


def _depth(model: nn.Module, at: str, runs: _Runs) -> CutPoint:
    output, end = runs.outputs[at], runs.ended[at]
    layout = layout_of(output)
    assert layout is not None
    stays: dict[nn.Parameter, int] = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in runs.begun:  # what a module around it reads itself
            owner = owner.rpartition(".")[0]
        if runs.begun.get(owner, -1) < end:
            stays[parameter] = parameter.numel()
    channels = output.shape[1] if layout.kind in ("map", "vector") else output.shape[-1]
    places = {"map": output.shape[-1], "channels-last": output.shape[1]}.get(layout.kind, 1)
    return CutPoint(at, layout, int(channels), int(places), sum(stays.values()))
