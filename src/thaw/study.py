"""A study, top to bottom: source, pixels, splits, activations, search, training, scores, report."""

import importlib.metadata
import os
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.arm import run_arm
from thaw.bundle.card import complete_bundles
from thaw.checkpoint import remember
from thaw.compute import Compute, choose_compute
from thaw.data.audit import Audit, audit, with_worth
from thaw.data.batches import make_inputs
from thaw.data.dataset import Dataset
from thaw.data.skipped import Skipped, check_bad
from thaw.data.source import read_source
from thaw.data.splits import group_codes, make_splits, used_splits
from thaw.eviction import cache_folder
from thaw.images.pixels import make_pixels
from thaw.images.preprocessing import Preprocessing, choose_preprocessing
from thaw.live import begin_arm, end_arm, follow
from thaw.nets.backbones import default_preprocessing
from thaw.progress import Clock, say
from thaw.recipe import Recipe
from thaw.recipes import embedded_weights
from thaw.report.page import write_report
from thaw.run import finish_run, open_run, work_folder
from thaw.scoring.leak import leak_worth
from thaw.scoring.summary import Tested
from thaw.scoring.suspects import Suspects, out_of_fold, rank
from thaw.shown import show
from thaw.store import Field, Made, cached, key_of
from thaw.training.describe import Features, describe
from thaw.training.prepare import Kept, make_plan, notes, order_arms
from thaw.training.probe import catch_up


def run_study(recipe: Recipe, out: str | os.PathLike[str], command: str = "") -> dict[str, Any]:
    """Run a whole study into the folder `out`; returns what its `metrics.json` holds.

    `command` is what to type to run it again, for the report. Raises ThawError for anything that a person can put
    right.
    """
    with open_run(Path(out), recipe) as run, follow(run, recipe):
        return fill_run(run, recipe, command)


def fill_run(run: Path, recipe: Recipe, command: str) -> dict[str, Any]:
    """The stages of a study, in order, into its open run folder."""
    clock = Clock()
    compute = replace(choose_compute(recipe.train.device, recipe.train.precision), layouts=run / "work" / "layouts")
    dataset = load_dataset(recipe, compute, clock)
    with clock("audit"):
        audited = audit(dataset, recipe.data)
    say_findings(audited.found["findings"])
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}
    tested: list[Tested] = []
    behind: list[tuple[str, int]] = []
    kept: list[Kept] = []
    for arm, seed in product(order_arms(recipe, len(dataset.source.classes)), recipe.train.seeds):
        say(f"arm {arm}, seed {seed}")
        begin_arm(arm, seed)
        result, answers = run_arm(arm, seed, dataset, recipe, compute, behind, kept, clock, run)
        end_arm(result)
        results[arm].append(result)
        tested.append(answers)
    tested.sort(key=lambda one: list(recipe.arms).index(one.arm))
    while behind:
        catch_up(*behind.pop(0), dataset, recipe, compute, kept)
    with clock("features"):
        features = describe(dataset, recipe, compute, kept)
    with clock("suspects"):
        suspects = check_labels(features, dataset, recipe)
    with clock("audit"):
        checked = weigh_leak(audited, features, dataset)
    say_findings(checked["findings"][len(audited.found["findings"]) :])
    with clock("heat maps"):
        shown = show(run, work_folder(run, dataset, compute), recipe, tested, suspects, dataset, compute)
    seconds = clock.seconds()
    found = finish_run(run, recipe, dataset, results, tested, suspects, shown, checked, compute, seconds, command)
    complete_bundles(run, found)
    write_report(run)
    return found


def load_dataset(recipe: Recipe, compute: Compute, clock: Clock) -> Dataset:
    """Source, pixels and splits. Bad pictures are gone before anything is drawn, so that no draw depends on them."""
    source = read_source(recipe.data)
    source = source.take(used_splits(source, recipe.data))
    preprocessing = preprocessing_of(recipe)
    with clock("pixels"):
        pixels = make_pixels(source, preprocessing, recipe.images.decode)
    good = np.array([row for row in range(len(source.ids)) if row not in pixels.bad], dtype=np.int64)
    source = source.take(good, [Skipped(str(source.ids[row]), why, True) for row, why in sorted(pixels.bad.items())])
    check_bad(source.skipped, len(good), recipe.data)
    splits = make_splits(source, recipe.data)
    key = key_of(pixels=pixels.key, good=good.tolist())
    inputs = make_inputs((pixels.array,), compute.device, good)
    return Dataset(source, splits, inputs, pixels.headers[good], key, preprocessing)


def weigh_leak(audited: Audit, features: Features, dataset: Dataset) -> dict[str, Any]:
    """The audit with what leaked images are worth, where there are enough of them for a probe to tell."""
    if not audited.leaks:
        return audited.found
    labels, splits, clusters = dataset.source.labels, dataset.splits, audited.clusters

    def worth() -> dict[str, Any] | None:
        found = leak_worth(features.values, labels, splits, clusters)
        return None if found is None else asdict(found)

    key = _probing(features, labels, clusters, *splits.rows().values())
    return with_worth(audited.found, remember(cache_folder() / "worth", key, worth))


def check_source(recipe: Recipe) -> dict[str, Any]:
    """The audit of a recipe's images and splits alone; nothing else is trained than the audit's probe."""
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, Clock())
    audited = audit(dataset, recipe.data)
    return weigh_leak(audited, describe(dataset, recipe, compute, []), dataset) if audited.leaks else audited.found


def say_findings(findings: list[dict[str, str]]) -> None:
    """One line for each error and warning of the audit."""
    for finding in findings:
        if finding["severity"] != "note":
            say(f"{finding['severity']}: {finding['what']}")


def check_labels(features: Features, dataset: Dataset, recipe: Recipe) -> Suspects:
    """The images whose labels the others contradict, as the pretrained backbone describes them."""
    splits, groups, labels = dataset.splits, group_codes(dataset.source, recipe.data), dataset.source.labels
    pool = np.union1d(splits.train, splits.validation)

    def make(_: int) -> Made:
        yield (out_of_fold(features.values, labels, groups, pool, splits.test),), {}

    key, fields = _probing(features, labels, groups, pool, splits.test), [Field((int(labels.max()) + 1,), "float64")]
    return rank(cached("suspects", key, len(labels), fields, make).arrays[0], labels, groups is not None)


def _probing(features: Features, *given: NDArray[np.int64] | None) -> str:
    """A key of what probes of these features find: everything but them is in `given`."""
    versions = {name: importlib.metadata.version(name) for name in ("thaw-vision", "scikit-learn")}
    lists = [None if rows is None else rows.tolist() for rows in given]
    return key_of(features=features.key, given=lists, versions=versions)


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
