"""`networks.json`: several networks on the same test images, their scores, their speed, and a verdict over all arms."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from thaw.bundle.load import load
from thaw.bundle.model import Bundle
from thaw.errors import DataError, StorageError
from thaw.images.preprocessing import sides
from thaw.recipe import Recipe
from thaw.record import Record
from thaw.run.compare import Answers, answers_of, codes_of
from thaw.run.metrics import Metrics, mean_fit_seconds, verdict_interval, verdict_of
from thaw.run.read import Run, read_run
from thaw.scoring.contributions import contributions
from thaw.scoring.statistics import Interval
from thaw.scoring.verdict import Verdict, judge
from thaw.versions import versions

FILE = "networks.json"
FORMAT: Literal[1] = 1
"""Changes when a key is renamed, removed or means something else."""
BATCH, TRIES = 32, 5
"""Images that are classified at once where time is measured, and how often; the fastest counts."""


class NetworkArm(Record):
    """An arm of a network."""

    score: float
    """The verdict's metric on the test images, the mean over the seeds; more is better."""
    interval: Interval
    """95% interval of the score."""
    seconds: float
    """Seconds of search and training, the mean over the seeds."""
    milliseconds: float
    """Milliseconds an image takes at inference on the machine of the study: from decoded pixels to logits, in batches
    of 32, the fastest of a few."""
    megabytes: float
    """Size of its bundle's weights, in millions of bytes."""


class NetworkResult(Record):
    """A network, and its arms."""

    backbone: str
    """Its name, such as `torchvision/mobilenet_v2`."""
    weights: str
    """Its pretrained weights, as `model.weights` writes them."""
    size: int | tuple[int, int]
    """Pixels of each side of the images that it sees, or height and width."""
    arms: dict[str, NetworkArm]
    """Each arm, in the order of its recipe."""


class Networks(Record):
    """What `networks.json` holds: every network of a study with `sweep.backbones`."""

    format: Literal[1]
    """The version of this format."""
    thaw: str
    """The version of thaw that wrote it."""
    recipe: str
    """The recipe's name."""
    command: str
    """What to type to run the study again; empty where it was started from Python."""
    test_images: int
    """Images of the test set, the same for all networks."""
    seeds: int
    """Seeds of every arm."""
    device: str
    """What the time at inference was measured on: `cpu`, `cuda` or `mps`."""
    networks: dict[str, NetworkResult]
    """Each network by the name of its run folder, in the order of the recipe."""
    best: str
    """The best arm of all, as `NETWORK/ARM`."""
    recommended: str
    """The arm to use, as `NETWORK/ARM`."""
    verdict: Verdict
    """How sure that is: of all arms of all networks, each as `NETWORK/ARM`, on the same test images."""

    def arm(self, key: str) -> tuple[NetworkResult, str, NetworkArm]:
        """Return the network of `NETWORK/ARM`, the arm's name, and the arm."""
        network, _, arm = key.partition("/")
        return self.networks[network], arm, self.networks[network].arms[arm]


def make_networks(
    recipe: Recipe, folders: Mapping[str, Path], groups: Mapping[str, int] | None, command: str
) -> Networks:
    """Judge the arms of several networks together, and measure how fast each is here.

    Parameters
    ----------
    recipe
        Of the whole study.
    folders
        The finished run of each network, by name.
    groups
        The group of each image by its id; None without a group column.
    command
        What to type to run the study again.

    Raises
    ------
    DataError
        The networks have different test images.
    StorageError
        A run is missing or damaged.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    answers = {name: answers_of(run) for name, run in runs.items()}
    first, metrics = next(iter(answers.values())), next(iter(runs.values())).metrics
    for name, own in answers.items():
        if (own.ids, own.labels) != (first.ids, first.labels):
            raise DataError(
                f"{name} has other test images than {next(iter(answers))}, so that they cannot be compared; see the "
                f"report of each in {folders[name].parent}."
            )
    codes = None if groups is None else np.unique([groups[one] for one in first.ids], return_inverse=True)[1]
    metric, labels = recipe.verdict.metric, codes_of(first.labels, metrics.classes)
    values = {
        f"{name}/{arm}": np.stack([contributions(metric, labels, logits) for logits in of_arm.values()])
        for name, own in answers.items()
        for arm, of_arm in own.logits.items()
    }
    costs = {f"{name}/{arm}": it.cost for name, run in runs.items() for arm, it in run.metrics.verdict.arms.items()}
    known = {key: cost for key, cost in costs.items() if cost is not None}
    commonest = contributions(metric, labels, _commonest(metrics, first))
    judged = judge(values, known or None, recipe.verdict.margin, commonest, codes)
    bundles = {name: _measured(recipe, run) for name, run in runs.items()}
    return Networks(
        format=FORMAT,
        thaw=versions("thaw-vision")["thaw-vision"],
        recipe=recipe.name,
        command=command,
        test_images=len(first.ids),
        seeds=len(recipe.train.seeds),
        device=next(iter(bundles.values()))[0],
        networks={
            name: NetworkResult(
                backbone=run.metrics.model.backbone,
                weights=run.metrics.model.weights,
                size=run.metrics.images.size,
                arms=bundles[name][1],
            )
            for name, run in runs.items()
        },
        best=judged.best,
        recommended=judged.recommended,
        verdict=verdict_of(recipe.verdict, judged, commonest),
    )


def read_networks(folder: Path) -> Networks:
    """Read the `networks.json` of a finished study of networks. Raises StorageError where there is none that fits."""
    path = folder / FILE
    try:
        return Networks.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise StorageError(f"{path} is missing or damaged; run the study again.") from error


def milliseconds_an_image(bundle: Bundle) -> float:
    """Measure how long an image takes from decoded pixels to logits, in batches, the fastest of a few."""
    size = sides(bundle.preprocessing.size)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *size, 3), np.uint8)
    bundle.logits(pixels)  # prepares the network
    spent = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        bundle.logits(pixels)
        spent.append(time.perf_counter() - begun)
    return 1000 * min(spent) / BATCH


def _measured(recipe: Recipe, run: Run) -> tuple[str, dict[str, NetworkArm]]:
    """The device that the models of a run are measured on, and each arm."""
    arms, device = {}, ""
    for arm, it in run.metrics.arms.items():
        folder = run.folder / "models" / arm
        bundle = load(folder, recipe.train.device, recipe.train.precision)
        device = bundle.compute.device.type
        arms[arm] = NetworkArm(
            score=run.metrics.verdict.arms[arm].score,
            interval=verdict_interval(run.metrics, arm),
            seconds=mean_fit_seconds([trial.seconds for trial in it.trials]),
            milliseconds=milliseconds_an_image(bundle),
            megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        )
    return device, arms


def _commonest(metrics: Metrics, answers: Answers) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What always answers the commonest class of the training images, (n, classes), as `metrics.json` reckons it."""
    counts = np.array([metrics.data.counts["train"][name] for name in metrics.classes])
    logits = np.asarray(np.log((counts + 1) / (counts.sum() + len(counts))), np.float32)
    return np.tile(logits, (len(answers.ids), 1))
