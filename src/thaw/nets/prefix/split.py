"""The split of a network into what cannot change while it trains, computed once per image, and the rest.

A node of the network's graph is static when its inputs are static, it reads no trainable parameter, it draws no random
number and it changes no state. What crosses from static nodes to others must be kept per image; a node whose value
cannot be kept so is not static either. This is observed on probe images, not deduced from the types of layers, and the
two parts together are compared with the whole network before they are used.
"""

import hashlib
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from thaw.nets.prefix.observe import (
    LITERALS,
    Constant,
    Multiple,
    Observed,
    PerImage,
    close,
    macs,
    probe,
    probe_images,
    undone,
)
from thaw.nets.prefix.trace import EvalNetwork, trace, twin


@dataclass(frozen=True)
class Cut:
    """Where a prefix ends, without the network: what one prefix must know of another to go on from its output."""

    graph: str
    """A digest of the prefix's computation and of the names that it reads; the values there are not part of it."""
    frontier: tuple[str, ...]
    """For each crossing tensor, the module or operation whose output it is."""
    layouts: tuple[PerImage, ...]
    """How each crossing tensor is kept."""
    macs: int
    """Multiply-adds of the prefix per image."""


@dataclass(frozen=True)
class Split:
    """A network in two parts: `suffix(*prefix(images))` are its logits, `evaluation(*prefix(images))` in evaluation."""

    prefix: fx.GraphModule | None
    """Float images (n, 3, height, width) to a tuple of tensors, first dimension n each; None when nothing is static."""
    suffix: nn.Module
    """Those tensors, or the images, to logits (n, classes), in training mode; it does not write to its inputs."""
    evaluation: nn.Module
    """From the same inputs to logits, in evaluation mode, on the same parameters."""
    cut: Cut
    """Where the prefix ends; an empty one when there is none."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the crossing tensors, per image."""
    total_macs: int
    """Multiply-adds of the whole network per image."""
    reason: str
    """Why the network runs whole although part of it is frozen; else empty."""


def split(model: nn.Module, example: Tensor) -> Split:
    """Split a network by which of its parameters have `requires_grad` set.

    Parameters
    ----------
    model
        A network in the mode that it trains in, see `freezing.set_mode`; all parts share its parameters and buffers.
    example
        A float tensor (n, 3, height, width) of the size, on the device and, by the caller, under the autocast that the
        network will run with; its values do not matter.

    Returns
    -------
    Split
        A network that cannot be split runs whole: its prefix is None, its suffix the model.
    """
    evaluation = twin(model).eval()
    two, three = probe_images(example)
    with undone(model, example.device):
        whole = Split(None, model, EvalNetwork(evaluation), Cut("", (), (), 0), (), macs(evaluation, two), "")
        if all(parameter.requires_grad for parameter in model.parameters()):
            return whole
        try:
            networks = trace(model), trace(evaluation)
        except Exception as error:  # whatever the network's own code raises
            return replace(whole, reason=f"its graph cannot be traced ({type(error).__name__}: {error})".split("\n")[0])
        probed = probe(networks[0], two, three)
        static, tensors = _frontier(*networks, probed, two)
        prefix = prefix_of(networks[0], static, tensors, probed.writers)
        prefix_macs = macs(prefix, two)
        if not prefix_macs:
            return replace(whole, reason="nothing is computed before its first trained or random layer")
        inputs = prefix(two)
        suffix, scorer = (_suffix(network, static, tensors, probed, inputs) for network in networks)
        for part, reference in ((suffix, model), (scorer, evaluation)):
            if not close(_seeded(part, *inputs), _seeded(reference, two)):
                return replace(whole, reason="its two parts together give other numbers than the whole")
    shapes = tuple(tuple(value.shape[1:]) for value in inputs)
    cut = Cut(key_of_graph(prefix), tuple(tensors), tuple(tensors.values()), prefix_macs)
    return replace(whole, prefix=prefix, suffix=suffix, evaluation=EvalNetwork(scorer), cut=cut, shapes=shapes)


def _frontier(
    training: fx.GraphModule, evaluation: fx.GraphModule, probed: Observed, images: Tensor
) -> tuple[set[str], dict[str, PerImage]]:
    """The static nodes up to the last frontier that can be kept and is the same in both modes; what crosses it."""
    static = set(probed.kept)
    while True:
        static = _closed((training, evaluation), static)
        crossing = _crossing((training, evaluation), static)
        tensors = {path: kept for path in crossing if isinstance(kept := probed.kept[path], PerImage)}
        unkeepable = {path for path in crossing if probed.kept[path] is None}
        unkeepable = unkeepable or _differing(training, evaluation, static, tensors, probed, images)
        if not unkeepable:
            return static, tensors
        static = static - unkeepable


def _closed(networks: tuple[fx.GraphModule, ...], static: set[str]) -> set[str]:
    """The largest part of `static` whose inputs, in every graph, are in it too."""
    while True:
        loose = {
            node.meta["path"]
            for network in networks
            for node in network.graph.nodes
            if any(source.meta["path"] not in static for source in node.all_input_nodes)
        }
        if not static & loose:
            return static
        static = static - loose


def _crossing(networks: tuple[fx.GraphModule, ...], static: set[str]) -> list[str]:
    """Static values that a node which is not static reads, in order; parameters and buffers need not be handed over."""
    crossing = [
        node.meta["path"]
        for network in networks
        for node in network.graph.nodes
        if node.op != "get_attr" and node.meta["path"] in static
        if any(user.meta["path"] not in static for user in node.users)
    ]
    return list(dict.fromkeys(crossing))


def _differing(
    training: fx.GraphModule,
    evaluation: fx.GraphModule,
    static: set[str],
    tensors: dict[str, PerImage],
    probed: Observed,
    images: Tensor,
) -> set[str]:
    """Crossing tensors that are something else in evaluation mode."""
    paths = {node.meta["path"] for node in evaluation.graph.nodes}
    shared = {path: rows for path, rows in tensors.items() if path in paths}
    pairs = zip(
        *(prefix_of(network, static, shared, probed.writers)(images) for network in (training, evaluation)), strict=True
    )
    return {path for path, (trained, evaluated) in zip(shared, pairs, strict=True) if not close(evaluated, trained)}


def prefix_of(
    network: fx.GraphModule, static: set[str], tensors: dict[str, PerImage], writers: set[str]
) -> fx.GraphModule:
    """Images to the crossing tensors: contiguous in their own order of dimensions, the first of length n.

    Parameters
    ----------
    network
        A graph of `trace`, with which the prefix shares its parameters and buffers.
    static
        The paths of nodes that may be in the prefix.
    tensors
        The paths of the crossing tensors, in order, and how each is kept.
    writers
        The paths of static nodes that are in it, read or not.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        if node.meta.get("path") in static:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    crossing = {node.meta["path"]: copy for node, copy in copies.items()}
    outputs = []
    for path, rows in tensors.items():
        value = graph.call_method("permute", (crossing[path], rows.order)) if rows.permuted else crossing[path]
        value = graph.call_method("contiguous", (value,))
        outputs.append(graph.call_method("unflatten", (value, 0, (-1, rows.each))) if rows.each > 1 else value)
    graph.output(tuple(outputs))
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and node.meta.get("path") not in writers:
            graph.erase_node(node)
    return fx.GraphModule(network, graph)


def _suffix(
    network: fx.GraphModule,
    static: set[str],
    tensors: dict[str, PerImage],
    probed: Observed,
    inputs: tuple[Tensor, ...],
) -> fx.GraphModule:
    """The crossing tensors to the network's output; those of the sample `inputs` that it would write to are copied."""
    suffix = _rest(network, static, tensors, probed, copied=set())
    samples = [value.clone() for value in inputs]
    suffix(*samples)
    written = {path for path, sample in zip(tensors, samples, strict=True) if sample._version > 0}
    return _rest(network, static, tensors, probed, copied=written) if written else suffix


def _rest(
    network: fx.GraphModule, static: set[str], tensors: dict[str, PerImage], probed: Observed, copied: set[str]
) -> fx.GraphModule:
    """All nodes that are not static, read or not, since they may draw random numbers or update statistics."""
    graph = fx.Graph()
    handed = handed_over(graph, tensors, copied)
    images = graph.call_method("size", (next(iter(graph.nodes)), 0))
    copies: dict[fx.Node, fx.Node] = {}

    def literal(value: Any) -> Any:
        if isinstance(value, Multiple):
            return graph.call_function(operator.mul, (images, value.times))
        if isinstance(value, Tensor):
            name = f"constant_{len(graph.nodes)}"
            network.register_buffer(name, value, persistent=False)
            return graph.get_attr(name)
        return type(value)(map(literal, value)) if isinstance(value, (tuple, list)) else value

    def operand(node: fx.Node) -> Any:
        if node.meta["path"] in handed:
            return handed[node.meta["path"]]
        if node not in copies and node.meta["path"] in static and node.op != "get_attr":
            kept = probed.kept[node.meta["path"]]
            return literal(kept.value if isinstance(kept, Constant) else None)
        return copies[node] if node in copies else graph.node_copy(node)

    for node in network.graph.nodes:
        if node.meta["path"] not in static:
            copies[node] = graph.node_copy(node, operand)
    if not images.users:
        graph.erase_node(images)
    return fx.GraphModule(network, graph)


def handed_over(graph: fx.Graph, tensors: dict[str, PerImage], copied: set[str]) -> dict[str, fx.Node]:
    """Give an empty graph an input for each crossing tensor.

    Parameters
    ----------
    graph
        Changed in place.
    tensors
        The paths of the crossing tensors, in order, and how each is kept.
    copied
        The paths of those that are copied first, since the graph writes to them.

    Returns
    -------
    dict
        By path, the node whose value is as it was before it was kept.
    """
    placeholders = [graph.placeholder(f"input_{index}") for index in range(len(tensors))]
    handed: dict[str, fx.Node] = {}
    for value, (path, rows) in zip(placeholders, tensors.items(), strict=True):
        if path in copied:
            value = graph.call_method("clone", (value,))
        if rows.each > 1:
            value = graph.call_method("flatten", (value, 0, 1))
        handed[path] = graph.call_method("permute", (value, rows.inverse)) if rows.permuted else value
    return handed


def key_of_graph(prefix: fx.GraphModule) -> str:
    """A digest of a graph: for each node what it does, with which settings, on the outputs of which nodes."""
    digest = hashlib.blake2b(digest_size=16)
    numbers = {node: f"%{number}" for number, node in enumerate(prefix.graph.nodes)}
    for node in prefix.graph.nodes:
        target = node.target if isinstance(node.target, str) else torch.typename(node.target)
        operands = fx.node.map_arg((node.args, node.kwargs), numbers.__getitem__)
        digest.update(f"{node.op} {target} {operands}\n".encode())
        if node.op == "call_module":
            for name, module in prefix.get_submodule(str(node.target)).named_modules():
                digest.update(f"{name} {torch.typename(module)} {_settings(module)}\n".encode())
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """The plain values among a module's attributes."""
    plain = (*LITERALS, tuple, list)
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith("_") and name != "training"
    )


def _seeded(network: Any, *inputs: Tensor) -> Any:
    torch.manual_seed(0)
    return network(*inputs)
