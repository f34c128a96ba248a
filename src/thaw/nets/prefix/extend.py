"""A longer prefix from what a shorter one computes."""

from torch import fx

from thaw.nets.prefix.split import Cut, handed_over, key_of_graph, prefix_of


def extend(shorter: Cut, longer: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Split a prefix in two, `after(*before(images))`, of which `before` computes what a shorter one does.

    Whether the two also hold the same values is for the caller to compare.

    Parameters
    ----------
    shorter
        Where the prefix ends whose output there is.
    longer
        The prefix to split, as `split` made it; not changed.

    Returns
    -------
    tuple of GraphModule, or None
        `before` maps images to the shorter prefix's output, `after` that to the longer one's. None where the longer
        prefix does not contain the shorter one, or reads something of it that is not kept.
    """
    nodes = {node.meta["path"]: node for node in longer.graph.nodes if "path" in node.meta}
    if not nodes.keys() >= set(shorter.frontier):
        return None
    early = [nodes[path] for path in shorter.frontier]
    for node in early:
        early += [source for source in node.all_input_nodes if source not in early]
    tensors = dict(zip(shorter.frontier, shorter.layouts, strict=True))
    before = prefix_of(longer, {node.meta["path"] for node in early}, tensors, set())
    if key_of_graph(before) != shorter.graph:
        return None
    graph = fx.Graph()
    copies = {nodes[path]: value for path, value in handed_over(graph, tensors, set()).items()}
    for node in longer.graph.nodes:
        if node not in early:
            missing = [source for source in node.all_input_nodes if source not in copies]
            if node.op == "placeholder" or any(source.op != "get_attr" for source in missing):
                return None
            copies |= {source: graph.node_copy(source) for source in missing}
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return before, fx.GraphModule(longer, graph)
