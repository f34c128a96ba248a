"""Descriptions of a study's images, which probes read."""

import importlib.metadata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaw.store import key_of


@dataclass(frozen=True)
class Features:
    """A description of every image."""

    values: NDArray[np.float32]
    """(images, features), mapped."""
    key: str
    """A digest of everything that determines them."""

    def key_with(self, *given: NDArray[np.int64] | None) -> str:
        """A key of what probes of these features find: everything else that they are told is in `given`."""
        versions = {name: importlib.metadata.version(name) for name in ("thaw-vision", "scikit-learn")}
        lists = [None if rows is None else rows.tolist() for rows in given]
        return key_of(features=self.key, given=lists, versions=versions)
