"""The arms of a study on its further test sets."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaw.recipe import Metric
from thaw.run.results import StudyResult
from thaw.scoring.contributions import contributions
from thaw.scoring.intervals import all_intervals
from thaw.scoring.measure import measure
from thaw.scoring.shift import Own, SetScores, Shift, metric_interval, score_set
from thaw.scoring.statistics import Codes


def score_study_sets(result: StudyResult, temperatures: dict[str, float | None]) -> dict[str, SetScores]:
    """Score the arms of a study on its further test sets.

    Parameters
    ----------
    result
        What the study found.
    temperatures
        What divides the logits of each arm, where one helps.
    """
    trials, metric, labels = result.trials(), result.recipe.verdict.metric, result.test_labels()
    source, splits = result.dataset.source, result.dataset.splits
    training = np.bincount(source.labels[splits.train], minlength=len(source.classes))
    found = {}
    for one in result.shifted:
        shift = Shift(one.kind, one.origin, source.classes, one.labels, one.groups, metric, temperatures, training)
        logits = {arm: [trial.shifted[one.name] for trial in of_arm] for arm, of_arm in trials.items()}
        own: dict[str, Own | NDArray[np.float64] | None] = {}
        for arm, of_arm in trials.items():
            answers = [trial.logits for trial in of_arm]
            own[arm] = (
                np.stack([contributions(metric, labels, of_seed) for of_seed in answers])
                if one.kind == "corruption"
                else own_score(metric, labels, answers, result.test_groups())
            )
        found[one.name] = score_set(shift, logits, own)
    return found


def own_score(metric: Metric, labels: Codes, logits: Sequence[NDArray[np.float32]], groups: Codes | None) -> Own:
    """Measure what an arm, with one or more seeds, does on the study's own test set, and its 95% interval."""
    interval = metric_interval(metric, all_intervals(labels, logits, groups))
    return Own(value=float(np.mean([measure(metric, labels, one) for one in logits])), interval=interval)
