"""Repeats: every arm again on other draws of the split, from the same pixels and activations."""

from collections.abc import Sequence
from dataclasses import replace

from thaw.arm import run_trial
from thaw.data.dataset import Dataset
from thaw.data.repeats import pooled, repeat_seed
from thaw.data.splits import Splits
from thaw.data.views import Picture, add_views, view_rows
from thaw.plan import DONE, Plan, Study, Trial
from thaw.progress import say
from thaw.recipe import Recipe
from thaw.training.results import TrialResult


def with_repeats(plan: Plan, recipe: Recipe, splits: Splits, repeats: Sequence[Splits]) -> Plan:
    """Add the trials of the repeats to a plan: of each arm one a repeat, on all training images.

    Each has another seed too, derived from the recipe's first, so that what differs between repeats is what differs
    between two studies.

    Parameters
    ----------
    plan
        Of the study itself, the first of the repeats.
    recipe
        Its seeds and views.
    splits
        Of the study.
    repeats
        The other draws, see `data.repeats.repeat_splits`.
    """
    first = recipe.train.seeds[0]
    once = [trial for trial in plan.trials if trial.seed == first and trial.fraction == 1]
    numbers = range(1, len(repeats) + 1)
    trials = [
        trial.model_copy(update={"repeat": number, "seed": repeat_seed(first, number), "saved": False})
        for number in numbers
        for trial in once
    ]
    own = [rows.tolist() for rows in view_rows(recipe.augment, splits)]
    shared = [rows.tolist() for rows in view_rows(recipe.augment, pooled(splits, tuple(repeats)))] if trials else []
    further = sum(len(rows) for rows in shared if rows not in own)
    return plan.model_copy(update={"repeated": trials, "repeat_views": further})


def repeated(study: Study, number: int) -> Study:
    """Return a study on another draw of its splits, without further test sets; 0 is the study's own draw."""
    if number == 0:
        return study
    dataset = replace(study.dataset, splits=study.dataset.repeats[number - 1], repeats=())
    return replace(study, dataset=dataset, shifted=())


def with_pooled_views(study: Study, picture: Picture) -> Study:
    """Return a study whose views serve all its repeats: of every image that any draw may train on.

    Parameters
    ----------
    study
        With its own views, which depend on its draw.
    picture
        See `data.views.add_views`.
    """
    dataset: Dataset = study.dataset
    if not dataset.repeats or not dataset.views:
        return study
    every = replace(dataset, splits=pooled(dataset.splits, dataset.repeats))
    views = add_views(every, study.recipe.augment, picture)
    return replace(study, dataset=replace(views, splits=dataset.splits))


def run_repeat(study: Study, trial: Trial) -> TrialResult:
    """Run a trial of a repeat, see `run_trial`; it has a work folder of its own, and leaves no model.

    Parameters
    ----------
    study
        See `with_pooled_views`.
    trial
        Its `repeat` says on which draw.
    """
    say(f"draw {trial.repeat + 1} of {len(study.dataset.repeats) + 1}: arm {trial.spec.name}")
    return run_trial(repeated(study, trial.repeat), trial)


def unfinished_repeats(study: Study, plan: Plan) -> Plan:
    """Return the plan without the trials of repeats that an earlier run of the study finished."""
    left = [one for one in plan.repeated if not (repeated(study, one.repeat).work / one.name / DONE).exists()]
    return plan.model_copy(update={"repeated": left})
