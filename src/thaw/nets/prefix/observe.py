"""What is seen when a network's graph runs on a few images: what each value is per image, and what changes."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from thaw.compute.device import random_state
from thaw.nets.prefix.trace import trains

LITERALS = (int, float, str, type(None), torch.dtype, torch.device)
"""Types of the constants that a graph can hold; bool is an int."""


@dataclass(frozen=True)
class PerImage:
    """A tensor with `each` rows for every image; `order` lists its dimensions from slowest to fastest in memory."""

    each: int
    order: tuple[int, ...]

    @property
    def permuted(self) -> bool:
        return self.order != tuple(range(len(self.order)))

    @property
    def inverse(self) -> tuple[int, ...]:
        """The permutation that undoes `order`."""
        return tuple(sorted(range(len(self.order)), key=self.order.__getitem__))


@dataclass(frozen=True)
class Multiple:
    """A number that is `times` the number of images."""

    times: int


@dataclass(frozen=True)
class Constant:
    """A tensor, number or tuple that does not depend on the images; a Multiple may be in the tuple."""

    value: Any


class NotPerImageError(Exception):
    """A value that cannot be kept for each image."""


@dataclass(frozen=True)
class Observed:
    """What was seen of the nodes that may be static, by path."""

    kept: dict[str, PerImage | Constant | None]
    """How each one's value can be kept; None if it cannot."""
    writers: set[str]
    """Those that write to their inputs, which must therefore run although nothing may read their output."""


def probe_images(example: Tensor) -> tuple[Tensor, Tensor]:
    """Random images a, b and c that differ in mean and contrast, in batches (c, a) and (a, b, c).

    Parameters
    ----------
    example
        (n, 3, height, width), of the size, dtype and device that the images are to have.

    Returns
    -------
    two, three
        (2, 3, height, width) and (3, 3, height, width).
    """
    noise = torch.randn(3, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    level = torch.tensor([-0.5, 0.0, 0.5]).to(example).view(3, 1, 1, 1)
    three = noise * 4**level + level
    return three[[2, 0]], three


def probe(network: fx.GraphModule, two: Tensor, three: Tensor) -> Observed:
    """Run what reads no trainable parameter, directly or not, on two batches in lockstep.

    A node that draws a random number, changes a buffer or writes to a value that was read before and cannot be
    computed ahead is left out, with all that depends on it.

    Parameters
    ----------
    network
        A graph of `trace`, in the mode that it trains in.
    two, three
        See `probe_images`.

    Returns
    -------
    Observed
        How the value of each node that may be static can be kept.
    """
    runs = fx.Interpreter(network), fx.Interpreter(network)
    kept: dict[str, PerImage | Constant | None] = {}
    writers: set[str] = set()
    watched = list(network.buffers())
    for node in network.graph.nodes:
        path, sources = node.meta["path"], node.all_input_nodes
        values = [value for source in sources if isinstance(value := runs[0].env.get(source), Tensor)]
        static = node.op != "output" and not trains(network, node) and all(s.meta["path"] in kept for s in sources)
        if static:
            random, versions, written = random_state(two.device), _versions(watched), _versions(values)
            for run, images in zip(runs, (two, three), strict=True):
                run.env[node] = images if node.op == "placeholder" else run.run_node(node)
            static = versions == _versions(watched) and torch.equal(random, random_state(two.device))
            if written != _versions(values):
                writers.add(path)
        if static:
            kept[path] = _kept(*(run.env[node] for run in runs))
        else:
            watched += values
        for run in runs:
            for done in run.user_to_last_uses.get(node, []):
                run.env.pop(done, None)
    return Observed(kept, writers)


def close(values: Any, expected: Any) -> bool:
    """Whether two tensors are equal but for the rounding of their kernels.

    Parameters
    ----------
    values, expected
        Floats may differ by a thousandth of the largest finite number expected, under autocast by a twentieth of it;
        integers not at all. What is not a tensor, or of another shape, is not close.
    """
    if not isinstance(values, Tensor) or not isinstance(expected, Tensor) or values.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(values, expected)
    tolerance = 5e-2 if torch.is_autocast_enabled(expected.device.type) else 1e-3
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if len(finite) else 0.0
    return torch.allclose(values, expected, rtol=0, atol=tolerance * scale, equal_nan=True)


def macs(network: nn.Module, images: Tensor) -> int:
    """Multiply-adds per image of convolutions, matrix products and attention, as torch counts them.

    Parameters
    ----------
    network
        Runs once; call this inside `undone`, which restores its buffers.
    images
        (n, 3, height, width), of which the first is used.
    """
    with counting(network) as so_far:
        network(images[:1])
        return so_far()


@contextlib.contextmanager
def counting(network: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the multiply-adds of what a network computes in this block; yields what tells how many there were so far.

    Nothing in it may need gradients.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch cannot look into nn.MultiheadAttention's fused kernel
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter fails where a module is given one as its input, as CaiT's class token
        parameter.requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter:
            yield lambda: int(counter.get_total_flops()) // 2
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for parameter in trained:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def undone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Without gradients; buffers and random numbers are afterwards as they were."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, value in saved:
                buffer.copy_(value)


def _kept(two: Any, three: Any) -> PerImage | Constant | None:
    """How a value can be kept, from what it is for images (c, a) and (a, b, c); None if it cannot."""
    try:
        if isinstance(two, Tensor) and two.dim() and two.shape[0] and two.shape[0] * 3 == three.shape[0] * 2:
            each = two.shape[0] // 2
            same = close(two, torch.cat([three[2 * each :], three[:each]]))
            return PerImage(each, _order(three)) if same else None
        return Constant(_constant(two, three))
    except (NotPerImageError, RuntimeError):
        return None


def _constant(two: Any, three: Any) -> Any:
    if isinstance(two, Tensor) and isinstance(three, Tensor) and torch.equal(two, three):
        return three
    if isinstance(two, (tuple, list)) and isinstance(three, (tuple, list)) and len(two) == len(three):
        values = [_constant(*pair) for pair in zip(two, three, strict=True)]
        return values if isinstance(two, list) else tuple(values)
    if isinstance(two, LITERALS) and two == three:
        return two
    if isinstance(two, int) and isinstance(three, int) and two * 3 == three * 2:
        return Multiple(two // 2)
    raise NotPerImageError


def _order(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions from the slowest to the fastest in memory; as they come where the first is not the slowest."""
    strides = tensor.stride()
    order = tuple(sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension]))
    return order if order[0] == 0 else tuple(range(tensor.dim()))


def _versions(tensors: list[Tensor]) -> list[int]:
    """How often each was written to, which torch counts over all its views."""
    return [tensor._version for tensor in tensors]
