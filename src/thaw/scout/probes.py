"""Which networks to look at, and linear probes of each at every depth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thaw.cache.arrays import key_of
from thaw.compute.batches import Inputs, Rows, make_inputs
from thaw.compute.device import Compute, choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset, preprocessing_of
from thaw.data.pixels import make_pixels
from thaw.data.source import Source, read_source
from thaw.data.splits import group_codes
from thaw.errors import ModelError
from thaw.images.preprocessing import Preprocessing
from thaw.nets.backbones import build_backbone, check_backbone, has_weights, native_size
from thaw.nets.usual import KNOWN, usual_weights
from thaw.progress import Clock, say
from thaw.recipe import Model, Recipe
from thaw.recipes import EMBEDDED_NAMES, embedded_weights
from thaw.scoring.statistics import Interval, difference_reach
from thaw.settle import settle
from thaw.training.depths import Labels, Probe, probe_depths

MOST = 2000
"""Images looked at, at most: an eigenvalue decomposition of so many rows takes two seconds on one core."""
WITHIN = 0.01
"""What is as good as the best: one point of accuracy less."""


@dataclass(frozen=True)
class Network:
    """A network that was looked at."""

    recipe: Recipe
    """With it as its network, and without `images.size` where it cannot take images of that size."""
    preprocessing: Preprocessing
    """How it saw the images."""
    probes: list[Probe]
    """One for each depth, the earliest first; the last is the whole network."""

    @property
    def backbone(self) -> str:
        """Its name."""
        return self.recipe.model.backbone

    @property
    def whole(self) -> Probe:
        """The probe of the features that enter the network's own head."""
        return self.probes[-1]


@dataclass(frozen=True)
class Scouted:
    """What was found."""

    networks: list[Network]
    missing: list[str]
    """Networks that were not tried, since their weights are not here."""
    images: int
    """Those that were looked at."""
    available: int
    """Those of train and validation."""
    groups: Rows | None
    """(images,) the group of each."""

    @property
    def tried(self) -> int:
        """How many places there were to choose from."""
        return sum(len(network.probes) for network in self.networks)

    @property
    def chosen(self) -> tuple[Network, Probe]:
        """The fastest of the places whose accuracy is within a point of the best."""
        pairs = [(network, probe) for network in self.networks for probe in network.probes]
        best = max(probe.accuracy for _, probe in pairs)
        good = [(network, probe) for network, probe in pairs if probe.accuracy >= best - WITHIN]
        return min(good, key=lambda pair: pair[1].milliseconds)

    def gain(self, probe: Probe, other: Probe) -> tuple[float, Interval]:
        """By how much one is more accurate than another on the same images, with its 95% interval."""
        first, second = (one.right[None].astype(np.float64) for one in (probe, other))
        difference, reach = probe.accuracy - other.accuracy, difference_reach(first, second, self.groups)
        return difference, (difference - reach, difference + reach)


def scout(recipe: Recipe, backbones: Sequence[str] | None = None) -> Scouted:
    """Probe networks at every depth, on training and validation images alone.

    Parameters
    ----------
    recipe
        The images, how they are split, and the network that is looked at first.
    backbones
        The networks to look at, whose weights are downloaded where they are not here. None tries the recipe's own and
        those of `KNOWN` whose weights are here.

    Raises
    ------
    ThawError
        The source, a network or its weights cannot be used.
    """
    sweep = recipe.sweep.model_copy(update={"backbones": None})  # what is written is a study of one network
    recipe = recipe.model_copy(update={"sweep": sweep})
    models, missing = _models(recipe, backbones)
    for model in models:
        check_backbone(model.backbone)
    source = read_source(recipe.data)
    recipes = [_sized(recipe.model_copy(update={"model": model}), source) for model in models]
    settled = [settle(of_one, source, told=False) for of_one in recipes]
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(settled[0], compute, Clock(), source)
    available = np.union1d(dataset.splits.train, dataset.splits.validation)
    rows = spread(dataset.source.labels, available, MOST)
    groups = group_codes(dataset.source, recipe.data)
    groups = None if groups is None else np.unique(groups[rows], return_inverse=True)[1]
    if groups is not None and groups.max() == 0:
        groups = None
    labels = Labels(dataset.source.labels[rows], len(dataset.source.classes), groups)
    networks = [
        replace(_look(own, dataset, rows, labels, compute), recipe=given)
        for own, given in zip(settled, recipes, strict=True)
    ]
    return Scouted(networks, missing, len(rows), len(available), groups)


def spread(labels: Rows, rows: Rows, most: int) -> Rows:
    """So many rows at most, ascending, drawn at random with each class in proportion."""
    if len(rows) <= most:
        return rows
    drawn = np.random.default_rng(0).permutation(rows)
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)])


def _models(recipe: Recipe, backbones: Sequence[str] | None) -> tuple[list[Model], list[str]]:
    """The networks to look at, and the names of those whose weights are not here."""
    own = recipe.model
    if backbones is not None:
        weights = {backbone: usual_weights(backbone) for backbone in dict.fromkeys(backbones)}
        weights |= {own.backbone: own.weights} if own.backbone in weights else {}
        return [own.model_copy(update={"backbone": name, "weights": value}) for name, value in weights.items()], []
    others = {name: weights for name, weights in KNOWN.items() if name != own.backbone}
    here = [name for name, weights in others.items() if weights in EMBEDDED_NAMES or has_weights(name, weights)]
    models = [own.model_copy(update={"backbone": name, "weights": others[name]}) for name in here]
    return [own, *models], [name for name in others if name not in here]


def _sized(recipe: Recipe, source: Source) -> Recipe:
    """The recipe, without its size of images where its network can only take images of its own."""
    backbone = recipe.model.backbone
    own = recipe.model_copy(update={"images": recipe.images.model_copy(update={"size": None})})
    try:
        preprocessing_of(settle(recipe, source, told=False))
    except ModelError:
        say(f"{backbone} cannot take images of that size, so it sees them at {native_size(backbone)} px")
        return own
    return recipe


def _look(recipe: Recipe, dataset: Dataset, rows: Rows, labels: Labels, compute: Compute) -> Network:
    """Probe the network of a recipe, which sees the images in its own way."""
    preprocessing = replace(preprocessing_of(recipe), depth=dataset.preprocessing.depth)
    model, backbone = recipe.model, recipe.model.backbone
    say(f"{backbone}, {len(rows):,} images")
    network, head = build_backbone(backbone, embedded_weights(model.weights), labels.classes, seed=0)
    images = _pixels(recipe, preprocessing, dataset, rows, compute)
    return Network(recipe, preprocessing, probe_depths(network, head, images, labels, preprocessing, compute))


def _pixels(
    recipe: Recipe, preprocessing: Preprocessing, dataset: Dataset, rows: Rows, compute: Compute
) -> tuple[Inputs, Rows, str]:
    """Pixels, the rows of them to look at, and a digest of both: those of the study where it sees the images alike."""
    if preprocessing == dataset.preprocessing:
        return dataset.pixels, rows, key_of(pixels=dataset.key, rows=rows.tolist())
    made = make_pixels(dataset.source.take(rows), preprocessing, recipe.images.decode)
    return make_inputs((made.array,), compute.device), np.arange(len(rows)), key_of(pixels=made.key)
