"""Every pair of arms compared on the same test images, and what a further point costs."""

import math
from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thaw.record import Record
from thaw.scoring.statistics import (
    Codes,
    Interval,
    difference_part,
    difference_reach,
    holm,
    images_needed,
    images_to_settle,
    mcnemar,
    sign_flips,
)

ALPHA = 0.05
"""A pair whose corrected p is below this differs significantly."""

Test = Literal["exact McNemar", "group permutation", "t"]


class Comparison(Record):
    """The difference between two arms on the test images, and whether it is significant."""

    arms: tuple[str, str]
    """The two arms."""
    difference: float
    """The metric of the first minus that of the second, more being better."""
    interval: Interval
    """95% interval of the difference, over images (or groups) and seeds."""
    p: float
    """p of the test that both are equally good on other images and, where there are several seeds, with other seeds."""
    p_holm: float
    """p corrected for the number of pairs by Holm's method."""
    test: Test
    """For accuracy with one seed the exact McNemar test, with groups an exact permutation test that flips the sign of
    each group's lead; otherwise Student's t over images (or groups) and seeds."""
    groups: int | None
    """Groups among the test images; None without a group column."""
    p_least: float
    """The smallest `p_holm` that so many images or groups can give at all."""
    images_needed: int | None
    """Test images that would show a difference of this size, even as the smallest p of all; None where the difference
    is significant already, or 0, or where only more seeds would help."""


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


def compare(values: Mapping[str, NDArray[np.float64]], groups: Codes | None = None) -> list[Comparison]:
    """Compare each pair of arms: the difference, its 95% interval and a test.

    Parameters
    ----------
    values
        For each arm what each test image adds to the metric, (seeds, n), see `scoring.contributions`; for accuracy 0
        or 1. The seeds are the same for all.
    groups
        (n,) codes from 0 with none left out, where images of a group are alike.

    Returns
    -------
    list of Comparison
        One for each pair, p corrected for their number.
    """
    pairs = list(combinations(values, 2))
    seeds, images = next(iter(values.values())).shape
    units = images if groups is None else int(groups.max()) + 1
    exact = seeds == 1 and all(((of == 0) | (of == 1)).all() for of in values.values())
    test: Test = "t" if not exact else "exact McNemar" if groups is None else "group permutation"
    leads = [values[first].mean(0) - values[second].mean(0) for first, second in pairs]
    reaches = [difference_reach(values[first], values[second], groups) for first, second in pairs]
    p = np.array(
        [
            _exact(lead.astype(np.int64), groups) if exact else _student(values[first], values[second], groups)
            for (first, second), lead in zip(pairs, leads, strict=True)
        ]
    )
    return [
        Comparison(
            arms=pair,
            difference=float(lead.mean()),
            interval=(float(lead.mean()) - far, float(lead.mean()) + far) if math.isfinite(far) else (-1.0, 1.0),
            p=float(own),
            p_holm=float(of_all),
            test=test,
            groups=None if groups is None else units,
            p_least=min(1.0, len(pairs) * 2 * 0.5**units),
            images_needed=_needed(values[pair[0]], values[pair[1]], ALPHA / len(pairs), groups)
            if of_all >= ALPHA
            else None,
        )
        for pair, lead, far, own, of_all in zip(pairs, leads, reaches, p, holm(p), strict=True)
    ]


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


def _needed(first: NDArray[np.float64], second: NDArray[np.float64], alpha: float, groups: Codes | None) -> int | None:
    if len(first) == 1:
        return images_needed(first[0] - second[0], groups, alpha)
    return images_to_settle(first, second, float(first.mean() - second.mean()), alpha / 2, groups)


def _exact(lead: Codes, groups: Codes | None) -> float:
    if groups is None:
        return mcnemar(int((lead == 1).sum()), int((lead == -1).sum()))
    return sign_flips(lead, groups)


def _student(first: NDArray[np.float64], second: NDArray[np.float64], groups: Codes | None) -> float:
    """p of Student's t, and never below the least that the exact test of so many images or groups can have."""
    chance = difference_part(first, second, groups)
    gap = abs(float(first.mean() - second.mean()))
    if gap == 0 or chance.freedom == 0:
        return 1.0
    units = first.shape[1] if groups is None else int(groups.max()) + 1
    least = 2 * 0.5**units
    if chance.variance == 0:
        return least
    return max(least, float(2 * stats.t.sf(gap / math.sqrt(chance.variance), chance.freedom)))
