"""All that a study found, before it is written down."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thaw.audit.label_errors import LabelErrors
from thaw.audit.results import Audit
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.shares import with_share
from thaw.data.shifted import ShiftedSet
from thaw.data.splits import group_codes
from thaw.recipe import Recipe
from thaw.scoring.slices import Slices, cut_slices
from thaw.training.results import Thawed, TrialResult


@dataclass(frozen=True)
class StudyResult:
    """A finished study."""

    recipe: Recipe
    """As it was run, every setting resolved."""
    dataset: Dataset
    """Its images."""
    compute: Compute
    """What it ran on."""
    audit: Audit
    """What is wrong or odd about the images."""
    label_errors: LabelErrors
    """Which labels are probably wrong."""
    results: list[TrialResult]
    """One for each arm, seed and fraction of the training images, in any order."""
    features: str
    """The cache key of the features of every image."""
    thawed: dict[str, Thawed] = field(default_factory=dict)
    """How deep each arm thaws that trains everything from one layer on."""
    shifted: tuple[ShiftedSet, ...] = ()
    """The further test sets, see `data.shifted.load_shifted`."""
    repeats: list[TrialResult] = field(default_factory=list)
    """For each of `dataset.repeats` in turn a trial of each arm."""

    def trials(self, fraction: float = 1.0) -> dict[str, list[TrialResult]]:
        """Return the trials of each arm on a fraction of the training images, arms and seeds in the recipe's order."""
        seeds = self.recipe.train.seeds
        ordered = sorted(self.results, key=lambda one: seeds.index(one.record.seed))
        return {
            arm: [one for one in ordered if one.record.arm == arm and one.record.fraction == fraction]
            for arm in self.recipe.arms
        }

    def trained_on(self, fraction: float) -> int:
        """Count the images that the final training sees, of a fraction of the training images."""
        splits = with_share(self.dataset, self.recipe.data, fraction).splits
        return len(splits.train) + (len(splits.validation) if self.recipe.train.refit == "train+validation" else 0)

    def test_labels(self) -> NDArray[np.int64]:
        """Return the labels of the test images, (n,)."""
        return self.dataset.source.labels[self.dataset.splits.test]

    def test_groups(self) -> NDArray[np.int64] | None:
        """Return the groups of the test images, (n,) codes from 0; None without a group column."""
        return self._groups(self.dataset.splits.test)

    def validation_labels(self) -> NDArray[np.int64]:
        """Return the labels of the validation images, (n,)."""
        return self.dataset.source.labels[self.dataset.splits.validation]

    def validation_groups(self) -> NDArray[np.int64] | None:
        """Return the groups of the validation images, (n,) codes from 0; None without a group column."""
        return self._groups(self.dataset.splits.validation)

    def test_slices(self) -> list[Slices]:
        """Cut the test images into the slices that the recipe asks for, or that their columns offer."""
        data = self.recipe.data
        never = {data.label, *filter(None, (data.group, data.split))}
        return cut_slices(self.dataset.source.columns.take(self.dataset.splits.test), data.slices, never)

    def _groups(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        codes = group_codes(self.dataset.source, self.recipe.data)
        return None if codes is None else np.unique(codes[rows], return_inverse=True)[1]
