"""From a recipe to its images: read, decoded, split."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from thaw.cache.arrays import key_of
from thaw.compute.batches import Inputs, make_inputs
from thaw.compute.device import Compute
from thaw.data.copies import copy_clusters
from thaw.data.corrections import correct_labels
from thaw.data.dataset import Dataset
from thaw.data.depth import source_depth
from thaw.data.duplicates import cached_outlines
from thaw.data.limit import how_limited, limited
from thaw.data.pixels import make_pixels
from thaw.data.repeats import repeat_splits
from thaw.data.skipped import Skipped, check_bad
from thaw.data.source import Source, read_source
from thaw.data.splits import COPIES, make_splits, say_held_out, unused_splits, used_splits
from thaw.images.preprocessing import Preprocessing, choose_preprocessing
from thaw.nets.backbones import check_size, default_preprocessing
from thaw.progress import Clock, say
from thaw.recipe import Recipe, Settings
from thaw.recipes import embedded_weights


def load_dataset(recipe: Recipe, compute: Compute, clock: Clock, whole: Source | None = None) -> Dataset:
    """Source, pixels and splits. Bad images are gone before anything is drawn, so that no draw depends on them.

    Parameters
    ----------
    recipe
        Settled, see `settle`.
    compute
        The device.
    clock
        Times the pixels.
    whole
        The source, where it has been read already.
    """
    whole = read_source(recipe.data) if whole is None else whole
    preprocessing = preprocessing_of(recipe)
    used = used_splits(whole, recipe.data)
    say_held_out(whole, recipe.data)
    every = whole.take(used)
    source = limited(every, recipe.data)
    limit = how_limited(every, len(source.ids), recipe.data)
    depth, warnings = source_depth(source, preprocessing.depth)
    preprocessing = replace(preprocessing, depth=depth)
    source = replace(source, warnings=(*source.warnings, *warnings))
    with clock("pixels"):
        pixels = make_pixels(source, preprocessing, recipe.images.decode)
    good = np.array([row for row in range(len(source.ids)) if row not in pixels.bad], dtype=np.int64)
    source = source.take(good, [Skipped(str(source.ids[row]), why, True) for row, why in sorted(pixels.bad.items())])
    check_bad(source.skipped, len(good), recipe.data)
    key = key_of(pixels=pixels.key, good=good.tolist())
    inputs = make_inputs((pixels.array,), compute.device, good)
    if recipe.data.group == COPIES:
        source = _with_copies(source, inputs, key)
    splits = make_splits(source, recipe.data)  # by the labels as they were: corrections move no image to another split
    repeats = repeat_splits(source, recipe.data)
    source = correct_labels(source, recipe.data.labels)
    splits.how.update(unused_splits(whole, used) | limit)
    return Dataset(source, splits, inputs, pixels.headers[good], key, preprocessing, repeats=repeats)


def _with_copies(source: Source, pixels: Inputs, key: str) -> Source:
    """The source with a column that says which images are copies of each other, unless it has one of that name."""
    if COPIES in source.columns.column_names:
        say(f"data.group is the column {COPIES!r}; rename it to have copies found and kept together instead")
        return source
    clusters = copy_clusters(cached_outlines(pixels, key), source.digests, pixels.device)
    return replace(source, columns=source.columns.append_column(COPIES, pa.array(clusters)))


def preprocessing_of(settings: Settings) -> Preprocessing:
    """The backbone's own preprocessing with what the settings say laid over it.

    Raises ModelError where the backbone takes no images of that size.
    """
    default = default_preprocessing(settings.model.backbone, embedded_weights(settings.model.weights))
    chosen = choose_preprocessing(default, settings.images)
    check_size(settings.model.backbone, chosen.size)
    return chosen
