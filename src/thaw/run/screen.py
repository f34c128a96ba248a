"""What a terminal shows of a running study: every trial with its numbers, the stage, and the time that is left."""

from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from thaw.recipe import Recipe, training_of
from thaw.text import count, duration, escape_terminal, rate, time_left

MARGIN = 6
"""Lines of a terminal that the table leaves to its heading, the stage and the prompt."""
FEWEST = 3
"""Trials that are shown in the lowest of terminals."""


class Row(NamedTuple):
    """A trial as it is shown."""

    trial: str
    state: str
    epoch: str = ""
    loss: str = ""
    validation: str = ""
    learning_rate: str = ""
    time: str = ""


def trial_rows(told: dict[str, Any], recipe: Recipe) -> list[Row]:
    """Return a row for each trial of a study, begun or not, arms and seeds in the order of the recipe.

    Parameters
    ----------
    told
        What `progress.json` holds.
    recipe
        The study's.
    """
    rows = []
    for arm, begun in told["arms"].items():
        known = {(trial["seed"], trial.get("fraction", 1.0)) for trial in begun}
        wanted = [(seed, fraction) for seed in recipe.train.seeds for fraction in reversed(recipe.sweep.labels)]
        waiting = [trial for trial in wanted if trial not in known]
        several = len(recipe.train.seeds) > 1
        epochs = training_of(recipe.arms[arm], recipe.train).epochs if arm in recipe.arms else 0
        shown = [(_name(arm, trial["seed"], trial.get("fraction", 1.0), several), trial) for trial in begun]
        rows += [_row(name, trial, told, epochs, recipe.search.metric) for name, trial in shown]
        rows += [Row(_name(arm, seed, fraction, several), "waiting") for seed, fraction in waiting]
    return rows


def screen(told: dict[str, Any], recipe: Recipe, height: int) -> RenderableType:
    """Draw the progress of a study.

    Parameters
    ----------
    told
        What `progress.json` holds.
    recipe
        The study's.
    height
        Lines of the terminal; where it has fewer than there are trials, those around the running one are shown.
    """
    rows = trial_rows(told, recipe)
    first, last = _window([row.state for row in rows], max(FEWEST, height - MARGIN))
    table = Table(*_columns(), box=None, header_style="bold", padding=(0, 1, 0, 0))
    if first:
        table.add_row(f"{first:,} more above", style="dim")
    for row in rows[first:last]:
        style = {"waiting": "dim", "done": ""}.get(row.state, "bold")
        table.add_row(*row, style=style)
    if last < len(rows):
        table.add_row(f"{len(rows) - last:,} more below", style="dim")
    return Group(Text(escape_terminal(heading(told)), style="bold"), table, _stage(told))


def heading(told: dict[str, Any]) -> str:
    """Say how far a study is: `photos: trial 3 of 8, 1 min 40 s left of the study`."""
    trials = told["trials"]
    number = min(trials["done"] + 1, trials["total"])
    if told["arm"] is None:
        place = count(trials["total"], "trial")
    elif trials["done"] == trials["total"]:
        place = f"{count(trials['total'], 'trial')} done"
    else:
        place = f"trial {number:,} of {trials['total']:,}"
    left = told["study_left"]
    if trials["done"] == trials["total"] or left is None:
        return f"{told['recipe']}: {place}, {time_left(told['seconds'])} so far"
    return f"{told['recipe']}: {place}, {time_left(left)} left of the study"


def trial_line(told: dict[str, Any], recipe: Recipe) -> str:
    """Say in a line what the trial that has just ended came to, where no table can be shown."""
    trial, trials = told["arms"][told["arm"]][-1], told["trials"]
    epochs = training_of(recipe.arms[told["arm"]], recipe.train).epochs
    row = _row("", trial, told, epochs, recipe.search.metric)
    parts = [f"arm {told['arm']}, seed {told['seed']}: done in {row.time}"]
    parts += [f"epoch {row.epoch}"] if row.epoch else []
    parts += [f"loss {row.loss}"] if row.loss else []
    parts += [f"validation {_metric(recipe)} {row.validation}"] if row.validation else []
    parts += [f"learning rate {row.learning_rate}"] if row.learning_rate else []
    left = told["study_left"]
    if left is not None and trials["done"] < trials["total"]:
        parts += [f"{time_left(left)} left of the study"]
    return ", ".join(parts)


def _columns() -> list[Column]:
    heads = ["trial", "state", "epoch", "loss", "validation", "learning rate", "time"]
    return [Column(head, justify="left" if place < 2 else "right", no_wrap=True) for place, head in enumerate(heads)]


def _metric(recipe: Recipe) -> str:
    return recipe.search.metric.replace("_", " ")


def _name(arm: str, seed: int, fraction: float, several: bool) -> str:
    share = "" if fraction == 1 else f", {fraction:g} of the labels"
    return f"{arm}, seed {seed}{share}" if several else f"{arm}{share}"


def _row(name: str, trial: dict[str, Any], told: dict[str, Any], epochs: int, metric: str) -> Row:
    """A trial that has begun. The loss is of training; the score of validation images, never of test ones."""
    done, passed, tried = trial["seconds"] is not None, trial["epochs"], trial["search"] + trial["fit"]
    state = "done" if done else str(told.get("stage", "preparing"))
    scores = [score for it in tried if (score := _score(it, metric)) is not None]
    validation = max(scores, default=None)
    chosen = trial.get("learning_rate")
    if passed and (last := passed[-1]["validation_score"]) is not None:
        validation = last
    if chosen is None and trial["search"]:
        chosen = trial["search"][-1]["learning_rate"]
    return Row(
        name,
        state,
        f"{len(passed)} of {epochs}" if passed or (state == "training" and not done) else "",
        f"{passed[-1]['loss']:.4f}" if passed else "",
        "" if validation is None else f"{validation:.4f}",
        "" if chosen is None else rate(chosen),
        duration(trial["seconds"]) if done else "",
    )


def _score(attempt: dict[str, Any], metric: str) -> float | None:
    """The validation score of an attempt; of a head that is fitted only the accuracy is known."""
    if (score := attempt.get("score")) is not None:
        return float(score)
    return float(attempt["accuracy"]) if metric == "accuracy" and not attempt.get("failed") else None


def _window(states: list[str], height: int) -> tuple[int, int]:
    """The first row that is shown, and the one after the last: all, or those around the first that is running."""
    if len(states) <= height:
        return 0, len(states)
    running = next((place for place, state in enumerate(states) if state not in ("done", "waiting")), None)
    if running is None:
        running = next((place for place, state in enumerate(states) if state == "waiting"), len(states) - 1)
    first = max(0, min(running - height // 2, len(states) - height))
    return first, first + height


def _stage(told: dict[str, Any]) -> RenderableType:
    """The running stage: its bar, how much of it is done, and the time that it still takes."""
    if "stage" not in told:
        return Text("")
    done, total, left = told["done"], told["total"], told["stage_left"]
    grid = Table.grid(padding=(0, 1))
    amount = f"{done:,} of {total:,} {told['unit']}" if total else f"{done:,} {told['unit']}" if done else ""
    ending = f"{time_left(left)} left" if left is not None and done < total else ""
    grid.add_row(told["stage"], ProgressBar(total=total, completed=done, width=30), amount, Text(ending, style="dim"))
    return grid
