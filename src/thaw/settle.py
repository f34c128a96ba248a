"""What a recipe leaves to the images, settled by a look at them: one rule for `photos` and `thaw init`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thaw.audit.label_errors import out_of_fold
from thaw.cache.arrays import key_of
from thaw.compute.batches import make_inputs
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.limit import studied
from thaw.data.load import preprocessing_of
from thaw.data.pixels import make_pixels
from thaw.data.shapes import Shapes, look_at_shapes
from thaw.data.source import Source
from thaw.data.splits import Splits, before_copies, group_codes, make_splits
from thaw.nets.backbones import native_size
from thaw.progress import say
from thaw.recipe import Recipe, Section
from thaw.scoring.baselines import imbalance
from thaw.training.features import extract_features
from thaw.training.specs import feature_spec

SIZE, RESIZE = ("images", "size"), ("images", "resize")
BATCH_SIZE, EPOCHS, CLASS_WEIGHTS = ("train", "batch_size"), ("train", "epochs"), ("train", "class_weights")
SETTLED = (SIZE, RESIZE, BATCH_SIZE, EPOCHS, CLASS_WEIGHTS)
"""Tables and keys that may be `auto` until the images are looked at."""
STEPS_AN_EPOCH = 8
"""The batch is small enough for so many steps."""
SMALLEST, LARGEST = 16, 32
"""Images of a batch: fewer are too few for batch normalisation, and more make too few steps of few images."""
PASSES, FEW = 12, 320
"""Epochs for so many training images; for sixteen times as many, half as many epochs."""
ENLARGED = 0.86
"""Images whose shorter side is below this fraction of what the backbone was made for are small."""
ALL_SQUARE = 0.9
"""Of a source with as many square images as this, all count as square."""
PROBED = 1000
"""Images, at most, that the ways to resize are compared on."""
WAYS = ("squash", "crop", "letterbox")
FLOOR = 1e-6
"""Of a probability, so that one image does not decide."""
BEYOND_CHANCE = 1.645
"""Standard errors by which another way has to beat squash: 5%, one-sided."""


Key = tuple[str, str]
"""A table of a recipe, and a key of it."""


class Choice(NamedTuple):
    """The value of a key, and why."""

    value: int | str
    why: str


def settle(recipe: Recipe, source: Source, compute: Compute | None = None, told: bool = True) -> Recipe:
    """Settle every key that a recipe leaves to the images.

    Parameters
    ----------
    recipe
        Some of its keys may be `auto`.
    source
        Its images, undecoded.
    compute
        Where ways to resize are compared; None takes squash without looking.
    told
        Whether each choice is said.

    Returns
    -------
    Recipe
        The same without any `auto` but those of the device, precision and caches. Test labels have no say in it.

    Raises
    ------
    DataError
        The splits cannot be had, or no image can be opened.
    """
    values = recipe.model_dump()
    opened = [(table, key) for table, key in SETTLED if values[table][key] == "auto"]
    if not opened:
        return recipe
    source = studied(source, recipe.data)
    splits = make_splits(source, before_copies(source, recipe.data))
    counts = np.bincount(source.labels[splits.train], minlength=len(source.classes))
    shapes = look_at_shapes(source)
    choices = {
        **choose_training(source.classes, counts),
        SIZE: choose_size(shapes, native_size(recipe.model.backbone)),
    }
    settled = _with(recipe, {key: choice for key, choice in choices.items() if key in opened}, told)
    if RESIZE in opened:
        settled = _with(settled, {RESIZE: choose_resize(settled, source, splits, shapes, compute)}, told)
    return settled


def choose_training(classes: Sequence[str], counts: NDArray[np.int64]) -> dict[Key, Choice]:
    """Choose batches, epochs and class weights for so many training images: `counts` (classes,) of each class."""
    images = int(counts.sum())
    batch = 2 ** int(np.log2(np.clip(images / STEPS_AN_EPOCH, SMALLEST, LARGEST)))
    epochs = int(np.clip(round(PASSES * (FEW / max(images, 1)) ** 0.25), 3, 20))
    steps = -(-images // batch)
    rare = imbalance(classes, counts)
    return {
        BATCH_SIZE: Choice(batch, f"{images:,} images to train on are {steps:,} steps an epoch"),
        EPOCHS: Choice(epochs, f"{epochs * steps:,} steps; more may help where curves still rise"),
        CLASS_WEIGHTS: (
            Choice("balanced", f"{rare}: errors on the rare class weigh as much in all")
            if rare
            else Choice("none", "no class is rare")
        ),
    }


def choose_size(shapes: Shapes, native: int) -> Choice:
    """Choose the size of what the network sees: what the backbone was made for, or less where the images are small."""
    side = shapes.shorter_side
    if side >= ENLARGED * native:
        return Choice(native, "what the backbone was pretrained at")
    return Choice(max(32, 32 * round(side / 32)), "the images are small, and a larger size adds work")


def choose_resize(
    recipe: Recipe, source: Source, splits: Splits, shapes: Shapes, compute: Compute | None = None
) -> Choice:
    """Choose how images are resized: squash, unless a probe on the frozen network does better with another way.

    The probe is the cross-validated logistic regression that also looks for label errors; ways are compared by its
    log loss on the same training and validation images, groups left out whole.

    Parameters
    ----------
    recipe
        Settled but for `images.resize`.
    source
        The images.
    splits
        Of which the test set is left alone.
    shapes
        Of the images; nothing is compared where these are square.
    compute
        Where; None compares nothing.
    """
    if shapes.squares >= ALL_SQUARE:
        return Choice("squash", f"{shapes.squares:.0%} of the images are square, so that nothing is distorted")
    if compute is None:
        return Choice("squash", "unless a probe of the images, before training, finds another way better")
    rows = np.union1d(splits.train, splits.validation)
    if len(rows) > PROBED:
        rows = np.sort(np.random.default_rng(recipe.data.seed).choice(rows, PROBED, replace=False))
    some = source.take(rows)
    squash, *others = (_probe_losses(_with(recipe, {RESIZE: Choice(way, "")}, False), some, compute) for way in WAYS)
    told = ", ".join(f"{way} {np.nanmean(loss):.3f}" for way, loss in zip(WAYS, (squash, *others), strict=True))
    groups = group_codes(some, before_copies(some, recipe.data))
    for way, losses in sorted(zip(WAYS[1:], others, strict=True), key=lambda one: np.nanmean(one[1])):
        if _beats(losses, squash, groups):
            return Choice(way, f"a probe's log loss is lower beyond chance: {told}")
    return Choice("squash", f"nothing is cut off, and a probe's log loss is not lower beyond chance otherwise: {told}")


def _with(recipe: Recipe, choices: dict[Key, Choice], told: bool) -> Recipe:
    """A recipe with values in place of some keys, which are told with their reasons."""
    tables: dict[str, Section] = {}
    for (table, key), choice in choices.items():
        if told:
            say(f"{table}.{key} = {choice.value}: {choice.why}")
        before = tables.get(table, getattr(recipe, table))
        tables[table] = before.model_copy(update={key: choice.value})
    return recipe.model_copy(update=tables)


def _probe_losses(recipe: Recipe, source: Source, compute: Compute) -> NDArray[np.float64]:
    """(images,) minus the logarithm of the probability of each image's label; NaN where there is none."""
    preprocessing = preprocessing_of(recipe)
    pixels = make_pixels(source, preprocessing, recipe.images.decode)
    good = np.array([row for row in range(len(source.ids)) if row not in pixels.bad], dtype=np.int64)
    losses, nothing = np.full(len(source.ids), np.nan), np.empty(0, np.int64)
    source = source.take(good)
    dataset = Dataset(
        source,
        Splits(np.arange(len(good)), nothing, nothing, {}),
        make_inputs((pixels.array,), compute.device, good),
        pixels.headers[good],
        key_of(pixels=pixels.key, good=good.tolist()),
        preprocessing,
    )
    features = extract_features(feature_spec(recipe), dataset, compute).values
    groups = group_codes(source, before_copies(source, recipe.data))
    for rows, p in out_of_fold(features, source.labels, groups, dataset.splits.train, nothing):
        losses[good[rows]] = -np.log(np.maximum(p[np.arange(len(rows)), source.labels[rows]], FLOOR))
    return losses


def _beats(losses: NDArray[np.float64], others: NDArray[np.float64], groups: NDArray[np.int64] | None) -> bool:
    """Whether losses are lower on the same images than others beyond chance, images of a group counted together."""
    gain = others - losses
    known = np.isfinite(gain)
    cluster = np.arange(len(gain)) if groups is None else groups
    deviations = np.bincount(cluster[known], gain[known] - gain[known].mean())
    return bool(gain[known].sum() > BEYOND_CHANCE * np.sqrt((deviations**2).sum()))
