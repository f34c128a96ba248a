"""What a model says besides its probabilities: the classes it may be, what is decided for, whether it is unlike."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from thaw.scoring.unlike import Subspace

Probability = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


class DecideConfig(BaseModel):
    """The `decide` of a bundle's `config.json`: what was chosen on the validation images."""

    model_config = ConfigDict(frozen=True, strict=True)

    coverage: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The fraction of images whose set is to hold their class; None without sets."""
    by_class: bool = False
    """Whether the coverage holds within each class."""
    floors: list[Probability] | None = None
    """The probability from which each class is in an image's set."""
    positive: str | None = None
    """The class that has a threshold; None without one."""
    threshold: Probability | None = None
    """The class is decided for from this probability on."""


class UnlikeConfig(BaseModel):
    """The `unlike` of a bundle's `config.json`."""

    model_config = ConfigDict(frozen=True, strict=True)

    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The distance above which an image is called unlike those of training."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    """The fraction of images like those of training that is called so."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The digest of `unlike.safetensors`."""


@dataclass(frozen=True)
class Answers:
    """All that a bundle says of n images."""

    probabilities: NDArray[np.float64]
    """(n, classes), calibrated where the bundle has a temperature; each row sums to 1."""
    sets: NDArray[np.bool_] | None = None
    """(n, classes) the classes that each image may be, with the coverage stated; None where the bundle has no sets."""
    decided: NDArray[np.int64] | None = None
    """(n,) the index of the class decided for by the bundle's threshold; None where it has none."""
    unlike: NDArray[np.float32] | None = None
    """(n,) the distance from the training images over its threshold: above 1, an image is unlike them. None where the
    bundle cannot tell."""


def join(parts: Sequence[Answers]) -> Answers:
    """Return the answers for all images of several parts, at least one, in order."""

    def of(values: list[Any]) -> Any:
        return None if values[0] is None else np.concatenate(values)

    return Answers(*(of([getattr(part, field.name) for part in parts]) for field in fields(Answers)))


class Doubt(nn.Module):
    """From probabilities (n, classes) and features (n, features), float32, to what else a model says.

    Parameters
    ----------
    floors
        (classes,) of prediction sets; None without.
    decision
        The index of a class, and its threshold; None without.
    unlike
        The subspace of the training images' features, and the distance above which an image is unlike them; None
        without.
    """

    def __init__(
        self,
        floors: list[float] | None = None,
        decision: tuple[int, float] | None = None,
        unlike: tuple[Subspace, float] | None = None,
    ) -> None:
        super().__init__()
        self.decision = decision
        self.far = unlike[1] if unlike else None
        subspace = unlike[0] if unlike else None
        self.floors: Tensor | None
        self.mean: Tensor | None
        self.basis: Tensor | None
        self.register_buffer("floors", None if floors is None else torch.tensor(floors))
        self.register_buffer("mean", None if subspace is None else torch.from_numpy(subspace.mean))
        self.register_buffer("basis", None if subspace is None else torch.from_numpy(subspace.basis))

    def names(self) -> list[str]:
        """Return the names of the outputs, in order: some of `set`, `decided` and `unlike`."""
        there = {"set": self.floors is not None, "decided": bool(self.decision), "unlike": self.far is not None}
        return [name for name, is_there in there.items() if is_there]

    def forward(self, probabilities: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs: bool (n, classes), int64 (n,) and float32 (n,) where there are all."""
        found: list[Tensor] = []
        if self.floors is not None:
            found.append(probabilities >= self.floors)
        if self.decision:
            place, threshold = self.decision
            own = torch.arange(probabilities.shape[1], device=probabilities.device) == place
            others = probabilities.masked_fill(own, -1.0).argmax(1)
            decided = probabilities[:, place] >= threshold
            found.append(torch.where(decided, torch.full_like(others, place), others))
        if self.mean is not None and self.basis is not None:
            assert self.far is not None
            away = functional.normalize(features, dim=1) - self.mean
            rest = away - (away @ self.basis) @ self.basis.T
            found.append(rest.square().sum(1) / self.far)
        return tuple(found)
