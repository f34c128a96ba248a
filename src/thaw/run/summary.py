"""All that a study says of its arms on the test images, from what they answered."""

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.data.dataset import Dataset
from thaw.data.splits import group_codes
from thaw.recipe import Data, Recipe
from thaw.scoring.agreement import agree
from thaw.scoring.calibration import calibrate
from thaw.scoring.comparison import RULE, compare, prices, recommend, spent_on
from thaw.scoring.slices import Slices, cut_slices, score_slices
from thaw.scoring.statistics import score_intervals

SCORES = ("accuracy", "precision", "recall", "f1")
"""The scores that get an interval and a mean over the seeds."""


@dataclass(frozen=True)
class TestOutputs:
    """What one arm with one seed said of the test images."""

    arm: str
    seed: int
    logits: NDArray[np.float32]
    """(test images, classes)"""
    validation: NDArray[np.float32] | None = None
    """(validation images, classes); None where the final model trained on them, and for all seeds but the first."""


def summarise(
    recipe: Recipe,
    dataset: Dataset,
    slices: list[Slices],
    results: dict[str, list[dict[str, Any]]],
    tested: list[TestOutputs],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """For `metrics.json`: what is to be added to each arm, and to the study as a whole.

    `slices` of the test images; `results`: for each arm the notes of its run with each seed; `tested`: the same runs'
    answers, the seeds in order.
    """
    source, splits, arms = dataset.source, dataset.splits, list(results)
    labels, codes = source.labels[splits.test], group_codes(source, recipe.data)
    groups = None if codes is None else np.unique(codes[splits.test], return_inverse=True)[1]
    runs = {arm: [one for one in tested if one.arm == arm] for arm in arms}
    predicted = {arm: np.stack([one.logits.argmax(1) for one in of_arm]) for arm, of_arm in runs.items()}
    right = {arm: of_seeds == labels for arm, of_seeds in predicted.items()}
    of_arms: dict[str, dict[str, Any]] = {}
    for arm in arms:
        first = runs[arm][0]
        kept = None if first.validation is None else (source.labels[splits.validation], first.validation)
        of_arms[arm] = {
            "intervals": score_intervals(labels, predicted[arm], len(source.classes), groups),
            "over_seeds": {score: _over_seeds([one["test"][score] for one in results[arm]]) for score in SCORES},
            "calibration": calibrate(labels, first.logits, kept),
        }
    # of equally many right answers the same number, where the mean of the seeds' accuracies may round either way
    accuracy = {arm: float(right[arm].mean()) for arm in arms}
    for arm in arms:
        of_arms[arm]["over_seeds"]["accuracy"]["mean"] = accuracy[arm]
    trained = {arm: results[arm][0]["parameters"]["trainable"] for arm in arms}
    spent = {arm: statistics.fmean(spent_on(one) for one in results[arm]) for arm in arms}
    best, comparisons = max(arms, key=lambda arm: accuracy[arm]), compare(right, groups)
    return of_arms, {
        "best": best,
        "comparisons": comparisons,
        "recommended": recommend(best, accuracy, trained, comparisons),
        "rule": RULE,
        "prices": prices(accuracy, trained, spent),
        "slices": score_slices(slices, right, groups),
        "agreement": agree(labels, {arm: of_seeds[0] for arm, of_seeds in predicted.items()}),
    }


def slices_of_test(dataset: Dataset, data: Data) -> list[Slices]:
    """The slices of the test images that the recipe asks for, or that their columns offer."""
    never = {data.label, *filter(None, (data.group, data.split))}
    return cut_slices(dataset.source.columns.take(dataset.splits.test), data.slices, never)


def _over_seeds(values: list[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
    }
