"""How well a score ranks images of a class above the others: AUROC, average precision, and each image's influence."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Ranking(NamedTuple):
    """How well scores rank, and the influence of every image: what a little more weight on it would add."""

    auroc: float
    """Area under the ROC curve: the chance that an image of the class scores above another, ties counting half."""
    average_precision: float
    """The mean precision at the thresholds where an image of the class is found."""
    auroc_influence: Values
    """(n,); their sum is 0, the sum of their squares is the variance of AUROC over draws of images."""
    average_precision_influence: Values
    """(n,) of average precision."""


def rank_class(positive: NDArray[np.bool_], scores: Values) -> Ranking:
    """Measure how well `scores` rank the images that are `positive` above the others.

    The influence on AUROC is that of DeLong et al. (Biometrics 44, 1988); that on average precision is its derivative
    by the weights of the images.

    Parameters
    ----------
    positive
        (n,) with at least one image of either kind.
    scores
        (n,) the higher, the surer of the class.
    """
    images = len(scores)
    order = np.argsort(scores, kind="stable")
    ranked, own = scores[order], positive[order]
    # an image's place begins and ends with the images of the same score
    first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    starts, tie = np.flatnonzero(first), np.cumsum(first) - 1
    begin, end = starts[tie], np.append(starts[1:], images)[tie]
    counted = np.concatenate([[0], np.cumsum(own)])
    own_below, own_within = counted[begin], counted[end]
    number = int(counted[-1])

    outranked = (begin - own_below + end - own_within) / (2 * (images - number))
    outranking = 1 - (own_below + own_within) / (2 * number)
    placed = np.where(own, outranked, outranking)
    auroc = float(outranked[own].mean())

    taken = images - begin
    precision = (number - own_below) / taken
    average = float(precision[own].mean())
    # one image more at or above a threshold changes the precision there by (1 - precision) / taken, or by 1 less
    gain, loss = (np.concatenate([[0.0], np.cumsum(own * part / taken)])[end] for part in (1 - precision, precision))
    influence = np.empty((2, images))
    influence[0, order] = (placed - auroc) / np.where(own, number, images - number)
    influence[1, order] = np.where(own, precision - average + gain, -loss) / number
    return Ranking(auroc, average, influence[0], influence[1])
