"""A finished run, read back for Python and shown in notebooks."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thaw.bundle.load import Bundle, load
from thaw.errors import StorageError
from thaw.recipe import Recipe, load_recipe
from thaw.text import between, parameters


@dataclass(frozen=True)
class Run:
    """What a study left in its folder."""

    folder: Path
    recipe: Recipe
    """As it was run, every setting resolved."""
    metrics: dict[str, Any]
    """What `metrics.json` holds."""

    @cached_property
    def predictions(self) -> pa.Table:
        """A row for each test image, arm and seed: `id`, `split`, `arm`, `seed`, `label`, `predicted`, `p_CLASS`.

        Raises StorageError.
        """
        file = self.folder / "predictions.parquet"
        try:
            return pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{file} cannot be read; run the study again.") from error

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    def bundle(self, arm: str | None = None) -> Bundle:
        """The trained model of an arm, the recommended one unless named. Raises BundleError."""
        return load(self.folder / "models" / (arm or self.metrics["recommended"]))

    def _repr_html_(self) -> str:
        rows = []
        for arm, it in self.metrics["arms"].items():
            marks = [name for name in ("recommended", "best") if self.metrics[name] == arm]
            cells = (
                arm,
                f"{it['over_seeds']['accuracy']['mean']:.4f}",
                between(it["intervals"]["accuracy"]),
                f"{it['over_seeds']['f1']['mean']:.4f}",
                parameters(it["parameters"]["trainable"]),
                f"{it['seconds']['total']:.1f}",
                ", ".join(marks),
            )
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "".join(
            f"<th>{name}</th>" for name in ("arm", "accuracy", "95% interval", "F1", "trained", "seconds", "")
        )
        link = f'<a href="{escape(self.report.as_posix())}">report</a>'
        caption = f"{self.metrics['recipe']}: {self.metrics['splits']['test']:,} test images"
        return (
            f"<table><caption>{escape(caption)}, {link}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read the folder of a finished run. Raises StorageError where there is none."""
    path = Path(folder)
    try:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} holds no finished study; give the folder that `thaw study --out` named.") from error
    return Run(path, load_recipe(str(path / "recipe.toml")), metrics)
