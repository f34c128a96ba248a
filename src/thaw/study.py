"""A study, top to bottom: source, pixels, splits, activations, search, training, scores, report."""

import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from thaw.arm import run_arm
from thaw.audit.audit import Audit, audit, with_worth
from thaw.audit.label_errors import cached_label_errors
from thaw.audit.leak import cached_leak_estimate
from thaw.compute.device import choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset, preprocessing_of
from thaw.data.source import read_source
from thaw.data.splits import group_codes, used_splits
from thaw.progress import Clock, say
from thaw.recipe import Recipe
from thaw.report.card import complete_bundles
from thaw.report.page import write_report
from thaw.run.folder import finish_run, open_run, work_folder
from thaw.run.gallery import show
from thaw.run.live import begin_arm, end_arm, follow
from thaw.run.summary import TestOutputs
from thaw.training.features import Features, extract_features
from thaw.training.prepare import Kept, make_plan, notes, order_arms, planned_bytes
from thaw.training.probes import catch_up


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
    tested: list[TestOutputs] = []
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
        features = extract_features(dataset, recipe, compute, kept)
    with clock("suspects"):
        groups = group_codes(dataset.source, recipe.data)
        suspects = cached_label_errors(features, dataset.source.labels, groups, dataset.splits)
    with clock("audit"):
        checked = weigh_leak(audited, features, dataset)
    say_findings(checked["findings"][len(audited.found["findings"]) :])
    with clock("heat maps"):
        shown = show(run, work_folder(run, dataset, recipe, compute), recipe, tested, suspects, dataset, compute)
    seconds = clock.seconds()
    found = finish_run(run, recipe, dataset, results, tested, suspects, shown, checked, compute, seconds, command)
    complete_bundles(run, found)
    write_report(run)
    return found


def weigh_leak(audited: Audit, features: Features, dataset: Dataset) -> dict[str, Any]:
    """The audit with what leaked images are worth, where there are enough of them for a probe to tell."""
    if not audited.leaks:
        return audited.found
    worth = cached_leak_estimate(features, dataset.source.labels, dataset.splits, audited.clusters)
    return with_worth(audited.found, worth)


def check_source(recipe: Recipe) -> dict[str, Any]:
    """The audit of a recipe's images and splits alone; nothing else is trained than the audit's probe."""
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, Clock())
    audited = audit(dataset, recipe.data)
    return (
        weigh_leak(audited, extract_features(dataset, recipe, compute, []), dataset) if audited.leaks else audited.found
    )


def say_findings(findings: list[dict[str, str]]) -> None:
    """One line for each error and warning of the audit."""
    for finding in findings:
        if finding["severity"] != "note":
            say(f"{finding['severity']}: {finding['what']}")


def plan_study(recipe: Recipe) -> tuple[dict[str, dict[str, Any]], int]:
    """What each arm would train, freeze and compute once, as the run notes it, and for how many images.

    No picture is decoded.
    """
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    source = read_source(recipe.data)
    size, seed = preprocessing_of(recipe).size, recipe.train.seeds[0]
    plans = {arm: make_plan(arm, seed, len(source.classes), size, recipe, compute.device) for arm in recipe.arms}
    noted = {arm: notes(plan, planned_bytes(plan, size, compute)) for arm, plan in plans.items()}
    return noted, len(used_splits(source, recipe.data))
