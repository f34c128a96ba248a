"""Whether the arms make their mistakes on the same images."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from sklearn.metrics import cohen_kappa_score

from thaw.record import Record
from thaw.scoring.statistics import Codes


class PairAgreement(Record):
    """How alike the predictions of two arms are."""

    arms: tuple[str, str]
    """The two arms."""
    same: float
    """Fraction of the test images for which both predict the same class."""
    kappa: float
    """Cohen's kappa: 0 where the arms agree as often as by chance, 1 where they always agree."""


class Agreement(Record):
    """How often the arms are right on the same test images, with the first seed."""

    all_right: int
    """Test images that every arm classifies correctly."""
    none_right: int
    """Test images that no arm classifies correctly."""
    only_right: dict[str, int]
    """For each arm, the images that it alone classifies correctly."""
    only_wrong: dict[str, int]
    """For each arm, the images that it alone gets wrong."""
    pairs: list[PairAgreement]
    """Every pair of arms."""


def measure_agreement(labels: Codes, predicted: Mapping[str, Codes]) -> Agreement:
    """Count the images that all arms, no arm, or one arm alone gets right, and compare each pair of arms.

    Kappa: Cohen, A coefficient of agreement for nominal scales (Educational and Psychological Measurement 20, 1960).

    Parameters
    ----------
    labels
        (n,) of the test images, indices of classes.
    predicted
        For each arm (n,) the classes that it predicts.

    Returns
    -------
    Agreement
        Counts of images, and for each pair of arms how alike they are.
    """
    right = np.stack([of_arm == labels for of_arm in predicted.values()])
    count = right.sum(0)
    return Agreement(
        all_right=int((count == len(right)).sum()),
        none_right=int((count == 0).sum()),
        only_right={arm: int((own & (count == 1)).sum()) for arm, own in zip(predicted, right, strict=True)},
        only_wrong={
            arm: int((~own & (count == len(right) - 1)).sum()) for arm, own in zip(predicted, right, strict=True)
        },
        pairs=[
            PairAgreement(
                arms=(one, other),
                same=float((predicted[one] == predicted[other]).mean()),
                kappa=kappa(predicted[one], predicted[other]),
            )
            for one, other in combinations(predicted, 2)
        ],
    )


def kappa(one: Codes, other: Codes) -> float:
    """Return Cohen's kappa of two predictions, (n,) each; 1 where they are equal, be it always the same class."""
    return 1.0 if np.array_equal(one, other) else float(cohen_kappa_score(one, other))
