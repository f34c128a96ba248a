"""Mixed images: mixup and cutmix over the batches of an arm that trains on pixels."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from thaw.compute.batches import Rows

Mix = Callable[[tuple[Tensor, ...], Tensor, Rows], tuple[tuple[Tensor, ...], Tensor]]
"""From a batch's pixels and classes, and its rows, to mixed pixels and the probability of each class."""

ALPHA = {"mixup": 0.2, "cutmix": 1.0}
"""Of the Beta distribution that the fraction of each image is drawn from, as in the papers' experiments on ImageNet."""


def make_mix(kind: Literal["none", "mixup", "cutmix"], classes: int) -> Mix | None:
    """Return how batches are mixed; None where they are not.

    mixup (Zhang et al., 2018, arXiv:1710.09412) adds two images, cutmix (Yun et al., 2019, arXiv:1905.04899) puts a
    rectangle of one into the other; both give the labels in proportion. What is drawn depends on the batch's rows
    alone, so that an attempt or an epoch that is run again mixes the same.

    Parameters
    ----------
    kind
        `train.mix`.
    classes
        Columns of the probabilities.
    """
    if kind == "none":
        return None
    transform = (v2.MixUp if kind == "mixup" else v2.CutMix)(alpha=ALPHA[kind], num_classes=classes)

    def mix(tensors: tuple[Tensor, ...], target: Tensor, rows: Rows) -> tuple[tuple[Tensor, ...], Tensor]:
        (pixels,) = tensors
        seed = int(np.random.SeedSequence(rows.tolist()).generate_state(1, np.uint64)[0] >> 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            images, wanted = transform(pixels.permute(0, 3, 1, 2).float(), target)
        return (images.permute(0, 2, 3, 1),), wanted

    return mix
