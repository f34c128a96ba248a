"""Several finished runs beside the first of them: scores, paired tests where they share test images, their recipes."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.errors import StorageError
from thaw.recipe import Metric
from thaw.record import Record
from thaw.run.folder import differences
from thaw.run.metrics import Metrics
from thaw.run.read import Run, read_run
from thaw.scoring.comparison import Comparison, compare
from thaw.scoring.contributions import contributions
from thaw.scoring.measure import measure
from thaw.scoring.statistics import holm

TINY = 1e-300
"""What a probability of 0 counts as where its logarithm is wanted."""


class RunScores(Record):
    """A run and its scores."""

    run: str
    """Its folder."""
    recommended: str
    """The arm to use."""
    test_images: int
    """Images of its test set."""
    scores: dict[str, float]
    """The metric of each arm on its own test images, the mean over its seeds; more is better."""


class Difference(Record):
    """An arm of the first run against one of a later run, on the same test images."""

    run: str
    """The later run."""
    base_arm: str
    """The arm of the first run."""
    arm: str
    """The arm of the later run: the one of the same name, or the one to use."""
    test: Comparison
    """The arm of the later run minus that of the first; `p_holm` is corrected for the number of all these tests."""


class RunsCompared(Record):
    """Runs compared with the first of them."""

    metric: Metric
    """The metric of the first run's verdict."""
    runs: list[RunScores]
    """The runs as they were given."""
    differences: list[Difference]
    """For each later run with the same test images, each pair of arms."""
    notes: list[str]
    """What to know before these are believed."""
    recipes: dict[str, list[Any]]
    """The keys by which the recipes differ, and the value in each run; None where it is not set."""

    def lost(self) -> float:
        """Return by how many points the arm to use of the first run is ahead of that of the worst later run.

        A point is a hundredth of the metric; less than 0 where all later runs are better.
        """
        first, *later = (one.scores[one.recommended] for one in self.runs)
        return round(100 * (first - min(later)), 9)


@dataclass(frozen=True)
class Answers:
    """What the arms of a run answered on its test images, in the order of their ids."""

    ids: list[str]
    labels: list[str]
    logits: dict[str, dict[int, NDArray[Any]]]
    """For each arm and seed (n, classes)."""


def compare_runs(folders: Sequence[Path]) -> RunsCompared:
    """Compare finished runs with the first of them.

    Parameters
    ----------
    folders
        Two run folders or more.

    Returns
    -------
    RunsCompared
        Scores of every arm, and tests of each arm against the one of the same name, and of the arm to use against the
        arm to use, where the test images and their labels are the same.

    Raises
    ------
    StorageError
        There are fewer than two folders, or one is no finished run.
    """
    if len(folders) < 2:
        raise StorageError("comparing takes two runs or more; give another run folder.")
    runs = [read_run(folder) for folder in folders]
    base, metric = runs[0], runs[0].metrics.verdict.metric
    answers = [answers_of(run) for run in runs]
    notes: list[str] = []
    pairs: list[tuple[Run, str, str]] = []
    tests: list[Comparison] = []
    for run, own in zip(runs[1:], answers[1:], strict=True):
        why = _unlike(answers[0], own, base.metrics, run.metrics)
        if why:
            notes.append(f"{run.folder}: {why}, so its scores stand beside those of {base.folder} without a test")
            continue
        if run.metrics.data.group or base.metrics.data.group:
            notes.append(f"{run.folder}: images of a group are alike, and these tests count each image as independent")
        for base_arm, arm in _pairs(base.metrics, run.metrics):
            first, second = answers[0].logits[base_arm], own.logits[arm]
            pairs.append((run, base_arm, arm))
            tests.append(_test(metric, answers[0].labels, first, second, base.metrics.classes))
    corrected = holm(np.array([test.p for test in tests], np.float64))
    recipes = [tomllib.loads((run.folder / "recipe.toml").read_text(encoding="utf-8")) for run in runs]
    return RunsCompared(
        metric=metric,
        runs=[
            RunScores(
                run=str(run.folder),
                recommended=run.metrics.recommended,
                test_images=run.metrics.splits["test"],
                scores={arm: _score(metric, of_arm, own, run.metrics) for arm, of_arm in own.logits.items()},
            )
            for run, own in zip(runs, answers, strict=True)
        ],
        differences=[
            Difference(
                run=str(run.folder),
                base_arm=base_arm,
                arm=arm,
                test=test.model_copy(update={"p_holm": float(p)}),
            )
            for (run, base_arm, arm), test, p in zip(pairs, tests, corrected, strict=True)
        ],
        notes=notes,
        recipes=differences(recipes),
    )


def answers_of(run: Run) -> Answers:
    """Return what `predictions.parquet` holds, sorted by the images' ids."""
    table = run.predictions
    columns = [f"p_{name}" for name in run.metrics.classes]
    arms, seeds = np.array(table["arm"].to_pylist()), table["seed"].to_numpy()
    ids, labels = np.array(table["id"].to_pylist(), object), np.array(table["label"].to_pylist(), object)
    logits = np.log(np.maximum(np.column_stack([table[name].to_numpy() for name in columns]), TINY))
    found: dict[str, dict[int, Any]] = {}
    order = np.empty(0, np.int64)
    for arm in run.metrics.arms:
        for seed in dict.fromkeys(seeds[arms == arm].tolist()):
            rows = np.flatnonzero((arms == arm) & (seeds == seed))
            order = rows[np.argsort(ids[rows].astype(str), kind="stable")]
            found.setdefault(arm, {})[seed] = logits[order]
    return Answers(ids=ids[order].tolist(), labels=labels[order].tolist(), logits=found)


def _unlike(first: Answers, second: Answers, base: Metrics, own: Metrics) -> str:
    """Why the answers of two runs cannot be paired; empty where they can."""
    if base.classes != own.classes:
        return "it has other classes"
    if first.ids != second.ids:
        shared = len(set(first.ids) & set(second.ids))
        return f"it has other test images ({shared:,} of its {len(second.ids):,} are in both)"
    return "" if first.labels == second.labels else "its test images have other labels"


def _pairs(base: Metrics, own: Metrics) -> list[tuple[str, str]]:
    """Which arms are compared: the ones to use, then those of the same name."""
    same = [(arm, arm) for arm in base.arms if arm in own.arms]
    return list(dict.fromkeys([(base.recommended, own.recommended), *same]))


def _test(
    metric: Metric,
    names: Sequence[str],
    first: Mapping[int, NDArray[Any]],
    second: Mapping[int, NDArray[Any]],
    classes: Sequence[str],
) -> Comparison:
    """The second minus the first: over the seeds that both have, else over the first seed of each."""
    labels = codes_of(names, classes)
    shared = [(seed, seed) for seed in first if seed in second] or [(next(iter(first)), next(iter(second)))]
    values = {
        "later": np.stack([contributions(metric, labels, second[seed]) for _, seed in shared]),
        "first": np.stack([contributions(metric, labels, first[seed]) for seed, _ in shared]),
    }
    return compare(values)[0]


def _score(metric: Metric, of_arm: Mapping[int, NDArray[Any]], own: Answers, metrics: Metrics) -> float:
    labels = codes_of(own.labels, metrics.classes)
    return float(np.mean([measure(metric, labels, one) for one in of_arm.values()]))


def codes_of(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the places of names among the classes, (n,)."""
    codes = {name: code for code, name in enumerate(classes)}
    return np.array([codes[name] for name in names], np.int64)
