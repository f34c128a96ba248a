"""The pictures that the report shows, and on each of them the heat map of every arm."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.audit.label_errors import LabelErrors
from thaw.bundle.load import load
from thaw.cache.checkpoint import load_state, save_state
from thaw.compute.batches import Rows, consecutive
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.images.preprocessing import Normalise
from thaw.nets.heatmaps import heat_maps
from thaw.nets.layout import choose_layout, hold_frozen
from thaw.progress import stage
from thaw.recipe import Recipe
from thaw.run.summary import TestOutputs
from thaw.scoring.metrics import log_probabilities

GALLERY_IMAGES, LABEL_ERRORS = 2000, 200
"""At most so many test images in the gallery, and so many images among the suspects."""
MAPPED = 50
"""Suspects that have heat maps: the first, of which the report shows some."""
AT_ONCE = 64
"""Images whose heat maps are made together."""

Maps = NDArray[np.uint8]


@dataclass(frozen=True)
class Gallery:
    """What of a study's images is shown."""

    gallery: Rows
    """Places of test images, ascending."""
    suspects: Rows
    """Places among the suspects, the most suspect first."""
    heat: dict[str, dict[int, Maps]]
    """For each arm, by the row of the data set, a heat map (14, 14); none where the network gives none."""


def show(
    run: Path,
    work: Path,
    recipe: Recipe,
    tested: list[TestOutputs],
    suspects: LabelErrors,
    dataset: Dataset,
    compute: Compute,
) -> Gallery:
    """Choose the pictures and make their heat maps, by each arm's model as it was saved in `run`, of the first seed.

    An arm's maps are kept in `work`, where an earlier run of the same study finds them.
    """
    gallery, doubted = choose_gallery(dataset.source.labels[dataset.splits.test], tested), choose_label_errors(suspects)
    rows = np.union1d(dataset.splits.test[gallery], suspects.rows[doubted[:MAPPED]])
    seed = recipe.train.seeds[0]
    heat = {
        arm: _looked(run / "models" / arm, rows, work / f"{arm}-{seed}" / "looked.safetensors", dataset, compute)
        for arm in recipe.arms
    }
    return Gallery(gallery, doubted, heat)


def choose_gallery(labels: Rows, tested: list[TestOutputs]) -> Rows:
    """Places of the test images for the gallery, ascending: of too many, first those that some arm gets wrong.

    Mistakes, and right answers after them, come by how likely some arm holds the label, the least first: the surest
    mistakes before the less sure ones, close answers before the others. `labels` (n,).
    """
    own = [log_probabilities(one.logits)[np.arange(len(labels)), labels] for one in tested]
    right = np.all([one.logits.argmax(1) == labels for one in tested], axis=0)
    return np.sort(np.lexsort((np.min(own, axis=0), right))[:GALLERY_IMAGES])


def choose_label_errors(suspects: LabelErrors) -> Rows:
    """Places of the suspects to show: the first of those for which another class is likelier than the label."""
    return np.flatnonzero(suspects.p_suggested > suspects.p_label)[:LABEL_ERRORS]


def _looked(bundle: Path, rows: Rows, kept: Path, dataset: Dataset, compute: Compute) -> dict[int, Maps]:
    """The heat maps of a saved model on rows of the data set; those that an earlier run kept are not made again."""
    done = load_state(kept)
    if done is None or done[0]["rows"].tolist() != rows.tolist():
        maps = _maps(bundle, rows, dataset, compute)
        made = {"rows": torch.from_numpy(rows)} | ({} if maps is None else {"maps": torch.from_numpy(maps)})
        save_state(kept, made, {})
        done = made, {}
    tensors, _ = done
    return dict(zip(rows.tolist(), tensors["maps"].numpy(), strict=True)) if "maps" in tensors else {}


def _maps(bundle: Path, rows: Rows, dataset: Dataset, compute: Compute) -> Maps | None:
    found = load(bundle)
    normalise = Normalise(dataset.preprocessing).to(compute.device)
    model = hold_frozen(found.model.to(compute.device), compute)
    batches = consecutive(rows, AT_ONCE)
    trial = normalise(next(dataset.pixels.batches([rows[np.arange(AT_ONCE) % len(rows)]]))[0])

    def step() -> None:
        with torch.inference_mode(), compute.autocast():
            model(trial)

    what = f"heat maps of {found.config['backbone']}, {dataset.preprocessing.size} px"
    choose_layout(model, step, compute, what)
    with stage("heat maps", len(rows), "images") as advance:

        def images() -> Iterator[Tensor]:
            for (pixels,) in dataset.pixels.batches(batches):
                yield normalise(pixels)
                advance(len(pixels))

        with compute.autocast():
            return heat_maps(model, images())
