"""Views: an image as a policy of augmentation draws it, the same for the same image, number and seed."""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from thaw.images.preprocessing import Preprocessing, sides

SMALLEST = 0.35
"""The smallest fraction of an image's area that a view is cut from; fastai's, for networks that are fine-tuned."""
ERASED = 0.1
"""The fraction of strong views with a rectangle erased; that of torchvision's own training recipe."""
_drawing = threading.Lock()
"""Held by the one thread that draws: torchvision's transforms take their random numbers from torch's one generator."""


def view_seed(seed: int, digest: str, view: int) -> int:
    """The seed of torch's random numbers for one view of one image.

    Parameters
    ----------
    seed
        The recipe's `augment.seed`.
    digest
        The image's content digest, in hexadecimal: what else a source holds, and in which order, changes nothing.
    view
        The view's number, from 0.
    """
    return int(np.random.SeedSequence([seed, view, int(digest, 16)]).generate_state(1, np.uint64)[0] >> 1)


def is_mirrored(seed: int) -> bool:
    """Whether torchvision's `RandomHorizontalFlip` mirrors an image when torch's generator begins at this seed."""
    return bool(torch.rand(1, generator=torch.Generator().manual_seed(seed)) < 0.5)


def make_policy(policy: str, preprocessing: Preprocessing) -> nn.Module:
    """Return the transform of an upright RGB image of Pillow's into an image of the network's size.

    `crop` is torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`. `strong` adds `TrivialAugmentWide` (Müller &
    Hutter, 2021, arXiv:2103.10158) and, in the mean colour, `RandomErasing` (Zhong et al., 2020, arXiv:1708.04896), as
    torchvision's own training recipe does.

    Parameters
    ----------
    policy
        `crop` or `strong`.
    preprocessing
        The size, the filter and the mean colour.
    """
    size, filtered = sides(preprocessing.size), v2.InterpolationMode(preprocessing.interpolation)
    steps = [
        v2.RandomResizedCrop(size, scale=(SMALLEST, 1), ratio=(3 / 4, 4 / 3), interpolation=filtered),
        v2.RandomHorizontalFlip(),
    ]
    if policy == "strong":
        grey = [round(255 * value) for value in preprocessing.mean]
        steps += [v2.TrivialAugmentWide(), v2.PILToTensor(), v2.RandomErasing(ERASED, value=grey), v2.ToPILImage()]
    composed: nn.Module = v2.Compose(steps)
    return composed


def draw_view(picture: Image.Image, policy: nn.Module, seed: int) -> NDArray[np.uint8]:
    """Draw one view: uint8 (size, size, 3). torch's generator is left as it was.

    Parameters
    ----------
    picture
        An upright RGB image, as `images.decode.upright_rgb` gives it.
    policy
        See `make_policy`.
    seed
        See `view_seed`.
    """
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return np.asarray(policy(picture))
