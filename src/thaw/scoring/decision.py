"""A threshold for one class: for a wanted recall or precision, or from costs, chosen on validation images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaw.record import Record
from thaw.scoring.conformal import ROUNDING, floor_of
from thaw.scoring.intervals import ClassScores, class_scores, positive_interval
from thaw.scoring.statistics import Codes, Interval

Probabilities = NDArray[np.float64]


class Wanted(Record):
    """What a threshold is to reach; one of recall, precision and costs is given."""

    positive: str
    """The class that is decided for where its probability reaches the threshold."""
    recall: float | None
    """The fraction of its images to find."""
    precision: float | None
    """The fraction of the images decided for that are to be of it."""
    costs: list[list[float]] | None
    """What each decision costs: a row for images of other classes and one for those of the class, in each what it
    costs to decide against it and for it."""


class Decision(Record):
    """A threshold for one class, with the first seed: chosen on validation images, measured on the test images."""

    wanted: Wanted
    """What was asked for."""
    threshold: float | None
    """The class is decided for where its probability is at least this, else the most probable of the others; None
    where there is no threshold."""
    reason: str
    """What the threshold was chosen on, or why there is none."""
    validation: float | None = None
    """What it reaches on validation: the recall or precision asked for, or the mean cost."""
    test: ClassScores | None = None
    """Recall, precision and F1 of the class on test with this threshold."""
    before: ClassScores | None = None
    """The same where the most probable class is the answer."""
    cost: float | None = None
    """Mean cost of the decisions on test; None without costs."""
    cost_interval: Interval | None = None
    """95%, Student's t on a logarithmic scale; None without costs, and where it is not known."""
    cost_before: float | None = None
    """Mean cost on test where the most probable class is the answer; None without costs."""


def decide(probabilities: Probabilities, positive: int, threshold: float) -> Codes:
    """Return the class (n,) that is decided for: `positive` from the threshold on, else the best of the others.

    Parameters
    ----------
    probabilities
        (n, classes)
    positive
        The index of the class.
    threshold
        Of its probability.
    """
    others = probabilities.copy()
    others[:, positive] = -1
    return np.where(probabilities[:, positive] >= threshold, positive, others.argmax(1))


def choose_threshold(own: NDArray[np.bool_], probability: Probabilities, wanted: Wanted) -> tuple[float | None, str]:
    """Choose a threshold on validation images.

    For a recall it is what a new image of the class reaches with that probability, see `conformal.floor_of`. For a
    precision it is the lowest, so that most are found, with which validation has that precision; from costs, that with
    the least mean cost there. Both lie halfway between probabilities that occur.

    Parameters
    ----------
    own
        (n,) which images are of the class.
    probability
        (n,) of the class.
    wanted
        What is asked for.

    Returns
    -------
    threshold
        None where there is none.
    reason
        What it was chosen on, or why there is none.
    """
    count = int(own.sum())
    if not 0 < count < len(own):
        return None, "validation needs images of the class and others to choose a threshold on"
    told = f"chosen on {len(own):,} validation images, {count:,} of them of the class"
    if wanted.recall is not None:
        floor = floor_of(probability[own], wanted.recall)
        if floor is None:
            return None, f"{count} validation images of the class are too few for a recall of {wanted.recall:g}"
        return floor * (1 - ROUNDING), told
    values = np.unique(probability)
    places = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2])
    found, taken = (_at_least(part, places) for part in (probability[own], probability))
    if wanted.precision is not None:
        reached = np.flatnonzero(found >= wanted.precision * taken)
        if not len(reached):
            best = float((found / taken).max())
            return None, f"no threshold has a precision of {wanted.precision:g} on validation; the best has {best:.3f}"
        return float(places[reached[0]]), told
    assert wanted.costs is not None
    places = np.append(places, 2.0)  # none is decided for
    found, taken = np.append(found, 0), np.append(taken, 0)
    (reject, alarm), (miss, hit) = wanted.costs
    wrong = taken - found
    cost = hit * found + miss * (count - found) + alarm * wrong + reject * (len(own) - count - wrong)
    return float(places[np.argmin(cost)]), told


def measure_decision(
    labels: Codes,
    probabilities: Probabilities,
    validation: tuple[Codes, Probabilities] | None,
    wanted: Wanted,
    classes: Sequence[str],
    groups: Codes | None = None,
) -> Decision:
    """Choose a threshold on validation images and measure what it does on test images.

    Parameters
    ----------
    labels, probabilities
        (n,) and (n, classes) of the test images.
    validation
        The same of the validation images; None where the final model trained on them.
    wanted
        What is asked for; its class is one of `classes`.
    classes
        The names of the classes, in order.
    groups
        (n,) codes from 0 of the test images with none left out, where images of a group are alike.
    """
    positive = list(classes).index(wanted.positive)
    if validation is None:
        reason = "the final training saw the validation images; train.rehearse or train.refit = 'train' keeps them"
        return Decision(wanted=wanted, threshold=None, reason=reason)
    own, held = validation[0] == positive, validation[1]
    threshold, reason = choose_threshold(own, held[:, positive], wanted)
    if threshold is None:
        return Decision(wanted=wanted, threshold=None, reason=reason)
    decided, before = decide(probabilities, positive, threshold), probabilities.argmax(1)
    # as one class against the rest: which of the others an image is decided for does not matter here
    scored = [
        class_scores((labels == positive).astype(np.int64), (of == positive).astype(np.int64)[None], 2, groups)[1]
        for of in (decided, before)
    ]
    spent = _costs(labels == positive, decided == positive, wanted)
    spent_before = _costs(labels == positive, before == positive, wanted)
    return Decision(
        wanted=wanted,
        threshold=threshold,
        reason=reason,
        validation=_reached(own, held[:, positive] >= threshold, wanted),
        test=scored[0],
        before=scored[1],
        cost=None if spent is None else float(spent.mean()),
        cost_interval=positive_interval(spent, groups) if spent is not None and spent.any() else None,
        cost_before=None if spent_before is None else float(spent_before.mean()),
    )


def _at_least(values: Probabilities, places: Probabilities) -> NDArray[np.int64]:
    """How many values reach each place."""
    return len(values) - np.searchsorted(np.sort(values), places)


def _reached(own: NDArray[np.bool_], taken: NDArray[np.bool_], wanted: Wanted) -> float:
    if wanted.recall is not None:
        return float(taken[own].mean())
    if wanted.precision is not None:
        return float(own[taken].mean())
    spent = _costs(own, taken, wanted)
    assert spent is not None
    return float(spent.mean())


def _costs(own: NDArray[np.bool_], taken: NDArray[np.bool_], wanted: Wanted) -> Probabilities | None:
    """What the decision for each image costs, (n,)."""
    if wanted.costs is None:
        return None
    spent: Probabilities = np.array(wanted.costs, dtype=np.float64)[own.astype(int), taken.astype(int)]
    return spent
