"""Several studies one after the other: for each value of a column, or for each network, with a verdict over all."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from thaw.cache.files import write_json
from thaw.data.source import read_source
from thaw.data.splits import DEFAULT_FRACTION, before_copies, group_codes
from thaw.errors import RecipeError
from thaw.nets.backbones import check_backbone
from thaw.nets.usual import usual_weights
from thaw.progress import say
from thaw.recipe import Recipe
from thaw.report.networks import write_networks_report
from thaw.run.folder import open_run
from thaw.run.metrics import Metrics
from thaw.run.networks import FILE, Networks, make_networks
from thaw.study import plan_recipe, run_study
from thaw.text import count, listed

MOST_LEFT_OUT = 30
"""Values of a column that are each left out in a study of its own, at most."""


def run_left_out(
    recipe: Recipe, column: str, out: str | os.PathLike[str], command: str = "", track: str | None = None
) -> dict[str, Metrics]:
    """Run a study for each value of a column, whose images are its test set: of a site, what arms do at a new one.

    Parameters
    ----------
    recipe
        What to do; validation is drawn from the other values' images.
    column
        Such as a site, a camera or a year; splits that the source brings are not used.
    out
        A folder for all of them; each has its run folder in it, in the order of the values.
    command, track
        As for `run_study`, of each.

    Returns
    -------
    dict
        The metrics of each value.

    Raises
    ------
    RecipeError
        There is no such column, or it does not have 2 to 30 values.
    ThawError
        For anything else that a person can fix, before the first study where it is the data.
    """
    columns = read_source(recipe.data.model_copy(update={"split": None})).columns
    if column not in columns.column_names:
        raise RecipeError(f"{recipe.data.source} has no column {column!r}; it has {listed(columns.column_names)}.")
    values = sorted({str(value) for value in columns.column(column).to_pylist() if value is not None})
    if not 2 <= len(values) <= MOST_LEFT_OUT:
        raise RecipeError(
            f"the column {column!r} of {recipe.data.source} has {count(len(values), 'value')}, and each is a study; "
            f"give one with 2 to {MOST_LEFT_OUT}."
        )
    drawn = None if isinstance(recipe.data.validation, str) else recipe.data.validation
    validation = DEFAULT_FRACTION if drawn is None else drawn
    studies, folders = {}, {}
    for place, value in enumerate(values, 1):
        data = recipe.data.model_copy(update={"split": column, "test": value, "validation": validation})
        studies[value] = recipe.model_copy(update={"name": f"{recipe.name}: {column} {value}", "data": data})
        folders[value] = Path(out) / f"{place:02d}-{_slug(value)}"
    return _run_each(studies, folders, command, track)


def run_networks(recipe: Recipe, out: str | os.PathLike[str], command: str = "", track: str | None = None) -> Networks:
    """Run a study for each network of `sweep.backbones`, and judge all their arms together.

    Parameters
    ----------
    recipe
        What to do.
    out
        The folder of it all: `networks.json`, `report.html`, and a run folder for each network in `networks`. The same
        recipe goes on in it where an earlier run was stopped.
    command, track
        As for `run_study`, of each.

    Returns
    -------
    Networks
        What `networks.json` holds.

    Raises
    ------
    ThawError
        For anything that a person can fix; what is wrong with a network or its weights, before anything is trained.
    """
    studies = network_studies(recipe)
    source = read_source(recipe.data)
    if before_copies(source, recipe.data) != recipe.data:
        raise RecipeError(
            f"data.group = {recipe.data.group!r} depends on the size at which a network sees the images, so that the "
            "networks of sweep.backbones would have other splits; name a column."
        )
    with open_run(Path(out), recipe) as folder:
        folders = {name: folder / "networks" / name for name in studies}
        _run_each(studies, folders, command, track)
        codes = group_codes(source, recipe.data)
        groups = None if codes is None else dict(zip(source.ids.tolist(), codes.tolist(), strict=True))
        found = make_networks(recipe, folders, groups, command)
        write_json(folder / FILE, found.model_dump(mode="json"))
        write_networks_report(folder)
    return found


def network_studies(recipe: Recipe) -> dict[str, Recipe]:
    """Return the study of each network of `sweep.backbones`, by the name of its folder.

    Raises RecipeError where two would have the same name, and ModelError where there is no such network.
    """
    studies: dict[str, Recipe] = {}
    for written in recipe.sweep.backbones or ():
        backbone, at, weights = written.partition("@")
        check_backbone(backbone)
        own = recipe.model.weights if backbone == recipe.model.backbone else usual_weights(backbone)
        name = _slug(f"{backbone}{at}{Path(weights).stem}")
        if name in studies:
            raise RecipeError(f"sweep.backbones names two networks that are both called {name}; rename their weights.")
        model = recipe.model.model_copy(update={"backbone": backbone, "weights": weights or own})
        sweep = recipe.sweep.model_copy(update={"backbones": None})
        studies[name] = recipe.model_copy(update={"name": f"{recipe.name}: {name}", "model": model, "sweep": sweep})
    return studies


def _run_each(
    studies: Mapping[str, Recipe], folders: Mapping[str, Path], command: str, track: str | None
) -> dict[str, Metrics]:
    """Run studies in turn, once all are planned: what is wrong with one is said before the first trains."""
    for recipe in studies.values():
        plan_recipe(recipe)
    found = {}
    for place, (name, recipe) in enumerate(studies.items(), 1):
        say(f"{recipe.name}, {place} of {len(studies)}")
        found[name] = run_study(recipe, folders[name], command, track)
    return found


def _slug(name: str) -> str:
    """A name as one plain word for a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-")
