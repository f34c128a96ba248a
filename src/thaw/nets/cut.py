"""A network cut after one of its modules: what runs until then, its output pooled, and a new head."""

import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.errors import ModelError
from thaw.nets.prefix.trace import trace, twin


@dataclass(frozen=True)
class Layout:
    """How a module's output for images lies in memory."""

    kind: Literal["map", "channels-last", "tokens", "vector"]
    """(n, channels, height, width), (n, height, width, channels), (n, tokens, channels) or (n, channels)."""
    prefix: int = 0
    """Class, register and distillation tokens before those of the patches."""


class Pool(nn.Module):
    """From a module's output to features (n, features).

    Of a map it is the mean over each of grid x grid parts, for each channel; of tokens the mean of those of the
    patches, after the class token where there is one; a vector is as it is.

    Parameters
    ----------
    layout
        That of the output.
    grid
        Parts of a map in each direction.
    """

    def __init__(self, layout: Layout, grid: int) -> None:
        super().__init__()
        self.layout, self.grid = layout, grid

    def forward(self, values: Tensor) -> Tensor:
        if self.layout.kind == "vector":
            return values
        if self.layout.kind == "tokens":
            mean = values[:, self.layout.prefix :].mean(1)
            return torch.cat([values[:, 0], mean], 1) if self.layout.prefix else mean
        if self.layout.kind == "channels-last":
            values = values.permute(0, 3, 1, 2)
        return functional.adaptive_avg_pool2d(values, self.grid).flatten(1)


class Cut(nn.Module):
    """Laid over the class of a network: its forward ends at `Last`, whose output goes through a pool and the head."""

    cut_pool: Pool
    cut_head: str
    """The name of the head."""

    def forward(self, images: Tensor) -> Tensor:
        try:
            super().forward(images)
        except ReachedLast as reached:
            logits: Tensor = self.get_submodule(self.cut_head)(self.cut_pool(reached.output))
            return logits
        raise AssertionError("the network does not run the module that it was cut at")


class ReachedLast(BaseException):
    """The module that a network is cut at has run. No error: what handles errors, as tracing does, lets it pass."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class Last(nn.Module):
    """Runs a module and ends the forward of the network around it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise ReachedLast(self.layer(*args, **kwargs))


def cut(model: nn.Module, head: str, at: str, grid: int, size: int) -> None:
    """Cut a network after one of its modules: later ones go, a linear head on the pooled output takes the head's place.

    The other modules keep their names, and the network its class, so that all that works on it still does.

    Parameters
    ----------
    model
        The network, which is changed. The new head draws torch's random numbers.
    head
        The name of the module that computes the logits, and of the new head.
    at
        The name of the last module to stay.
    grid
        The output is pooled to so many parts in each direction, see `Pool`.
    size
        Height and width of the network's images, on which it is observed what runs before.

    Raises
    ------
    ModelError
        There is no such module before the head, or its output cannot be pooled.
    """
    _check(model, head, at)
    network = twin(model).eval()
    begun: set[str] = set()

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda *_: begun.add(name))

    for name, module in network.named_modules():
        watch(name, module)
    network.set_submodule(at, Last(network.get_submodule(at)))
    old = model.get_submodule(head)
    device = next(model.parameters()).device
    output = None
    try:
        with torch.no_grad():
            network(torch.zeros(2, 3, size, size, device=device))
    except ReachedLast as reached:
        output = reached.output
    layout = layout_of(output)
    if layout is None:
        raise ModelError(f"at = {at!r} gives no map, tokens or vector to put a head on; name a block of the backbone.")
    if grid > 1 and layout.kind not in ("map", "channels-last"):
        raise ModelError(f"grid = {grid} needs a map, and {at!r} gives {layout.kind}; leave grid out.")
    pool = Pool(layout, grid)
    around = {*_around(at), *_around(head)}
    for name in around:
        for child, module in model.get_submodule(name).named_children():
            inside = f"{name}.{child}".lstrip(".")
            names = {f"{inside}.{below}".rstrip(".") for below, _ in module.named_modules()}
            if inside not in around | {head} and not names & begun:
                model.set_submodule(inside, nn.Identity())
    classes = old.out_features if isinstance(old, nn.Linear) else old.out_channels
    assert isinstance(classes, int)
    model.set_submodule(at, Last(model.get_submodule(at)))
    model.set_submodule(head, nn.Linear(pool(output).shape[1], classes, device=device))
    model.__class__ = type(f"Cut{type(model).__name__}", (Cut, type(model)), {})
    shortened = cast("Cut", model)
    shortened.cut_pool, shortened.cut_head = pool, head


def unrolled(model: nn.Module) -> nn.Module:
    """A network that is cut as a graph, which ends where it ends: torch.export minds that a module never returns.

    Any other network is returned as it is. The graph shares parameters and buffers, and is of the network's mode.
    """
    return trace(model) if isinstance(model, Cut) else model


def layout_of(output: Any) -> Layout | None:
    """Return the layout of a module's output for square images; None where it is no tensor that can be pooled."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or not 2 <= output.dim() <= 4:
        return None
    if output.dim() == 2:
        return Layout("vector")
    if output.dim() == 3:
        tokens = output.shape[1]
        return Layout("tokens", tokens - math.isqrt(tokens) ** 2)
    _, first, second, third = output.shape
    return Layout("channels-last" if first == second != third else "map")


def _check(model: nn.Module, head: str, at: str) -> None:
    """Raise ModelError unless there is a module of that name that does not hold the head."""
    names = [name for name, _ in model.named_modules() if name and not f"{head}.".startswith(f"{name}.")]
    if at in names:
        return
    if f"{head}.".startswith(f"{at}."):
        raise ModelError(f"at = {at!r} is or holds the head; leave at out, or name a module before it.")
    near = difflib.get_close_matches(at, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"its modules are {', '.join(dict(model.named_children()))}"
    )
    raise ModelError(f"at = {at!r} is no module of this backbone ({hint}).")


def _around(name: str) -> list[str]:
    """The names of the modules around one, the network itself first, as ''."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]
