"""What `thaw compare` prints."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from thaw.run.compare import Difference, RunsCompared
from thaw.run.metrics import METRICS
from thaw.scoring.comparison import ALPHA
from thaw.text import escape_line, escape_terminal, probability, short

LONGEST = 40
"""Characters of a value of a recipe that are shown."""


def print_comparison(compared: RunsCompared) -> None:
    """Print the scores of runs side by side, the tests, what differs in the recipes, and what that comes to."""
    runs = [one.run for one in compared.runs]
    console, names = Console(highlight=False), _names(runs)
    table = Table(box=None, header_style="bold", title=METRICS[compared.metric], title_justify="left")
    table.add_column("arm")
    for name in names:
        table.add_column(name, justify="right")
    for arm in dict.fromkeys(arm for one in compared.runs for arm in one.scores):
        cells = [_cell(one.scores.get(arm), arm == one.recommended) for one in compared.runs]
        table.add_row(arm, *cells)
    table.add_row("test images", *(f"{one.test_images:,}" for one in compared.runs), style="dim")
    console.print(table)
    console.print("* the arm to use", style="dim")
    for difference in compared.differences:
        click.echo(escape_terminal(difference_line(difference, dict(zip(runs, names, strict=True)))))
    for note in compared.notes:
        click.echo(escape_terminal(note))
    if compared.recipes:
        table = Table("recipe", *names, box=None, header_style="bold")
        for key, values in compared.recipes.items():
            table.add_row(key, *(escape_line(short(_value(value), LONGEST)) for value in values))
        console.print(table, markup=False)
    else:
        click.echo("The recipes are the same.")
    click.echo(summary(compared))


def difference_line(difference: Difference, names: dict[str, str]) -> str:
    """Say how far an arm of a later run is from one of the first, and whether that may be chance."""
    test = difference.test
    low, high = (f"{100 * end:+.1f}" for end in test.interval)
    arms = (
        difference.arm if difference.arm == difference.base_arm else f"{difference.arm} against {difference.base_arm}"
    )
    chance = "may be chance" if test.p_holm >= ALPHA else "is more than chance"
    return (
        f"{names[difference.run]}, {arms}: {100 * test.difference:+.1f} points (95% interval {low} to {high}), which "
        f"{chance} ({test.test}, corrected p = {probability(test.p_holm)})"
    )


def summary(compared: RunsCompared) -> str:
    """Say in a sentence how the worst later run's arm to use does against the first run's."""
    lost = compared.lost()
    if lost <= 0:
        ahead = f"the closest is {-lost:.1f} points ahead" if lost else "the closest is level with it"
        return f"No later run scores less than the first: {ahead}."
    return f"The arm to use loses {lost:.1f} points against the first run."


def _names(runs: list[str]) -> list[str]:
    """The last parts of the folders where they differ, else the whole."""
    last = [Path(run).name for run in runs]
    return last if len(set(last)) == len(last) else runs


def _cell(score: float | None, recommended: bool) -> str:
    return "" if score is None else f"{score:.4f}{'*' if recommended else ' '}"


def _value(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
