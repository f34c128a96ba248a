"""Which arm to use: every pair compared on the same test images, and what follows from that by a stated rule."""

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.scoring.statistics import Codes, bootstrap_difference, holm, images_needed, mcnemar, sign_flips

ALPHA = 0.05
"""A pair whose corrected p is below this is told apart."""
RULE = (
    "the arm with the fewest trained parameters that is not significantly less accurate than the best "
    f"(p of {ALPHA} or more, corrected by Holm's method for all pairs of arms); of equally many, the most accurate; "
    "where test images, or groups of them, are too few for any difference to be significant, the best"
)


def compare(right: Mapping[str, NDArray[np.bool_]], groups: Codes | None = None) -> list[dict[str, Any]]:
    """For each pair of arms the difference in accuracy, first minus second, its 95% interval and the test of it.

    `right`: for each arm which test images it labels correctly, (seeds, n), the seeds the same for all; `groups` (n,),
    codes from 0 with none left out. One seed and no groups: the exact McNemar test. Otherwise signs are flipped of
    whole groups, or of images, whose lead is summed over the seeds; either way the seeds' models are taken as they are,
    and p is about other images, not about training again. `p_holm` is corrected for the number of pairs.
    `groups` is the number of test groups, None without; `p_least` the smallest `p_holm` that so many groups or images
    can give at all. `images_needed` would tell a pair apart, even as the smallest p of all, if it is as far apart as it
    seems; None where it is told apart already, or level.
    """
    pairs = list(combinations(right, 2))
    seeds, images = next(iter(right.values())).shape
    units = images if groups is None else int(groups.max()) + 1
    leads = [right[first].sum(0) - right[second].sum(0) for first, second in pairs]
    p = np.array([_test(lead, seeds, groups) for lead in leads])
    corrected = holm(p)
    return [
        {
            "arms": list(pair),
            "difference": float(lead.mean() / seeds),
            "interval": bootstrap_difference(lead / seeds, groups),
            "p": float(own),
            "p_holm": float(of_all),
            "test": "group permutation"
            if groups is not None
            else "exact McNemar"
            if seeds == 1
            else "image permutation",
            "groups": None if groups is None else units,
            "p_least": min(1.0, len(pairs) * 2 * 0.5**units),
            "images_needed": images_needed(lead, groups, ALPHA / len(pairs)) if of_all >= ALPHA else None,
        }
        for pair, lead, own, of_all in zip(pairs, leads, p, corrected, strict=True)
    ]


def recommend(
    best: str, accuracy: Mapping[str, float], trained: Mapping[str, int], comparisons: list[dict[str, Any]]
) -> str:
    """The arm that `RULE` names, from the accuracy and the number of trained parameters of each."""
    if all(it["p_least"] >= ALPHA for it in comparisons):
        return best
    level = {best}
    level.update(arm for it in comparisons if best in it["arms"] and it["p_holm"] >= ALPHA for arm in it["arms"])
    return min((arm for arm in accuracy if arm in level), key=lambda arm: (trained[arm], -accuracy[arm]))


def prices(
    accuracy: Mapping[str, float], trained: Mapping[str, int], seconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What a further point of accuracy costs, from the cheapest arm up to the most accurate.

    Each step leads to the arm with the next more trained parameters that is more accurate than all cheaper ones.
    `points` are hundredths of accuracy; `parameters` and `seconds` what the step adds, in all and for each point.
    """
    ladder: list[str] = []
    for arm in sorted(accuracy, key=lambda arm: (trained[arm], -accuracy[arm])):
        if not ladder or accuracy[arm] > accuracy[ladder[-1]]:
            ladder.append(arm)
    steps = []
    for lower, upper in pairwise(ladder):
        points = 100 * (accuracy[upper] - accuracy[lower])
        added = {"parameters": trained[upper] - trained[lower], "seconds": seconds[upper] - seconds[lower]}
        each = {f"{name}_per_point": amount / points for name, amount in added.items()}
        steps.append({"from": lower, "to": upper, "points": points, **added, **each})
    return steps


def spent_on(run: dict[str, Any]) -> float:
    """Seconds of search and training, a probe's before them included."""
    seconds: dict[str, float] = run["seconds"]
    return seconds["search"] + seconds["train"] + seconds.get("probe", 0.0)


def _test(lead: Codes, seeds: int, groups: Codes | None) -> float:
    if seeds == 1 and groups is None:
        return mcnemar(int((lead == 1).sum()), int((lead == -1).sum()))
    return sign_flips(lead, groups)
