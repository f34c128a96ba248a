"""What the commands print as tables."""

from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from thaw.cache.files import size
from thaw.progress import plain


def print_results(found: dict[str, Any]) -> None:
    """A row of scores for each arm of a finished study, and the recommended one."""
    seeds = max(len(result["runs"]) for result in found["arms"].values())
    means = f", the mean of {seeds} seeds; rate and seconds of the first" if seeds > 1 else ""
    title = Text(plain(f"{found['recipe']}: {found['splits']['test']:,} test images{means}"))
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in ("arm", "accuracy", "precision", "recall", "F1", "rate", "trained", "seconds"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm, result in found["arms"].items():
        scores = [f"{result['over_seeds'][name]['mean']:.4f}" for name in ("accuracy", "precision", "recall", "f1")]
        row = [arm, *scores, f"{result['learning_rate']:g}", f"{result['parameters']['trainable']:,}"]
        table.add_row(*row, f"{result['seconds']['total']:.1f}", style="bold" if arm == found["best"] else "")
    Console(highlight=False).print(table)
    click.echo(f"Recommended: {found['recommended']}, {found['rule']}")


def print_audit(found: dict[str, Any]) -> None:
    """What the audit found."""
    console = Console(highlight=False)
    splits = ", ".join(f"{count:,} {split}" for split, count in found["splits"].items())
    lines = [f"{found['images']:,} images: {splits}"]
    lines.append(", ".join(f"{count:,} {name!r}" for name, count in found["classes"].items()))
    if found["sizes"]:
        sides = {name: f"{width} x {height}" for name, (width, height) in found["sizes"].items()}
        lines.append("pixels: " + ", ".join(f"{size} {name}" for name, size in sides.items()))
    lines += [f"{one['severity']}: {one['what']}" for one in found["findings"]] or ["nothing is wrong or odd"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def print_plan(plan: dict[str, dict[str, Any]], images: int) -> None:
    """For each arm of a study of so many images: modules trained and frozen, and what is computed once."""
    console = Console(highlight=False)
    table = Table(Column("module", no_wrap=True), "kind", "parameters", *plan, box=None, header_style="bold")
    fates = {arm: {row["module"]: row["trained"] for row in notes["modules"]} for arm, notes in plan.items()}
    for row in next(iter(plan.values()))["modules"]:
        told = ["[bold]trained[/]" if fates[arm].get(row["module"]) else "frozen" for arm in plan]
        table.add_row(row["module"], row["kind"], f"{row['parameters']:,}", *told)
    console.print(table)
    for arm, notes in plan.items():
        parameters, frontier = notes["parameters"], notes["frontier"]
        lines = [f"{arm}: trains {parameters['trainable']:,} of {parameters['total']:,} parameters"]
        if frontier["nodes"]:
            each = frontier["bytes_per_image"]
            lines.append(f"computed once per image, up to {', '.join(frontier['nodes'])}")
            lines.append(f"kept: {size(each)} an image, {size(each * images)} for all {images:,}")
            lines.append(f"saves {frontier['share_saved']:.1%} of the arithmetic of each pass")
        else:
            lines.append(f"runs whole: {frontier['reason'] or 'nothing is frozen'}")
        console.print("\n  ".join(lines), markup=False, soft_wrap=True)
