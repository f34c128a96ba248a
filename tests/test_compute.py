"""Memory layouts: tried once for a machine and a network, and a study stays with what it noted."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from thaw import compute
from thaw.compute import choose_compute, choose_layout
from thaw.eviction import cache_folder


def test_a_study_stays_with_its_layouts_without_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def trials(*seconds: float) -> None:
        """What a step takes from now on, contiguous and channels last."""
        spent = itertools.cycle(seconds)
        monkeypatch.setattr(compute, "_timed", lambda *_: next(spent))

    def channels_last(noted: Path | None) -> bool:
        network = nn.Sequential(nn.Conv2d(3, 8, 3))
        choose_layout(network, lambda: None, replace(choose_compute("cpu", "fp32"), layouts=noted), "a network")
        return network[0].weight.is_contiguous(memory_format=torch.channels_last)

    trials(1.0, 2.0)
    assert not channels_last(tmp_path / "first")
    trials(2.0, 1.0)
    assert not channels_last(tmp_path / "second")
    shutil.rmtree(cache_folder())
    assert channels_last(None)
    assert channels_last(tmp_path / "third")
    assert not channels_last(tmp_path / "first")
