"""Prediction sets by split conformal prediction: the classes that an image may be, with stated coverage."""

import math

import numpy as np
from numpy.typing import NDArray

from thaw.record import Record
from thaw.scoring.intervals import positive_interval
from thaw.scoring.statistics import Codes, Interval, effective_images, wilson

Probabilities = NDArray[np.float64]

ROUNDING = 1e-6
"""Floors are lowered by so much of themselves: what another runtime rounds must leave no class out."""
ENOUGH = 2.0
"""A class has a floor of its own where its validation images number this over one less the coverage: 20 at 90%."""


class ClassCoverage(Record):
    """The prediction sets of one class's test images."""

    images: int
    """Test images of the class."""
    covered: float | None
    """Fraction of them whose set holds the class; None where there are none."""
    interval: Interval | None
    """95%, Wilson's of the independent images that it is worth; None where there are none."""


class PredictionSets(Record):
    """Prediction sets of an arm, with the first seed: chosen on validation images, measured on the test images."""

    coverage: float
    """The fraction of images whose set is to hold their class: the recipe's `decide.coverage`."""
    floors: list[float] | None
    """A class is in an image's set where its probability is at least this, one for each class; None where there are
    no sets."""
    by_class: bool
    """Whether each class has a floor of its own, so that the coverage holds within each class, not on average only."""
    reason: str
    """What the floors were chosen on, or why there are none."""
    covered: float | None = None
    """Fraction of the test images whose set holds their class."""
    covered_interval: Interval | None = None
    """95%, Wilson's of the independent images that it is worth."""
    size: float | None = None
    """Mean number of classes in a set."""
    size_interval: Interval | None = None
    """95%, Student's t on a logarithmic scale; None where it is not known."""
    sizes: list[int]
    """Test images whose set holds no class, one, two, and so on; empty where there are no sets."""
    classes: list[ClassCoverage]
    """The coverage within each class; empty where there are no sets."""


def floor_of(probabilities: Probabilities, coverage: float) -> float | None:
    """Find what the probability of an image's own class will reach in a stated fraction of new images.

    The k-th highest of n with k = ceil((n + 1) coverage): the probability that a new image, exchangeable with these n,
    reaches it is k / (n + 1), and more where values are tied (Vovk, Gammerman and Shafer, Algorithmic learning in a
    random world, 2005; the score 1 - p of Sadinle, Lei and Wasserman, JASA 114, 2019, arXiv:1609.00451).

    Parameters
    ----------
    probabilities
        (n,) of each image's own class, or any other number of which more is better.
    coverage
        Between 0 and 1.

    Returns
    -------
    float or None
        None where n is too small for any: k > n.
    """
    images = len(probabilities)
    wanted = math.ceil((images + 1) * coverage - 1e-9)  # 0.9 is a little more than nine tenths
    return None if wanted > images else float(np.sort(probabilities)[images - wanted])


def set_floors(labels: Codes, probabilities: Probabilities, coverage: float) -> tuple[list[float] | None, bool, str]:
    """Choose the floors of prediction sets on validation images.

    Each class has a floor of its own, from its own images (Mondrian), where all have enough; else one serves all.

    Parameters
    ----------
    labels, probabilities
        (n,) and (n, classes) of the validation images, by a network that has not trained on them.
    coverage
        Between 0 and 1.

    Returns
    -------
    floors
        (classes,) None where there are too few images for any.
    by_class
        Whether each class has its own.
    reason
        What they were chosen on, or why there are none.
    """
    classes, images = probabilities.shape[1], len(labels)
    own = probabilities[np.arange(images), labels]
    enough = math.ceil(ENOUGH / (1 - coverage) - 1e-9)
    fewest = int(np.bincount(labels, minlength=classes).min())
    if fewest >= enough:
        floors = [floor_of(own[labels == code], coverage) for code in range(classes)]
        reason = f"chosen by class: each has at least {enough} validation images"
    else:
        floors = [floor_of(own, coverage)] * classes
        reason = (
            f"chosen for all classes together, since one has {fewest} validation images and each would need {enough}"
        )
    known = [floor * (1 - ROUNDING) for floor in floors if floor is not None]
    if len(known) < classes:
        return None, False, f"{images} validation images are too few for a coverage of {coverage:g}"
    return known, fewest >= enough, reason


def prediction_sets(probabilities: Probabilities, floors: list[float]) -> NDArray[np.bool_]:
    """Return the classes (n, classes) that each image may be; none of them where no class is probable enough."""
    return probabilities >= np.array(floors)


def measure_sets(
    labels: Codes,
    probabilities: Probabilities,
    validation: tuple[Codes, Probabilities] | None,
    coverage: float,
    groups: Codes | None = None,
) -> PredictionSets:
    """Choose prediction sets on validation images and measure them on test images.

    Parameters
    ----------
    labels, probabilities
        (n,) and (n, classes) of the test images.
    validation
        The same of the validation images; None where the final model trained on them.
    coverage
        Between 0 and 1.
    groups
        (n,) codes from 0 of the test images with none left out, where images of a group are alike.
    """
    if validation is None:
        reason = "the final training saw the validation images; train.rehearse or train.refit = 'train' keeps them"
        return _none(coverage, reason)
    floors, by_class, reason = set_floors(*validation, coverage)
    if floors is None:
        return _none(coverage, reason)
    sets = prediction_sets(probabilities, floors)
    right, sizes = sets[np.arange(len(labels)), labels], sets.sum(1)
    return PredictionSets(
        coverage=coverage,
        floors=floors,
        by_class=by_class,
        reason=reason,
        covered=float(right.mean()),
        covered_interval=_within(right, groups),
        size=float(sizes.mean()),
        size_interval=positive_interval(sizes.astype(np.float64), groups) if sizes.any() else None,
        sizes=np.bincount(sizes).tolist(),
        classes=[_of_class(labels == code, right, groups) for code in range(probabilities.shape[1])],
    )


def _none(coverage: float, reason: str) -> PredictionSets:
    return PredictionSets(coverage=coverage, floors=None, by_class=False, reason=reason, sizes=[], classes=[])


def _of_class(own: NDArray[np.bool_], right: NDArray[np.bool_], groups: Codes | None) -> ClassCoverage:
    if not own.any():
        return ClassCoverage(images=0, covered=None, interval=None)
    inside = None if groups is None else np.unique(groups[own], return_inverse=True)[1]
    found = right[own]
    return ClassCoverage(images=len(found), covered=float(found.mean()), interval=_within(found, inside))


def _within(right: NDArray[np.bool_], groups: Codes | None) -> Interval:
    return wilson(float(right.mean()), effective_images(right[None], groups))
