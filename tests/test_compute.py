"""Memory layouts, which a study stays with; precision and random numbers of a device."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from thaw.cache.budget import cache_folder
from thaw.compute.device import Compute, choose_compute, exact_fp32
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.nets.layout import choose_layout, set_layout

PREPROCESSING = Preprocessing(224, "squash", "bilinear", 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_study_stays_with_its_layouts_without_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def trials(*seconds: float) -> None:
        """What a step takes from now on, contiguous and channels last."""
        spent = itertools.cycle(seconds)
        monkeypatch.setattr("thaw.nets.layout._timed", lambda *_: next(spent))

    def channels_last(noted: Path | None) -> bool:
        network = nn.Sequential(nn.Conv2d(3, 8, 3))
        chosen = replace(choose_compute("cpu", "fp32"), layouts=noted)
        found = choose_layout(network, lambda: None, chosen, "a network")
        assert found == network[0].weight.is_contiguous(memory_format=torch.channels_last)
        return found

    trials(1.0, 2.0)
    assert not channels_last(tmp_path / "first")
    trials(2.0, 1.0)
    assert not channels_last(tmp_path / "second")
    shutil.rmtree(cache_folder())
    assert channels_last(None)
    assert channels_last(tmp_path / "third")
    assert not channels_last(tmp_path / "first")


def test_no_layout_is_tried_that_would_end_the_process() -> None:
    network = nn.Sequential(Normalise(PREPROCESSING), nn.Conv2d(3, 48, 1, 2))
    pixels = torch.zeros(8, 224, 224, 3, dtype=torch.uint8)
    assert not choose_layout(network, pytest.fail, choose_compute("cpu", "fp32"), "a network")
    network(pixels).sum().backward()
    assert not network[0].channels_last
    assert network[1].weight.grad is not None


def test_what_has_other_dimensions_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv3d(3, 8, 3))
    network.register_buffer("mask", torch.zeros(1, 64, 1, 49, 49))  # as that of a Swin's windows
    set_layout(network, channels_last=True)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()


def test_a_trial_that_the_memory_does_not_hold_leaves_it_contiguous() -> None:
    def step() -> None:
        raise MemoryError

    network = nn.Sequential(nn.Conv2d(3, 8, 3))
    assert not choose_layout(network, step, choose_compute("cpu", "fp32"), "a large network")
    assert network[0].weight.is_contiguous()


def test_fp32_on_cuda_is_no_tf32() -> None:
    parts = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = True
        exact_fp32()
        assert [part.allow_tf32 for part in parts] == [False, False]
    finally:
        for part, value in zip(parts, before, strict=True):
            part.allow_tf32 = value


def test_random_numbers_are_drawn_again_from_a_kept_state() -> None:
    on_cpu = Compute(torch.device("cpu"), "fp32")
    on_cpu.seed(3)
    state = on_cpu.random_state()
    first = torch.rand(5)
    on_cpu.set_random_state(state)
    assert torch.equal(torch.rand(5), first)
    on_cpu.wait()
