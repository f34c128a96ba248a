"""A finished run, read back for Python and shown in notebooks."""

import os
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thaw.bundle.load import load
from thaw.bundle.model import Bundle
from thaw.errors import StorageError
from thaw.recipe import Recipe, load_recipe
from thaw.run.metrics import ArmMetrics, Metrics, read_metrics
from thaw.text import SPACE, between, duration, escape_terminal, parameters

HEAD = ("accuracy", "95% interval", "F1", "trained", "time")
"""The columns of a run as it is shown, after its arms."""


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run."""

    folder: Path
    """The run folder."""
    recipe: Recipe
    """As it was run, every setting resolved."""
    metrics: Metrics
    """What `metrics.json` holds: every number."""

    @cached_property
    def predictions(self) -> pa.Table:
        """A row for each test image, arm and seed: `id`, `split`, `arm`, `seed`, `label`, `predicted`, `p_CLASS`...

        Raises
        ------
        StorageError
            `predictions.parquet` is missing or damaged.
        """
        file = self.folder / "predictions.parquet"
        try:
            return pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{file} cannot be read; run the study again.") from error

    @property
    def report(self) -> Path:
        """The path of the report, one HTML file."""
        return self.folder / "report.html"

    def bundle(self, arm: str | None = None) -> Bundle:
        """Load the trained model of an arm.

        Parameters
        ----------
        arm
            The arm's name; by default the recommended arm.

        Returns
        -------
        Bundle
            The model of the arm's first seed.

        Raises
        ------
        BundleError
            There is no such arm, or its bundle is damaged.
        """
        return load(self.folder / "models" / (arm or self.metrics.recommended))

    def __repr__(self) -> str:
        """A table that fits a screen, and the arm to use."""
        rows: list[tuple[str, ...]] = [("", *HEAD)]
        for arm, it in self.metrics.arms.items():
            rows.append((f"{'*' if arm == self.metrics.recommended else ' '} {arm}", *_cells(it)))
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = [
            "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells))
            for cells in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        own = self.metrics.arms[self.metrics.recommended]
        verdict = (
            f"Use {self.metrics.recommended}: accuracy {own.over_seeds.accuracy.mean:.4f} on "
            f"{self.metrics.splits['test']:,} test images (95% interval {between(own.intervals.accuracy)}), "
            f"{self.metrics.rule.partition(';')[0]}."
        )
        head = escape_terminal(f"{self.metrics.recipe}: {self.folder}")
        return "\n".join([head, *lines, verdict])

    def _repr_html_(self) -> str:
        rows = []
        for arm, it in self.metrics.arms.items():
            marks = [name for name in ("recommended", "best") if getattr(self.metrics, name) == arm]
            cells = (arm, *_cells(it), ", ".join(marks))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{name}</th>" for name in ("arm", *HEAD, ""))
        link = f'<a href="{escape(self.report.as_posix())}">report</a>'
        caption = f"{self.metrics.recipe}: {self.metrics.splits['test']:,} test images"
        return (
            f"<table><caption>{escape(caption)}, {link}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )


def _cells(arm: ArmMetrics) -> tuple[str, ...]:
    """What a table says of an arm, below HEAD."""
    return (
        f"{arm.over_seeds.accuracy.mean:.4f}",
        between(arm.intervals.accuracy),
        f"{arm.over_seeds.f1.mean:.4f}",
        parameters(arm.parameters.trainable).replace(SPACE, " "),
        duration(arm.seconds.total),
    )


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read the folder of a finished run, the one that `thaw study --out` names.

    Parameters
    ----------
    folder
        The run folder.

    Returns
    -------
    Run
        Its recipe and metrics; predictions and models are read when they are asked for.

    Raises
    ------
    StorageError
        There is no finished run of this format.
    RecipeError
        The run's `recipe.toml` is missing or damaged.
    """
    path = Path(folder)
    metrics = read_metrics(path)
    return Run(path, load_recipe(str(path / "recipe.toml")), metrics)
