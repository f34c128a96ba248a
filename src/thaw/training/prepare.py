"""An arm's network made ready: built, frozen, split, its prefix run once over all images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.cache.arrays import CachedArrays
from thaw.compute.batches import Inputs, make_inputs, places_of, with_views
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.errors import ModelError
from thaw.images.preprocessing import Normalise, Size, describe_size, sides
from thaw.nets.adapters import add_adapters
from thaw.nets.backbones import build_backbone, native_size
from thaw.nets.decay import decayed_parameters, layer_decay_scales
from thaw.nets.freezing import ModuleRow, freeze, set_mode
from thaw.nets.heads import HeadForm, install_head
from thaw.nets.layout import choose_layout, hold_frozen
from thaw.nets.prefix.middle import split_middle
from thaw.nets.prefix.split import Split, split
from thaw.nets.prefix.trace import EvalNetwork, twin
from thaw.progress import say
from thaw.training.activations import Prefix, cached_activations, describe_prefix
from thaw.training.network import Network
from thaw.training.results import Frontier, NetworkFacts, Parameters
from thaw.training.specs import ArmSpec

LAYOUT_BATCH = 64
"""Images of the trial that chooses a memory layout, at most: no more than a batch of the arm's."""


@dataclass(frozen=True)
class BuiltNetwork:
    """An arm's network before any image went through it."""

    model: nn.Module
    head: str
    """The name of the head."""
    modules: list[ModuleRow]
    split: Split | None
    """None where the recipe switches the caches off."""
    prefix: Prefix | None
    """None where the network runs whole."""

    def facts(self, rows: int, channels_last: bool = False) -> NetworkFacts:
        """What is written down of it, where it is to train on so many images.

        Parameters
        ----------
        rows
            The images, once for each view of each, which tell whether the activations of its prefix fit in the cache.
        channels_last
            The memory layout that was chosen for its convolutions.
        """
        prefix = self.prefix
        nodes, bytes_per_image, saved, reason = list[str](), 0, 0.0, ""
        if self.split is None:
            reason = "the recipe switches caches off"
        elif prefix is None:
            reason = self.split.reason
        elif not prefix.fits(rows):
            reason = "its activations are larger than the cache may be"
        else:
            nodes, bytes_per_image = list(prefix.cut.frontier), prefix.bytes_per_view
            saved = prefix.cut.macs / self.split.total_macs
        return NetworkFacts(
            head=self.head,
            modules=self.modules,
            parameters=count_parameters(self.model),
            frontier=Frontier(nodes=nodes, bytes_per_image=bytes_per_image, fraction_saved=saved, reason=reason),
            channels_last=channels_last,
        )


def count_parameters(model: nn.Module) -> Parameters:
    """How many parameters a network has, and how many of them train."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Parameters(total=sum(p.numel() for p in parameters), trainable=trainable)


def check_batch(spec: ArmSpec, size: Size) -> None:
    """Raise ModelError if an arm trains on single images of a size and its batch normalisation cannot.

    It has no statistics of one value, which is what it sees where the map has shrunk to one pixel. Nothing is
    downloaded: the weights do not matter.
    """
    if spec.training.batch_size > 1:
        return
    with torch.random.fork_rng(devices=[]):
        model, head = build_backbone(spec.backbone, "random", 2, 0, spec.at, spec.grid)
        if spec.train == "lora":
            add_adapters(model, head, spec.rank, seed=0)
        freeze(model, head, spec.train, native_size(spec.backbone))
        set_mode(model, spec.frozen)
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, *sides(size)))
        except ValueError as error:  # torch's, of batch normalisation
            raise ModelError(
                f"arm {spec.name} trains batch normalisation, which has no statistics of the one value that an image "
                f"of {describe_size(size)} leaves it; set train.batch_size to 2 or more, or leave the arm out."
            ) from error


def check_head(model: nn.Module, head: str, size: Size, key: str) -> None:
    """Raise ModelError unless the head is a linear layer, with a bias, on a vector per image, and gives the logits.

    Parameters
    ----------
    model
        The network, which is not changed.
    head
        The name of its head.
    size
        What it sees.
    key
        The key of the recipe that asks for a fitted head.
    """
    network = twin(model).eval()
    module = network.get_submodule(head)
    seen: list[tuple[Tensor, Tensor]] = []
    module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    images = torch.rand(2, 3, *sides(size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images.to(next(network.parameters()).device))
    flat = isinstance(module, nn.Linear) and module.bias is not None and len(seen) == 1 and seen[0][0].dim() == 2
    if not flat or not torch.equal(seen[0][1], logits):
        raise ModelError(
            f"{key} needs a backbone that ends in one linear layer, and {head!r} is not one; leave {key} out or choose "
            "another backbone."
        )


def build_network(spec: ArmSpec, seed: int, classes: int, size: Size, compute: Compute) -> BuiltNetwork:
    """Build an arm's network for images of a size, freeze it and split it.

    Parameters
    ----------
    spec
        The arm.
    seed
        The seed of the new head, of adapters, and of random weights.
    classes
        The logits.
    size
        What the network sees.
    compute
        The device that it is moved to, and the precision.

    Raises
    ------
    ModelError
        The backbone or its weights cannot be used, a name to train matches nothing, the head would not train, or it is
        to be fitted and is not linear.
    """
    model, head = build_backbone(spec.backbone, spec.weights, classes, seed, spec.at, spec.grid)
    if spec.probe or spec.head != "trained":
        check_head(model, head, size, f"arms.{spec.name}.{'probe' if spec.probe else 'head'}")
    if spec.head in ("knn", "prototype"):
        install_head(model, head, HeadForm(kind=spec.head))
    if spec.train == "lora":
        add_adapters(model, head, spec.rank, seed)
    modules = freeze(model, head, spec.train, native_size(spec.backbone))
    if not any(parameter.requires_grad for parameter in model.get_submodule(head).parameters()):
        raise ModelError(
            f"arms.{spec.name}.train leaves the new head, {head!r}, at random numbers; add it to the names."
        )
    model.to(compute.device)
    set_mode(model, spec.frozen)
    if not spec.cached:
        return BuiltNetwork(model, head, modules, None, None)
    example = torch.rand(2, 3, *sides(size), generator=torch.Generator().manual_seed(0)).to(compute.device)
    parts = split(model, example)
    prefix = describe_prefix(parts, size, compute)
    if prefix and spec.head == "trained" and spec.training.mix != "none":
        raise ModelError(
            f"arm {spec.name} cannot mix images, since its first layers are computed once for each; set mix in "
            '[arms.NAME.training] of arms that train everything, or cache.activations = "off".'
        )
    return BuiltNetwork(model, head, modules, parts, prefix)


def prepare(spec: ArmSpec, seed: int, dataset: Dataset, compute: Compute, shorter: Iterable[Prefix] = ()) -> Network:
    """Make an arm's network and its inputs ready to train.

    Parameters
    ----------
    spec
        The arm.
    seed
        The seed of the new head, of adapters, and of random weights.
    dataset
        The images and classes.
    compute
        The device and precision.
    shorter
        Prefixes whose activations, where they are cached, spare computing what they hold; they change nothing.

    Returns
    -------
    Network
        Its inputs are the activations of its prefix, or pixels where it runs whole.

    Raises
    ------
    ModelError
        See `build_network`.
    StorageError
        The disk has no room for the activations.
    """
    size = dataset.preprocessing.size
    built = build_network(spec, seed, len(dataset.source.classes), size, compute)
    normalise = Normalise(dataset.preprocessing).to(compute.device)
    seen, preprocessing = dataset.seen(), dataset.preprocessing
    entries = _activations(built, spec, dataset, compute, shorter)
    middle: nn.Module | None
    if entries and built.split is not None and built.prefix is not None:
        (middle, trainable), evaluation = split_middle(built.split.suffix), built.split.evaluation
        own, key = make_inputs(entries[0].arrays, compute.device), built.prefix.key(seen[0], preprocessing, compute)
        others = [
            Inputs(entry.arrays, compute.device, places_of(view.rows, len(own)))
            for entry, view in zip(entries[1:], seen[1:], strict=True)
        ]
    else:
        middle, trainable = None, nn.Sequential(normalise, built.model)
        evaluation = nn.Sequential(normalise, EvalNetwork(twin(built.model)))
        own, key, others = dataset.pixels, dataset.key, [view.pixels for view in seen[1:]]
    inputs = with_views(own, others, dataset.drawn)
    parts = [trainable] if middle is None else [middle, trainable]
    channels_last = _lay_out(nn.ModuleList(parts), inputs, spec, compute, _what(spec, dataset))
    middle = None if middle is None else hold_frozen(middle, compute)
    trainable, evaluation = hold_frozen(trainable, compute), hold_frozen(evaluation, compute)
    rates = layer_decay_scales(built.model, built.head, spec.layer_decay, native_size(spec.backbone))
    trained = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
    scales = tuple(rates[parameter] for parameter in trained)
    decays = decayed_parameters(built.model)
    decayed = tuple(parameter in decays for parameter in trained)
    facts = built.facts(dataset.rows(), channels_last)
    return Network(built.model, middle, trainable, evaluation, inputs, key, scales, decayed, facts)


def _activations(
    built: BuiltNetwork, spec: ArmSpec, dataset: Dataset, compute: Compute, shorter: Iterable[Prefix]
) -> list[CachedArrays]:
    """The activations of a network's prefix for the images and each view of them; none where it runs whole."""
    if built.split is None or built.split.prefix is None or built.prefix is None:
        return []
    if not built.prefix.fits(dataset.rows()):
        say(f"arm {spec.name}: the activations would be larger than the cache may be; the network runs whole")
        return []
    network = normalised(built, dataset, compute)
    # also where they are cached: a study that goes on without its cache computes them in the layout that it noted
    _lay_out(nn.ModuleList([network]), dataset.pixels, spec, compute, f"prefix of {_what(spec, dataset)}")
    return [
        cached_activations(built.prefix, network, view, dataset.preprocessing, compute, shorter)
        for view in dataset.seen()
    ]


def normalised(built: BuiltNetwork, dataset: Dataset, compute: Compute) -> nn.Sequential:
    """A network's normalisation, then its prefix: from uint8 pixels to what is cached."""
    assert built.split is not None
    assert built.split.prefix is not None
    return nn.Sequential(Normalise(dataset.preprocessing).to(compute.device), built.split.prefix)


def _what(spec: ArmSpec, dataset: Dataset) -> str:
    cut = f" to {spec.at}" if spec.at else ""
    return f"{spec.backbone}{cut}, {describe_size(dataset.preprocessing.size)}, {spec.train}"


def _lay_out(parts: nn.ModuleList, inputs: Inputs, spec: ArmSpec, compute: Compute, what: str) -> bool:
    """Choose the memory layout of parts that run one after the other by a trial; weights and statistics stay.

    Returns whether it is channels last.
    """
    batch = min(LAYOUT_BATCH, spec.training.batch_size)
    tensors = next(inputs.batches([np.arange(batch) % len(inputs)]))
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
