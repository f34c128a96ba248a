"""What an arm's model says besides its most probable class, chosen on validation images and measured on test images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaw.errors import RecipeError
from thaw.recipe import Decide
from thaw.record import Record
from thaw.run.results import StudyResult
from thaw.scoring.conformal import PredictionSets, measure_sets
from thaw.scoring.decision import Decision, Wanted, measure_decision
from thaw.scoring.metrics import log_probabilities
from thaw.scoring.risk import RiskCoverage, trace_risk
from thaw.scoring.unlike import Unlike, measure_unlike
from thaw.text import listed
from thaw.training.results import TrialResult


class Doubt(Record):
    """What an arm's model says besides its most probable class, with the first seed and calibrated probabilities."""

    rehearsed: bool
    """Whether another network chose all this, trained on the training images alone, than the one that is kept and
    tested, which has trained on the validation images too. The two differ by little, but no theorem says so: what holds
    is what the test images show."""
    risk: RiskCoverage
    """What leaving open the images that it is least sure of gains."""
    sets: PredictionSets
    """The classes that each image may be."""
    decision: Decision | None
    """The threshold for one class; None where the recipe asks for none."""
    unlike: Unlike
    """Images unlike those of training."""


def check_decide(settings: Decide, classes: Sequence[str]) -> None:
    """Raise RecipeError where the class that the recipe wants a threshold for is not one of the data's."""
    if settings.positive is not None and settings.positive not in classes:
        raise RecipeError(
            f"decide.positive = {settings.positive!r} is no class of the data; it has {listed(list(classes)[:20])}."
        )


def measure_doubt(result: StudyResult, first: TrialResult, temperature: float | None) -> Doubt:
    """Choose all that a model says besides its probabilities on validation images, and measure it on test images.

    Parameters
    ----------
    result
        The study.
    first
        An arm's trial with the first seed.
    temperature
        What divides its logits; None for no calibration.
    """
    settings, labels, groups = result.recipe.decide, result.test_labels(), result.test_groups()
    test = _calibrated(first.logits, temperature)
    validation = None
    if first.validation_logits is not None:
        validation = result.validation_labels(), _calibrated(first.validation_logits, temperature)
    decision = None
    if settings.positive is not None:
        wanted = Wanted(**settings.model_dump(include={"positive", "recall", "precision", "costs"}))
        decision = measure_decision(labels, test, validation, wanted, result.dataset.source.classes, groups)
    why = "the final training saw the validation images" if validation is None else "the distances were not measured"
    return Doubt(
        rehearsed=first.record.rehearsal is not None,
        risk=trace_risk(labels, test),
        sets=measure_sets(labels, test, validation, settings.coverage, groups),
        decision=decision,
        unlike=measure_unlike(first.distances, settings.false_alarms, groups, why),
    )


def _calibrated(logits: NDArray[np.float32], temperature: float | None) -> NDArray[np.float64]:
    return np.exp(log_probabilities(logits / np.float32(temperature or 1)))
