"""Kept activations: computed once, the same as computed anew, and never those of other weights."""

import numpy as np
import pytest
import torch
from torch import nn

from thaw.compute.batches import Inputs
from thaw.compute.device import Compute
from thaw.errors import StorageError
from thaw.training.activations import fingerprint, make_activations

PIXELS = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype(np.float32)
INPUTS = Inputs((PIXELS,), torch.device("cpu"))


class Prefix(nn.Module):
    """Two crossing tensors of a small network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(36, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.first(images)
        return maps, self.second(maps.mean(1).flatten(1))


def made(prefix: nn.Module, precision: str = "fp32") -> tuple[bool, tuple[np.ndarray, ...]]:
    entry = make_activations(prefix, INPUTS, fingerprint(prefix), Compute(torch.device("cpu"), precision))
    assert entry is not None
    return entry.made, entry.arrays


def test_they_are_what_the_prefix_computes_and_are_computed_once() -> None:
    prefix = Prefix()
    new, arrays = made(prefix)
    assert new
    with torch.inference_mode():
        expected = prefix(torch.from_numpy(PIXELS))
    for array, tensor in zip(arrays, expected, strict=True):
        assert np.allclose(array, tensor.numpy(), atol=1e-6)
    assert not made(Prefix())[0]


def test_another_weight_or_precision_is_another_entry() -> None:
    prefix = Prefix()
    assert made(prefix)[0]
    with torch.no_grad():
        prefix.first.bias[0] += 1e-7
    assert made(prefix)[0]
    new, arrays = made(prefix, "bf16")
    assert new
    assert arrays[0].dtype == np.uint16


def test_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.training.activations.CACHE_BYTES", 10)
    assert make_activations(Prefix(), INPUTS, "k", Compute(torch.device("cpu"), "fp32")) is None


def test_a_disk_without_room_for_them_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.training.activations.room", lambda: 10)
    with pytest.raises(StorageError, match=r'no room .* must be free.* or set cache.activations = "off"'):
        make_activations(Prefix(), INPUTS, "k", Compute(torch.device("cpu"), "fp32"))
