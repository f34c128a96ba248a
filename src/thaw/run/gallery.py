"""The images that the report shows, and the heat map of every arm on each of them."""

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
from thaw.images.preprocessing import Normalise, describe_size
from thaw.nets.heatmaps import heat_maps
from thaw.nets.layout import choose_layout, hold_frozen
from thaw.progress import stage
from thaw.run.results import StudyResult
from thaw.scoring.metrics import log_probabilities_of
from thaw.training.results import TrialResult

GALLERY_IMAGES, LABEL_ERRORS = 2000, 200
"""The most test images in the gallery, and images among the label errors."""
MAPPED = 50
"""Label errors that have heat maps: the first, of which the report shows some."""
AT_ONCE = 64
"""Images whose heat maps are made together."""

Maps = NDArray[np.uint8]


@dataclass(frozen=True)
class Gallery:
    """The images of a study that are shown."""

    test: Rows
    """Places of test images, ascending."""
    label_errors: Rows
    """Places among the label errors, the most probable errors first."""
    heat: dict[str, dict[int, Maps]]
    """For each arm, by the row of the data set, a heat map (14, 14); none where the network gives none."""


def make_gallery(run: Path, work: Path, result: StudyResult) -> Gallery:
    """Choose the images and make their heat maps with each arm's model of the first seed, as saved in `run`.

    An arm's maps are saved in `work`, where a resumed study finds them.
    """
    recipe, dataset = result.recipe, result.dataset
    trials = [one for of_arm in result.trials().values() for one in of_arm]
    shown, errors = choose_images(result.test_labels(), trials), choose_label_errors(result.label_errors)
    rows = np.union1d(dataset.splits.test[shown], result.label_errors.rows[errors[:MAPPED]])
    seed = recipe.train.seeds[0]
    heat = {
        arm: _saved_maps(
            run / "models" / arm, rows, work / f"{arm}-{seed}" / "heat.safetensors", dataset, result.compute
        )
        for arm in recipe.arms
    }
    return Gallery(shown, errors, heat)


def choose_images(labels: Rows, results: list[TrialResult]) -> Rows:
    """Choose the test images for the gallery, as ascending places: of too many, first those that some trial gets wrong.

    Mistakes, and right answers after them, are ordered by the lowest probability that any trial gives to the label:
    the most confident mistakes before the others, close answers before clear ones. `labels` (n,).
    """
    own = [log_probabilities_of(one.logits, labels) for one in results]
    right = np.all([one.logits.argmax(1) == labels for one in results], axis=0)
    return np.sort(np.lexsort((np.min(own, axis=0), right))[:GALLERY_IMAGES])


def choose_label_errors(errors: LabelErrors) -> Rows:
    """Choose the label errors to show, as places: the first of those for which another class is more probable."""
    return np.flatnonzero(errors.p_suggested > errors.p_label)[:LABEL_ERRORS]


def _saved_maps(bundle: Path, rows: Rows, saved: Path, dataset: Dataset, compute: Compute) -> dict[int, Maps]:
    """The heat maps of a bundle on rows of the data set; those that a stopped study saved are not made again."""
    done = load_state(saved)
    if done is None or done[0]["rows"].tolist() != rows.tolist():
        maps = _maps(bundle, rows, dataset, compute)
        made = {"rows": torch.from_numpy(rows)} | ({} if maps is None else {"maps": torch.from_numpy(maps)})
        save_state(saved, made, {})
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

    what = f"heat maps of {found.config['backbone']}, {describe_size(dataset.preprocessing.size)}"
    choose_layout(model, step, compute, what)
    with stage("heat maps", len(rows), "images") as advance:

        def images() -> Iterator[Tensor]:
            for (pixels,) in dataset.pixels.batches(batches):
                yield normalise(pixels)
                advance(len(pixels))

        with compute.autocast():
            return heat_maps(model, images())
