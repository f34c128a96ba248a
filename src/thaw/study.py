"""A study, top to bottom: source, pixels, splits, audit, plan, trials, features, label errors, report."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from thaw.arm import Listeners, run_trial
from thaw.audit.audit import audit, with_leak
from thaw.audit.label_errors import cached_label_errors
from thaw.audit.results import Audit, Finding
from thaw.cache.budget import datasets_folder, making_for, using
from thaw.compute.device import choose_compute
from thaw.data.limit import studied
from thaw.data.load import load_dataset, preprocessing_of
from thaw.data.repeats import repeat_splits
from thaw.data.shifted import load_shifted
from thaw.data.source import Source, read_source
from thaw.data.splits import before_copies, group_codes, make_splits
from thaw.data.views import add_views, pictures_of, view_rows
from thaw.engine import here
from thaw.errors import RecipeError
from thaw.estimate import Estimate, Sizes, estimate
from thaw.plan import Plan, Study, check_batches, make_plan, plan_study, unfinished
from thaw.progress import Clock, say
from thaw.recipe import Recipe
from thaw.repeats import run_repeat, unfinished_repeats, with_pooled_views, with_repeats
from thaw.report.card import complete_bundles
from thaw.report.page import write_report
from thaw.run.doubt import check_decide
from thaw.run.folder import open_run
from thaw.run.gallery import make_gallery
from thaw.run.live import Live, follow
from thaw.run.metrics import Metrics, make_metrics
from thaw.run.results import StudyResult
from thaw.run.track import Tracking, tracking
from thaw.run.write import write_run
from thaw.settle import settle
from thaw.training.features import extract_features
from thaw.training.specs import feature_spec
from thaw.training.sweep import with_depths


def run_study(recipe: Recipe, out: str | os.PathLike[str], command: str = "", track: str | None = None) -> Metrics:
    """Run a whole study.

    Parameters
    ----------
    recipe
        What to do; see `load_recipe`.
    out
        The run folder. The same recipe goes on in it where an earlier run was stopped.
    command
        What to type to run the study again, for the report.
    track
        Where the trials are shown too, which changes no result: `tensorboard`, `mlflow`, `wandb` or `trackio`.

    Returns
    -------
    Metrics
        Every number of the study, as `metrics.json` holds it.

    Raises
    ------
    ThawError
        For anything that a person can fix.
    """
    if recipe.sweep.backbones:
        raise RecipeError("sweep.backbones is a study of several networks; use thaw.run_networks, or leave it out.")
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    with using(datasets_folder()), making_for(recipe.data.source, recipe.model.backbone):
        source = read_source(recipe.data)
        whole = with_depths(settle(recipe, source, compute))
        with (
            open_run(Path(out), whole) as folder,
            follow(folder, whole) as live,
            tracking(track, folder, whole) as tracked,
        ):
            return fill_run(folder, whole, source, command, live, tracked)


def fill_run(
    folder: Path, recipe: Recipe, source: Source, command: str, live: Live, tracked: Tracking | None = None
) -> Metrics:
    """Run the stages of a study, in order, into its open run folder.

    Parameters
    ----------
    folder
        The run folder, see `open_run`.
    recipe
        What to do, settled.
    source
        Its images.
    command
        What to type to run the study again, for the report.
    live
        Told of every trial, attempt and epoch, see `follow`.
    tracked
        Told of the same, see `tracking`.

    Raises
    ------
    ThawError
        For anything that a person can fix.
    """
    clock = Clock()
    compute = replace(choose_compute(recipe.train.device, recipe.train.precision), layouts=folder / "work" / "layouts")
    check_batches(recipe, preprocessing_of(recipe).size)
    dataset = load_dataset(recipe, compute, clock, source)
    check_decide(recipe.decide, dataset.source.classes)
    with clock("pixels"):
        shifted = load_shifted(recipe, dataset)
    with clock("audit"):
        audited = audit(dataset, recipe.data)
    say_findings(audited.record.findings)
    with clock("pixels"):
        picture = pictures_of(dataset.source, dataset.preprocessing, recipe.images.decode)
        dataset = add_views(dataset, recipe.augment, picture)
    study = Study(recipe, dataset, compute, folder, shifted)
    with clock("plan"):
        plan = with_repeats(plan_study(study), recipe, dataset.splits, dataset.repeats)
        left = unfinished_repeats(study, unfinished(study, plan))
        if left.trials or left.repeated:
            sizes = Sizes(*(len(rows) for rows in dataset.splits.rows().values()))
            say(estimate(left, sizes, recipe.augment, dataset.preprocessing.size, compute).told())
    live.expect({arm: 1 - facts.frontier.fraction_saved for arm, facts in plan.networks.items()})
    with clock("trials"):
        listener = Listeners([live, tracked] if tracked else [live])
        results = here.map(partial(run_trial, study, listener=listener), plan.trials)
    with clock("repeats"):
        several = with_pooled_views(study, picture)
        again = here.map(partial(run_repeat, several), plan.repeated)
    with clock("features"):
        features = extract_features(feature_spec(recipe), dataset, compute, plan.prefixes)
    with clock("label_errors"):
        groups = group_codes(dataset.source, recipe.data)
        label_errors = cached_label_errors(features, dataset.source.labels, groups, dataset.splits)
    with clock("audit"):
        checked = with_leak(audited, features, dataset)
    say_findings(checked.findings[len(audited.record.findings) :])
    found = StudyResult(
        recipe, dataset, compute, checked, label_errors, results, features.key, plan.thawed, shifted, again
    )
    with clock("heat_maps"):
        gallery = make_gallery(folder, study.work, found)
    metrics = make_metrics(found, clock.seconds(), command)
    write_run(folder, found, metrics, gallery)
    complete_bundles(folder, metrics)
    write_report(folder)
    return metrics


def check_source(recipe: Recipe) -> Audit:
    """Audit a recipe's images and splits; nothing else is trained than the audit's probe."""
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    with making_for(recipe.data.source, recipe.model.backbone):
        source = read_source(recipe.data)
        recipe = settle(recipe, source, told=False)
        dataset = load_dataset(recipe, compute, Clock(), source)
        audited = audit(dataset, recipe.data)
        if not audited.leaks:
            return audited.record
        return with_leak(audited, extract_features(feature_spec(recipe), dataset, compute), dataset)


def say_findings(findings: list[Finding]) -> None:
    """One line for each error and warning of the audit."""
    for finding in findings:
        if finding.severity != "note":
            say(f"{finding.severity}: {finding.what}")


def plan_recipe(recipe: Recipe) -> tuple[Plan, int, Estimate]:
    """Plan a study without decoding an image.

    Returns
    -------
    Plan
        What would be computed once, and the trials.
    int
        The images of all splits together.
    Estimate
        How long it would take.
    """
    source = read_source(recipe.data)
    recipe = with_depths(settle(recipe, source))
    size = preprocessing_of(recipe).size
    check_batches(recipe, size)
    kept = studied(source, recipe.data)
    splits = make_splits(kept, before_copies(kept, recipe.data))
    repeats = repeat_splits(kept, before_copies(kept, recipe.data))
    views = [len(rows) for rows in view_rows(recipe.augment, splits)]
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    plan = make_plan(recipe, len(source.classes), len(kept.ids), size, compute, views)
    plan = with_repeats(plan, recipe, splits, repeats)
    sizes = Sizes(*(len(rows) for rows in splits.rows().values()))
    return plan, len(kept.ids), estimate(plan, sizes, recipe.augment, size, compute)
