"""Heads that are fitted to features and are no linear layer: nearest class means, nearest neighbours."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from thaw.errors import ModelError
from thaw.record import Record

TEMPERATURE = 0.07
"""What the cosine of a neighbour is divided by (Wu et al., 2018, arXiv:1805.01978; DINO: Caron et al., 2021)."""


class HeadForm(Record):
    """What a network's head computes, as far as its backbone does not tell."""

    kind: Literal["linear", "knn", "prototype"] = "linear"
    """The backbone's own linear layer, `Neighbours`, or `NearestMeans`."""
    images: Annotated[int, Field(ge=1, le=1 << 32)] = 1
    """Images that `Neighbours` remembers."""
    nearest: Annotated[int, Field(ge=1, le=1 << 16)] = 1
    """Neighbours that it asks."""


class NearestMeans(nn.Linear):
    """From features (n, features) to logits by the distance of features of length 1 from the mean of each class.

    It is linear in them (prototypical networks: Snell et al., 2017, arXiv:1703.05175, eq. 8). The layer has `scale`
    times the means as its weight, and `-scale / 2` times their squared lengths as its bias.
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.normalize(input, dim=1))


class Neighbours(nn.Module):
    """From features (n, features) to the logarithm of what the most similar remembered images vote for, (n, classes).

    A neighbour votes for its class with weight exp(cosine / 0.07). One neighbour more votes for all classes alike, so
    that no class is impossible.

    Parameters
    ----------
    features
        The length of a vector.
    classes
        The logits.
    form
        How many images it remembers, and how many of them it asks.
    """

    def __init__(self, features: int, classes: int, form: HeadForm) -> None:
        super().__init__()
        self.nearest = form.nearest
        self.memory = nn.Parameter(torch.zeros(form.images, features))
        """(images, features) of length 1."""
        self.labels: Tensor
        self.register_buffer("labels", torch.zeros(form.images, dtype=torch.int64))
        self.class_weights: Tensor
        self.register_buffer("class_weights", torch.ones(classes))

    def remember(self, memory: Tensor, labels: Tensor, class_weights: Tensor) -> None:
        """Put these (n, features) of length 1, (n,) and (classes,) into the place of what it remembers, as copies."""
        self.memory.data = memory.detach().to(self.memory.device, copy=True)
        self.labels.data = labels.to(self.labels.device, copy=True)
        self.class_weights.data = class_weights.to(self.labels.device, copy=True)

    def forward(self, input: Tensor) -> Tensor:
        cosines = functional.linear(functional.normalize(input, dim=1), self.memory).float()
        nearest, where = cosines.topk(self.nearest, dim=1)
        weights = ((nearest - 1) / TEMPERATURE).exp()
        classes = torch.arange(len(self.class_weights), device=input.device)
        votes = (weights.unsqueeze(2) * (self.labels[where].unsqueeze(2) == classes)).sum(1) * self.class_weights
        share = votes / votes.sum(1, keepdim=True)
        return torch.log((self.nearest * share + 1 / len(self.class_weights)) / (self.nearest + 1))


def install_head(model: nn.Module, head: str, form: HeadForm) -> None:
    """Put a head of this form in the place of a network's linear one.

    Parameters
    ----------
    model
        The network, which is changed.
    head
        The name of its head, an `nn.Linear`.
    form
        That of the new head, whose values are zeros.
    """
    old = model.get_submodule(head)
    if form.kind == "linear":
        return
    if not isinstance(old, nn.Linear):
        raise ModelError(f"{head!r} is no linear layer, which a head of the kind {form.kind!r} stands in for.")
    if form.kind == "knn":
        model.set_submodule(head, Neighbours(old.in_features, old.out_features, form).to(old.weight.device))
        return
    new = NearestMeans(old.in_features, old.out_features, device=old.weight.device)
    nn.init.zeros_(new.weight)
    nn.init.zeros_(new.bias)
    model.set_submodule(head, new)


def form_of(model: nn.Module) -> HeadForm:
    """Return the form of a network's head."""
    for module in model.modules():
        if isinstance(module, Neighbours):
            return HeadForm(kind="knn", images=len(module.labels), nearest=module.nearest)
        if isinstance(module, NearestMeans):
            return HeadForm(kind="prototype")
    return HeadForm()
