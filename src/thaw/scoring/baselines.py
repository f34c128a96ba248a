"""What needs no network: always the commonest class, and classes drawn as often as they occur."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thaw.record import Record
from thaw.scoring.metrics import MANY, macro, per_class

RARE = 0.2
"""A class is rare with less than this part of an even share of the images: of two classes, below 10%."""
MAJORITY = 0.8
"""A class with more of the images than this makes accuracy say little."""


class BaselineScores(Record):
    """The scores on the test images that a rule without a network is expected to reach."""

    accuracy: float
    """Accuracy."""
    precision: float
    """Precision, weighted by class support."""
    recall: float
    """Recall, weighted by class support."""
    f1: float
    """F1 of the expected counts, weighted by class support."""
    balanced_accuracy: float
    """Mean recall of the classes."""
    macro_f1: float
    """Mean F1 of the classes, of the expected counts."""
    log_loss: float | None
    """Log loss; None where it is infinite."""
    brier: float
    """Brier score."""
    auroc: float
    """Always 0.5: a rule that answers alike for every image ranks none above another."""
    average_precision: float
    """The share of a class among the test images, averaged over the classes; with two, that of the second."""
    top5: float | None
    """Fraction of the test images in the five commonest training classes; None with fewer than ten classes."""


class Baselines(Record):
    """What an arm has to beat."""

    commonest_class: str
    """The commonest class of the training images, the first of several."""
    commonest: BaselineScores
    """Of always answering that class, with certainty."""
    frequencies: BaselineScores
    """Of answers drawn as often as the classes occur in the training images; log loss and Brier score are those of
    giving these frequencies as probabilities."""


def baselines(classes: Sequence[str], training: NDArray[np.int64], test: NDArray[np.int64]) -> Baselines:
    """Compute in closed form what baselines score.

    Parameters
    ----------
    classes
        Their names.
    training, test
        (classes,) images of each class, at least one in all.
    """
    frequencies, shares = training / training.sum(), test / test.sum()
    commonest = int(training.argmax())
    return Baselines(
        commonest_class=classes[commonest],
        commonest=_scores(np.eye(len(classes))[commonest], frequencies, shares),
        frequencies=_scores(frequencies, frequencies, shares),
    )


def imbalance(classes: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Say in a sentence why accuracy misleads where a class is rare, or one has most images; empty where none does.

    Parameters
    ----------
    classes
        Their names.
    counts
        (classes,) images of each.
    """
    shares = counts / counts.sum()
    most, least = int(shares.argmax()), int(shares.argmin())
    if shares[most] <= MAJORITY and shares[least] >= RARE / len(classes):
        return ""
    return (
        f"always answering {classes[most]!r} is right on {shares[most]:.1%}, and {classes[least]!r} has "
        f"{counts[least]:,} of {counts.sum():,} images ({shares[least]:.1%})"
    )


def _scores(
    answers: NDArray[np.float64], frequencies: NDArray[np.float64], shares: NDArray[np.float64]
) -> BaselineScores:
    """Of answers drawn with these probabilities, where test images have these shares; all (classes,)."""
    precision, recall, f1 = per_class(answers * shares, shares, answers)
    balanced_accuracy, macro_f1 = macro(recall, f1, shares, answers)
    there = shares > 0
    possible = bool((answers[there] > 0).all())
    squared = float((answers**2).sum() - 2 * answers @ shares + 1)
    ranked = shares[there & (shares < 1)]
    return BaselineScores(
        accuracy=float(answers @ shares),
        precision=float(precision @ shares),
        recall=float(recall @ shares),
        f1=float(f1 @ shares),
        balanced_accuracy=float(balanced_accuracy),
        macro_f1=float(macro_f1),
        log_loss=float(-(shares[there] @ np.log(answers[there]))) if possible else None,
        brier=squared / 2 if len(shares) == 2 else squared,
        auroc=0.5,
        average_precision=(float(shares[1]) if len(shares) == 2 else float(ranked.mean())) if len(ranked) else 0.5,
        top5=float(shares[np.argsort(-frequencies, kind="stable")[:5]].sum()) if len(shares) >= MANY else None,
    )
