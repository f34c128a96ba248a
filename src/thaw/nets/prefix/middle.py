"""Split a suffix before its first trained layer: the part before it is frozen, but random (dropout)."""

from torch import fx, nn

from thaw.nets.prefix.trace import trains


def split_middle(suffix: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """Split a suffix in two, `trainable(*middle(*inputs))`, of which the middle reads no trainable parameter.

    The middle is what comes before the first trained operation in the order in which the network runs, so that random
    numbers are drawn in that order too.

    Returns
    -------
    middle
        The crossing tensors to what enters the trainable part, a tuple; None where that is nothing, or the suffix is
        not a graph.
    trainable
        From there to the logits (n, classes); the suffix itself where the middle is None.
    """
    if not isinstance(suffix, fx.GraphModule):
        return None, suffix
    nodes = list(suffix.graph.nodes)
    first = next((index for index, node in enumerate(nodes) if trains(suffix, node)), 0)
    before = [node for node in nodes[:first] if node.op not in ("placeholder", "get_attr")]
    if not any(node.op == "call_module" for node in before):
        return None, suffix
    early = set(nodes[:first])
    crossing = [
        node for node in nodes[:first] if node.op != "get_attr" and any(user not in early for user in node.users)
    ]
    middle, trainable = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:first]:
        copies[node] = middle.node_copy(node, copies.__getitem__)
    middle.output(tuple(copies[node] for node in crossing))
    copies = {node: trainable.placeholder(f"input_{index}") for index, node in enumerate(crossing)}

    def source(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter that was read before the cut
            copies[node] = trainable.node_copy(node)
        return copies[node]

    for node in nodes[first:]:
        copies[node] = trainable.node_copy(node, source)
    return fx.GraphModule(suffix, middle), fx.GraphModule(suffix, trainable)
