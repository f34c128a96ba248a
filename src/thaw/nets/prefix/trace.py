"""A network as a graph: symbolic tracing as deep as it goes, with a name that people recognise for every node."""

import copy
import math
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torchvision
from timm.layers import DropPath
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn

from thaw.nets.heads import NearestMeans, Neighbours


def trace(model: nn.Module) -> fx.GraphModule:
    """The network in its present mode as a graph from `images` to its output; shares parameters and buffers.

    Each node's `meta` says its `path` (the module it calls, or the enclosing module and the operation, numbered from
    the second on) and its `module` (the innermost module it belongs to). A submodule that tracing cannot follow, such
    as one whose control flow depends on values, becomes a single node. torch patches `nn.Module` meanwhile, so no other
    thread may run a network until it returns.

    Raises
    ------
    Exception
        Whatever the network's own `forward` raises when it cannot be followed.
    """
    # modules may keep what they computed while they were traced, so that copy is not the one that runs
    traced, network = twin(model), twin(model)
    tracer = _Tracer()
    # functions that are not followed are looked for beside the class; a network that is cut runs a base's forward
    bases = [kind.__module__ for kind in type(traced).__mro__[1:] if issubclass(kind, nn.Module)]
    tracer._autowrap_search += [sys.modules[name] for name in dict.fromkeys(bases) if not name.startswith("torch.nn")]
    graph = tracer.trace(traced)
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
            setattr(network, str(node.target), getattr(traced, str(node.target)))
    return fx.GraphModule(network, graph)


def twin(model: nn.Module) -> nn.Module:
    """A copy with modes of its own that shares every parameter and buffer."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


class EvalNetwork(nn.Module):
    """A network for good in evaluation mode, in which timm's attentions keep tables made of their parameters.

    Since those train meanwhile, every call starts from training mode, which drops the tables.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.network.train().eval()(*inputs)
        return logits


def trains(network: nn.Module, node: fx.Node) -> bool:
    """Whether a node reads a trainable parameter."""
    if node.op == "call_module":
        return any(parameter.requires_grad for parameter in network.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return bool(getattr(getattr(network.get_submodule(owner), name), "requires_grad", False))
    return False


class _Tracer(fx.Tracer):
    """Follows every module but torch's own, fitted heads, and those that timm marks, that draw, or that it cannot."""

    def __init__(self) -> None:
        wrapped: Any = (math, torchvision.ops)
        super().__init__(wrapped, tuple(get_notrace_functions()))
        self.leaves = (torchvision.ops.StochasticDepth, DropPath, NearestMeans, Neighbours, *get_notrace_modules())
        self.module = ""
        self.seen: Counter[str] = Counter()

    def create_args_for_root(self, root_fn: Callable[..., Any], *_: Any, **__: Any) -> tuple[Any, list[Any]]:
        """The images are the only input; other arguments keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        outer, self.module = self.module, self.path_of_module(m)
        before = len(self.graph.nodes)
        try:
            if not self.is_leaf_module(m, self.module):
                try:
                    return forward(*args, **kwargs)
                except Exception:
                    for node in list(self.graph.nodes)[: before - 1 : -1]:
                        self.graph.erase_node(node)
            return self.create_proxy("call_module", self.module, args, kwargs)
        finally:
            self.module = outer

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A node for each reading of a parameter: one that is kept could be among those erased."""
        return super().getattr(attr, attr_val, {})

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind in ("call_module", "get_attr"):
            path = str(target)
        else:
            operation = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
            path = f"{self.module}.{operation}".lstrip(".")
        repeats = self.seen[path]
        self.seen[path] += 1
        node.meta["path"] = f"{path}_{repeats}" if repeats else path
        node.meta["module"] = self.module
        return node
