"""Whether the arms err on the same images."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from thaw.scoring.statistics import Codes


def agree(labels: Codes, predicted: Mapping[str, Codes]) -> dict[str, Any]:
    """How many images all arms get right, none does, only one does, only one does not; and how alike each pair is.

    `labels` (n,), `predicted` (n,) for each arm. Of each pair the share of images with the same prediction, and Cohen's
    kappa, which is 0 where that is what chance would give and 1 where they always agree: Cohen, A coefficient of
    agreement for nominal scales (Educational and Psychological Measurement 20, 1960).
    """
    right = np.stack([of_arm == labels for of_arm in predicted.values()])
    count = right.sum(0)
    return {
        "all_right": int((count == len(right)).sum()),
        "none_right": int((count == 0).sum()),
        "only": {arm: int((own & (count == 1)).sum()) for arm, own in zip(predicted, right, strict=True)},
        "only_wrong": {
            arm: int((~own & (count == len(right) - 1)).sum()) for arm, own in zip(predicted, right, strict=True)
        },
        "pairs": [
            {"arms": [one, other], "same": float((predicted[one] == predicted[other]).mean())}
            | {"kappa": kappa(predicted[one], predicted[other])}
            for one, other in combinations(predicted, 2)
        ],
    }


def kappa(one: Codes, other: Codes) -> float:
    """Cohen's kappa of two predictions, (n,) each; 1 where both are always the same class."""
    classes = int(max(one.max(), other.max())) + 1
    shares = [np.bincount(values, minlength=classes) / len(values) for values in (one, other)]
    same, chance = float((one == other).mean()), float(shares[0] @ shares[1])
    return (same - chance) / (1 - chance) if chance < 1 else 1.0
