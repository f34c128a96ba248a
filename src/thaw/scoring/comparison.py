"""Which arm to use: every pair compared on the same test images, and the arm that a stated rule recommends."""

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thaw.record import Record
from thaw.scoring.statistics import Codes, Interval, bootstrap_difference, holm, images_needed, mcnemar, sign_flips

ALPHA = 0.05
"""A pair whose corrected p is below this differs significantly."""
RULE = (
    "the arm with the fewest trained parameters that is not significantly less accurate than the best "
    f"(p of {ALPHA} or more, corrected by Holm's method for all pairs of arms); of equally many, the most accurate; "
    "where test images, or groups of them, are too few for any difference to be significant, the best"
)


Test = Literal["exact McNemar", "image permutation", "group permutation"]


class Comparison(Record):
    """The difference in test accuracy between two arms, and whether it is significant."""

    arms: tuple[str, str]
    """The two arms."""
    difference: float
    """Accuracy of the first minus that of the second."""
    interval: Interval
    """95% bootstrap interval of the difference."""
    p: float
    """p of the test that both arms are equally accurate on other test images; training again is not considered."""
    p_holm: float
    """p corrected for the number of pairs by Holm's method."""
    test: Test
    """The exact McNemar test for one seed without groups; otherwise a permutation test that flips the sign of each
    image's or each group's lead, summed over the seeds."""
    groups: int | None
    """Groups among the test images; None without a group column."""
    p_least: float
    """The smallest `p_holm` that so many images or groups can give at all."""
    images_needed: int | None
    """Test images that would show a difference of this size, even as the smallest p of all; None where the difference
    is significant already, or 0."""


class CostStep(Record):
    """From an arm to the one with the next more trained parameters that is more accurate: what it adds and costs."""

    cheaper: str
    """The arm with fewer trained parameters."""
    better: str
    """The more accurate arm."""
    points: float
    """What accuracy gains, in hundredths."""
    parameters: int
    """How many more parameters train."""
    seconds: float
    """How many more seconds search and training take."""
    parameters_per_point: float
    """`parameters` over `points`."""
    seconds_per_point: float
    """`seconds` over `points`."""


def compare(right: Mapping[str, NDArray[np.bool_]], groups: Codes | None = None) -> list[Comparison]:
    """Compare each pair of arms: the difference in accuracy, its 95% interval and a test.

    Parameters
    ----------
    right
        For each arm which test images it classifies correctly, (seeds, n), the seeds the same for all.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    list of Comparison
        One for each pair, p corrected for their number.
    """
    pairs = list(combinations(right, 2))
    seeds, images = next(iter(right.values())).shape
    units = images if groups is None else int(groups.max()) + 1
    leads = [right[first].sum(0) - right[second].sum(0) for first, second in pairs]
    p = np.array([_test(lead, seeds, groups) for lead in leads])
    corrected = holm(p)
    alone: Test = "exact McNemar" if seeds == 1 else "image permutation"
    return [
        Comparison(
            arms=pair,
            difference=float(lead.mean() / seeds),
            interval=bootstrap_difference(lead / seeds, groups),
            p=float(own),
            p_holm=float(of_all),
            test=alone if groups is None else "group permutation",
            groups=None if groups is None else units,
            p_least=min(1.0, len(pairs) * 2 * 0.5**units),
            images_needed=images_needed(lead, groups, ALPHA / len(pairs)) if of_all >= ALPHA else None,
        )
        for pair, lead, own, of_all in zip(pairs, leads, p, corrected, strict=True)
    ]


def recommend(
    best: str, accuracy: Mapping[str, float], trained: Mapping[str, int], comparisons: list[Comparison]
) -> str:
    """Return the arm that `RULE` names, from the accuracy and the number of trained parameters of each.

    Parameters
    ----------
    best
        The most accurate arm.
    accuracy
        Of each arm on the test images, the mean over the seeds, from 0 to 1.
    trained
        How many parameters each arm trains.
    comparisons
        Every pair of arms, see `compare`.
    """
    if all(it.p_least >= ALPHA for it in comparisons):
        return best
    level = {best}
    level.update(arm for it in comparisons if best in it.arms and it.p_holm >= ALPHA for arm in it.arms)
    return min((arm for arm in accuracy if arm in level), key=lambda arm: (trained[arm], -accuracy[arm]))


def cost_steps(
    accuracy: Mapping[str, float], trained: Mapping[str, int], seconds: Mapping[str, float]
) -> list[CostStep]:
    """Tell what a further point of accuracy costs, from the cheapest arm up to the most accurate.

    Each step leads to the arm with the next more trained parameters that is more accurate than all cheaper ones.

    Parameters
    ----------
    accuracy
        Of each arm on the test images, from 0 to 1.
    trained
        How many parameters each arm trains.
    seconds
        Wall-clock seconds of each arm's search and training.

    Returns
    -------
    list of CostStep
        From the cheapest up; empty where no arm with more trained parameters is more accurate.
    """
    ladder: list[str] = []
    for arm in sorted(accuracy, key=lambda arm: (trained[arm], -accuracy[arm])):
        if not ladder or accuracy[arm] > accuracy[ladder[-1]]:
            ladder.append(arm)
    steps = []
    for cheaper, better in pairwise(ladder):
        points = 100 * (accuracy[better] - accuracy[cheaper])
        parameters, spent = trained[better] - trained[cheaper], seconds[better] - seconds[cheaper]
        steps.append(
            CostStep(
                cheaper=cheaper,
                better=better,
                points=points,
                parameters=parameters,
                seconds=spent,
                parameters_per_point=parameters / points,
                seconds_per_point=spent / points,
            )
        )
    return steps


def _test(lead: Codes, seeds: int, groups: Codes | None) -> float:
    if seeds == 1 and groups is None:
        return mcnemar(int((lead == 1).sum()), int((lead == -1).sum()))
    return sign_flips(lead, groups)
