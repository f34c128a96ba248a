"""A study, top to bottom: source, pixels, splits, activations, search, training, scores, report."""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thaw.bundle.card import complete_bundles
from thaw.bundle.save import save_bundle
from thaw.checkpoint import load_state, save_state
from thaw.compute import Compute, choose_compute
from thaw.data.batches import make_inputs
from thaw.data.dataset import Dataset
from thaw.data.source import Skipped, read_source
from thaw.data.splits import make_splits, used_splits
from thaw.errors import DivergedError
from thaw.images.pixels import make_pixels
from thaw.images.preprocessing import Preprocessing, choose_preprocessing
from thaw.live import begin_arm, end_arm, follow
from thaw.nets.backbones import default_preprocessing
from thaw.nets.lora import merge
from thaw.progress import Clock, say
from thaw.recipe import Recipe
from thaw.recipes import embedded_weights
from thaw.report.page import write_report
from thaw.run import Tested, finish_run, open_run, work_folder
from thaw.scoring.metrics import metrics
from thaw.store import key_of
from thaw.training.final import train
from thaw.training.network import test
from thaw.training.prepare import Kept, make_plan, notes, order_arms, prepare
from thaw.training.probe import probe_head
from thaw.training.search import search


def run_study(recipe: Recipe, out: Path, command: str = "") -> dict[str, Any]:
    """Run a whole study into the folder `out`; returns what its `metrics.json` holds.

    `command` is what to type to run it again, for the report. Raises ThawError for anything that a person can put
    right.
    """
    run = open_run(out, recipe)
    with follow(run, recipe):
        return fill_run(run, recipe, command)


def fill_run(run: Path, recipe: Recipe, command: str) -> dict[str, Any]:
    """The stages of a study, in order, into its open run folder."""
    clock = Clock()
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, clock)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}
    tested: list[Tested] = []
    kept: list[Kept] = []
    for arm, seed in product(order_arms(recipe, len(dataset.source.classes)), recipe.train.seeds):
        say(f"arm {arm}, seed {seed}")
        begin_arm(arm, seed)
        result, logits = run_arm(arm, seed, dataset, recipe, compute, kept, clock, run)
        end_arm(result)
        results[arm].append(result)
        tested.append(Tested(arm, seed, logits))
    tested.sort(key=lambda one: list(recipe.arms).index(one.arm))
    found = finish_run(run, recipe, dataset, results, tested, compute, clock.seconds(), command)
    complete_bundles(run, found)
    write_report(run)
    return found


def load_dataset(recipe: Recipe, compute: Compute, clock: Clock) -> Dataset:
    """Source, pixels and splits."""
    source = read_source(recipe.data)
    source = source.take(used_splits(source, recipe.data))
    preprocessing = preprocessing_of(recipe)
    with clock("pixels"):
        pixels = make_pixels(source, preprocessing, recipe.images.decode)
    good = np.array([row for row in range(len(source.ids)) if row not in pixels.bad])
    source = source.take(good, [Skipped(str(source.ids[row]), why) for row, why in sorted(pixels.bad.items())])
    splits = make_splits(source, recipe.data)
    key = key_of(pixels=pixels.key, good=good.tolist())
    return Dataset(source, splits, make_inputs((pixels.array,), compute.device, good), key, preprocessing)


def run_arm(
    arm: str,
    seed: int,
    dataset: Dataset,
    recipe: Recipe,
    compute: Compute,
    kept: list[Kept],
    clock: Clock,
    run: Path,
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Search, final training and the one look at the test set; returns what is noted, and the test logits.

    What an earlier run of the same study finished, in whole or in part, is found in `run` and not done again.
    """
    splits, labels = dataset.splits, dataset.labels(compute.device)
    work = work_folder(run, dataset, compute) / f"{arm}-{seed}"
    if done := load_state(work / "done.safetensors"):
        return done[1], done[0]["logits"].numpy()
    own = Clock()
    with clock("activations"), own("prepare"):
        network, noted = prepare(arm, seed, dataset, recipe, compute, kept)
    try:
        if recipe.arms[arm].probe:
            with own("probe"):
                noted["probe"] = probe_head(network, arm, seed, dataset, recipe, compute, kept, work / "probe")
        with own("search"):
            found = search(network, labels, splits, recipe, seed, compute, work)
        with own("train"):
            trained = train(network, found.learning_rate, labels, splits, recipe, seed, compute, work)
    except DivergedError as error:
        if compute.precision == "fp32":
            raise
        say(f"arm {arm}: {error.args[0].rstrip('.')}; it is trained again in fp32")
        return run_arm(arm, seed, dataset, recipe, replace(compute, precision="fp32"), [], clock, run)
    with own("test"):
        logits = test(network, splits.test, recipe, compute).numpy()
    merge(network.model)
    scores = metrics(dataset.source.labels[splits.test], logits)
    result = {
        "seed": seed,
        **asdict(found),
        **asdict(trained),
        "test": scores,
        **noted,
        "precision": compute.precision,
        "seconds": own.seconds(),
    }
    if seed == recipe.train.seeds[0]:
        save_bundle(run / "models" / arm, network.model, recipe, arm, dataset, scores)
    save_state(work / "done.safetensors", {"logits": torch.from_numpy(logits)}, result)
    (work / "epoch.safetensors").unlink(missing_ok=True)
    return result, logits


def plan_study(recipe: Recipe) -> tuple[dict[str, dict[str, Any]], int]:
    """What each arm would train, freeze and compute once, as the run notes it, and for how many images.

    No picture is decoded.
    """
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    source = read_source(recipe.data)
    size, seed = preprocessing_of(recipe).size, recipe.train.seeds[0]
    plans = {arm: make_plan(arm, seed, len(source.classes), size, recipe, compute.device) for arm in recipe.arms}
    noted = {
        arm: notes(plan, plan.parts is not None and plan.parts.prefix is not None, compute)
        for arm, plan in plans.items()
    }
    return noted, len(used_splits(source, recipe.data))


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """The backbone's own preprocessing with what the recipe says laid over it."""
    default = default_preprocessing(recipe.model.backbone, embedded_weights(recipe.model.weights))
    return choose_preprocessing(default, recipe.images)
