"""An arm's network made ready: built, frozen, split, its prefix run once over all images."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from thaw.cache.arrays import Entry, key_of
from thaw.compute.batches import Inputs, make_inputs
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.errors import ModelError
from thaw.images.preprocessing import Normalise
from thaw.nets.adapters import adapt, merge
from thaw.nets.backbones import build_backbone, native_size
from thaw.nets.freezing import ModuleRow, freeze, set_mode
from thaw.nets.layout import choose_layout, hold_frozen
from thaw.nets.prefix.extend import extend
from thaw.nets.prefix.middle import split_middle
from thaw.nets.prefix.split import Split, split
from thaw.nets.prefix.trace import EvalNetwork, twin
from thaw.nets.stages import depth_scales
from thaw.recipe import Recipe
from thaw.recipes import embedded_weights
from thaw.training.activations import fingerprint, make_activations, run
from thaw.training.network import Network

TRIAL_BATCH = 64
"""Images of the trial that chooses a memory layout, at most: no more than a batch of the recipe's."""


@dataclass(frozen=True)
class Plan:
    """An arm's network before any image went through it."""

    model: nn.Module
    head: str
    """The name of the head."""
    modules: list[ModuleRow]
    parts: Split | None
    """None where the recipe switches the caches off."""


@dataclass(frozen=True)
class Kept:
    """Activations that an arm of this study has computed."""

    parts: Split
    values: str
    """A digest of the parameters and buffers of the prefix."""
    key: str
    """Stands for all that determined them, with the activations that they were computed from."""
    entry: Entry


def make_plan(arm: str, seed: int, classes: int, size: int, recipe: Recipe, device: torch.device) -> Plan:
    """Build an arm's network, freeze it and split it; `size` is the side of its input in pixels. Raises ModelError."""
    weights = embedded_weights(recipe.weights_of(arm))
    model, head = build_backbone(recipe.model.backbone, weights, classes, seed)
    modules = _freeze(model, head, arm, seed, recipe)
    model.to(device)
    if recipe.cache.activations == "off":
        set_mode(model, recipe.model.frozen)
        return Plan(model, head, modules, None)
    example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return Plan(model, head, modules, split(model, example, recipe.model.frozen))


def order_arms(recipe: Recipe, classes: int) -> list[str]:
    """The arms in the order to train them: those that train most first, since their prefixes are the shortest.

    Every network is built and frozen once, so that what is wrong with any arm shows before one is trained. Raises
    ModelError.
    """
    trained: dict[str, int] = {}
    for weights in {recipe.weights_of(arm) for arm in recipe.arms}:
        model, head = build_backbone(recipe.model.backbone, embedded_weights(weights), classes, seed=0)
        for arm in recipe.arms:
            if recipe.weights_of(arm) == weights:
                rows = _freeze(model, head, arm, 0, recipe)
                merge(model)
                trained[arm] = sum(row.parameters for row in rows if row.trained)
    return sorted(recipe.arms, key=lambda arm: -trained[arm])


def _freeze(model: nn.Module, head: str, arm: str, seed: int, recipe: Recipe) -> list[ModuleRow]:
    """Freeze a network as its arm says, after putting adapters into it where it wants them."""
    settings = recipe.arms[arm]
    if settings.train == "lora":
        adapt(model, head, settings.rank, seed)
    rows = freeze(model, head, settings.train, native_size(recipe.model.backbone))
    if not any(parameter.requires_grad for parameter in model.get_submodule(head).parameters()):
        raise ModelError(f"arms.{arm}.train leaves the new head, {head!r}, at random numbers; add it to the names.")
    return rows


def keep_activations(arm: str, seed: int, dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]) -> None:
    """Add to `kept` what `prepare` adds, for an arm that an earlier run has trained: those after it may start there."""
    plan = make_plan(arm, seed, len(dataset.source.classes), dataset.preprocessing.size, recipe, compute.device)
    if plan.parts is not None and plan.parts.prefix is not None:
        _activations(plan.parts, arm, dataset, recipe, compute, kept)


def prepare(
    arm: str, seed: int, dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]
) -> tuple[Network, dict[str, Any]]:
    """An arm's network and its inputs, ready to train; and what the run notes about it.

    `kept` are the activations of the arms before it, to which its own are added.
    """
    plan = make_plan(arm, seed, len(dataset.source.classes), dataset.preprocessing.size, recipe, compute.device)
    parts, normalise = plan.parts, Normalise(dataset.preprocessing).to(compute.device)
    entry = None
    if parts is not None and parts.prefix is not None:
        entry = _activations(parts, arm, dataset, recipe, compute, kept)
    trunk: nn.Module | None
    if parts is not None and entry is not None:
        (trunk, tail), scorer = split_middle(parts.suffix), parts.scorer
        inputs = make_inputs(entry.arrays, compute.device)
    else:
        trunk, tail = None, nn.Sequential(normalise, plan.model)
        scorer = nn.Sequential(normalise, EvalNetwork(twin(plan.model)))
        inputs = _views(dataset, recipe)
    trains = nn.ModuleList([tail] if trunk is None else [trunk, tail])
    channels_last = _lay_out(trains, inputs, recipe.train.batch_size, compute, _what(arm, dataset, recipe))
    trunk = None if trunk is None else hold_frozen(trunk, compute)
    tail, scorer = hold_frozen(tail, compute), hold_frozen(scorer, compute)
    rates = depth_scales(plan.model, plan.head, recipe.arms[arm].layer_decay, native_size(recipe.model.backbone))
    scales = tuple(rates[parameter] for parameter in tail.parameters() if parameter.requires_grad)
    network = Network(plan.model, trunk, tail, scorer, inputs, scales)
    each = 0 if entry is None else sum(array[0].nbytes for array in entry.arrays)
    return network, notes(plan, each) | {"channels_last": channels_last}


def _activations(
    parts: Split, arm: str, dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]
) -> Entry | None:
    """The prefix's output for every image, from the longest kept activations that lie on its way, else from pixels."""
    assert parts.prefix is not None
    prefix: nn.Module = nn.Sequential(Normalise(dataset.preprocessing).to(compute.device), parts.prefix)
    inputs, values, start = _views(dataset, recipe), fingerprint(parts.prefix), None
    views = len(inputs)
    for earlier in kept:
        if len(earlier.entry.arrays[0]) != views:
            continue
        if (earlier.parts.key, earlier.values) == (parts.key, values):
            return earlier.entry
        extension = extend(earlier.parts, parts)
        if extension and fingerprint(extension[0]) == earlier.values:
            prefix, inputs, start = extension[1], make_inputs(earlier.entry.arrays, compute.device), earlier.key
    what = f"prefix of {_what(arm, dataset, recipe)}"
    _lay_out(nn.ModuleList([prefix]), inputs, recipe.train.batch_size, compute, what)
    # from other activations the same values come out but for rounding
    given = {"pixels": dataset.key, "preprocessing": asdict(dataset.preprocessing), "views": views, "start": start}
    key = key_of(**given, computation=parts.key, values=values)
    entry = make_activations(prefix, inputs, key, compute)
    if entry is not None:
        kept.append(Kept(parts, values, key, entry))
    return entry


def _what(arm: str, dataset: Dataset, recipe: Recipe) -> str:
    return f"{recipe.model.backbone}, {dataset.preprocessing.size} px, {recipe.arms[arm].train}"


def _views(dataset: Dataset, recipe: Recipe) -> Inputs:
    """The pixels, with their mirror images behind them where the recipe trains on these."""
    return replace(dataset.pixels, mirrors=recipe.train.flips)


def _lay_out(parts: nn.ModuleList, inputs: Inputs, batch: int, compute: Compute, what: str) -> bool:
    """Choose the memory layout of parts that run one after the other by a trial; weights and statistics stay.

    Returns whether it is channels last. `batch` is how many images the memory is known to hold.
    """
    tensors = next(inputs.batches([np.arange(min(TRIAL_BATCH, batch)) % len(inputs)]))
    trained = [p for p in parts.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in parts.buffers()]

    def step() -> None:
        values: Any = tensors
        with torch.set_grad_enabled(bool(trained)), compute.autocast():
            for part in parts:
                values = part(*values)
        if trained:
            torch.autograd.backward(functional.log_softmax(values.float(), 1).mean())

    channels_last = choose_layout(parts, step, compute, what)
    for parameter in trained:
        parameter.grad = None
    for buffer, value in buffers:
        buffer.copy_(value)
    return channels_last


def planned_bytes(plan: Plan, size: int, compute: Compute) -> int:
    """What an arm would keep of every image of `size` pixels a side; 0 where it runs whole."""
    if plan.parts is None or plan.parts.prefix is None:
        return 0
    kept = run(plan.parts.prefix, (torch.zeros(2, 3, size, size, device=compute.device),), compute)
    return sum(array[0].nbytes for array in kept)


def notes(plan: Plan, each: int) -> dict[str, Any]:
    """What the run says of an arm's network: its modules, its parameters and what of it is computed once.

    `each` is how many bytes are kept of every image; 0 where the network runs whole.
    """
    parts, parameters = plan.parts, list(plan.model.parameters())
    frontier: dict[str, Any] = {"nodes": [], "bytes_per_image": 0, "share_saved": 0.0}
    if parts is not None and each:
        frontier = {
            "nodes": list(parts.frontier),
            "bytes_per_image": each,
            "share_saved": parts.prefix_macs / parts.total_macs,
        }
    return {
        "modules": [asdict(row) for row in plan.modules],
        "head": plan.head,
        "parameters": {
            "total": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "frontier": frontier | {"reason": _why_whole(parts, bool(each))},
    }


def _why_whole(parts: Split | None, cached: bool) -> str:
    if parts is None:
        return "the recipe switches caches off"
    return (
        "what would be kept is larger than the cache may be"
        if parts.prefix is not None and not cached
        else parts.reason
    )
