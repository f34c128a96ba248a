"""Choose the parameters that train, and put every layer into the mode that follows from it."""

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from thaw.errors import ModelError
from thaw.nets.adapters import adapter_parameters
from thaw.nets.prefix.trace import trace, trains
from thaw.nets.stages import blocks, is_normalisation, last_stage

BATCH_NORMALISATION = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class ModuleRow:
    """The parameters of one module that are all trained or all frozen."""

    module: str
    """Dotted name; empty for parameters of the network itself, such as a class token."""
    kind: str
    """The module's class."""
    parameters: int
    """The number of their values."""
    trained: bool


def freeze(model: nn.Module, head: str, train: str | list[str], size: int = 224) -> list[ModuleRow]:
    """Set `requires_grad` of every parameter.

    Parameters
    ----------
    model
        The network, which is changed.
    head
        The name of the module that computes the logits.
    train
        `all`; `head`; `last-stage` (see `stages.last_stage`); `norm` or `bias`, each with the head; `lora`, the
        adapters and the head; or names or globs of modules, with all they contain, or of single parameters.
    size
        Height and width of the network's images, needed for `last-stage`.

    Returns
    -------
    list of ModuleRow
        A row for each module that owns parameters, or two if only some of them train.

    Raises
    ------
    ModelError
        If a name or glob, or `train` as a whole, matches no parameter.
    """
    trained = _trained(model, head, train, size)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    rows = []
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        for is_trained in (False, True):
            count = sum(p.numel() for p in own if p.requires_grad == is_trained)
            if count:
                rows.append(ModuleRow(name, type(module).__name__, count, is_trained))
    return rows


def _trained(model: nn.Module, head: str, train: str | list[str], size: int) -> set[str]:
    """Return the names of the parameters that `train` selects."""
    own = {
        f"{name}.{parameter}".lstrip("."): module
        for name, module in model.named_modules()
        for parameter, _ in module.named_parameters(recurse=False)
    }
    if train == "norm":
        chosen = {name for name, module in own.items() if is_normalisation(module)}
        what = "normalisation layers with parameters"
    elif train == "bias":
        # attention layers call theirs in_proj_bias, q_bias or v_bias
        named = {name for name in own if f"_{name.rpartition('.')[2]}".endswith("_bias")}
        chosen = {name for name in named if not name.startswith(f"{head}.")}
        what = "biases before the head"
    elif train == "lora":
        chosen = adapter_parameters(model)
        what = "adapters"
    else:
        patterns = ["*"] if train == "all" else [train] if isinstance(train, str) else train
        if train == "head":
            patterns = [head]
        elif train == "last-stage":
            patterns = [head, *last_stage(blocks(model, head, size))]
        return {name for pattern in patterns for name in _matches(model, pattern)}
    if not chosen:
        raise ModelError(f"train = {train!r} finds no {what} in this backbone; use 'last-stage' or module names.")
    return chosen | set(_matches(model, head))


def set_mode(model: nn.Module, frozen: Literal["eval", "train"]) -> None:
    """Put each module of a network into the training or evaluation mode that follows from its frozen parameters.

    Batch normalisation is in training mode if its own parameters train, or, if it has none, any of its parent module;
    otherwise it uses its stored statistics.

    Parameters
    ----------
    model
        The network, after `freeze`; changed in place.
    frozen
        The mode of every other module whose output does not depend on a trained parameter: "eval" turns dropout and
        stochastic depth off there, "train" keeps them active.
    """
    model.train()
    if frozen == "eval":
        moving = _moving(model)
        for name, module in model.named_modules():
            module.training = name in moving
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMALISATION):
            owner = module if any(True for _ in module.parameters()) else model.get_submodule(name.rpartition(".")[0])
            module.training = any(p.requires_grad for p in owner.parameters())


def _matches(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the parameters that a pattern selects; raise ModelError if there are none."""
    parameters = [name for name, _ in model.named_parameters()]
    matched = [name for name in [*dict(model.named_modules()), *parameters] if name and fnmatchcase(name, pattern)]
    chosen = [name for name in parameters if any(f"{name}.".startswith(f"{above}.") for above in matched)]
    if not chosen:
        known = {name.rsplit(".", up)[0] for name in parameters for up in range(name.count(".") + 1)}
        near = difflib.get_close_matches(pattern, sorted(known), n=3, cutoff=0.5)
        owners = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        hint = f" (did you mean {' or '.join(near)}?)" if near else f"; its modules are {', '.join(owners)}"
        raise ModelError(f"train = {pattern!r} matches nothing with parameters in this backbone{hint}.")
    return chosen


def _moving(model: nn.Module) -> set[str]:
    """Return the names of the modules whose output depends on a trained parameter."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        return set(dict(model.named_modules()))
    try:
        network = trace(model)
    except Exception:  # from the network's own code: the order of registration stands in for that of the graph
        names = [name for name, _ in model.named_modules()]
        owners = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        moving = set(names[min(names.index(owner) for owner in owners) :])
    else:
        moving = set()
        reached = set()
        for node in network.graph.nodes:
            if trains(network, node) or any(source in reached for source in node.all_input_nodes):
                reached.add(node)
                moving.add(node.meta["module"])
                if node.op == "call_module":
                    inside = network.get_submodule(str(node.target)).named_modules(prefix=str(node.target))
                    moving.update(name for name, _ in inside)
    enclosing = {name.rsplit(".", up)[0] for name in moving for up in range(name.count(".") + 1)}
    return moving | enclosing | {""}
