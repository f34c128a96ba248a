"""Cached activations: computed once, the same as computed anew, and never those of other weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from helpers.studies import SETTLED
from thaw.cache.arrays import CachedArrays
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.errors import StorageError
from thaw.nets.prefix.split import Cut, Split
from thaw.nets.prefix.trace import trace
from thaw.plan import make_plan
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.training.activations import cached_activations, describe_prefix

FP32 = Compute(torch.device("cpu"), "fp32")


class Floats(nn.Module):
    """uint8 pixels (n, height, width, 3) to float (n, 3, height, width)."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.permute(0, 3, 1, 2).float() / 255


class Two(nn.Module):
    """Two crossing tensors of a small network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(36, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.first(images)
        return maps, self.second(maps.mean(1).flatten(1))


@pytest.fixture
def dataset(class_folder: Path) -> Dataset:
    return load_dataset(
        load_recipe(
            "photos",
            str(class_folder),
            (
                *SETTLED,
                "images.size=8",
            ),
        ),
        FP32,
        Clock(),
    )


def made(prefix: fx.GraphModule, dataset: Dataset, compute: Compute = FP32) -> CachedArrays:
    split = Split(prefix, prefix, prefix, Cut("g", ("first",), (), 1), (), 1, "")
    described = describe_prefix(split, 8, compute)
    assert described is not None
    return cached_activations(
        described, nn.Sequential(Floats(), prefix), dataset.seen()[0], dataset.preprocessing, compute
    )


def test_they_are_what_the_prefix_computes_and_are_computed_once(dataset: Dataset) -> None:
    prefix = trace(Two())
    new = made(prefix, dataset)
    assert new.made
    with torch.inference_mode():
        expected = prefix(Floats()(torch.from_numpy(np.stack([dataset.pixels.image(row) for row in range(60)]))))
    for array, tensor in zip(new.arrays, expected, strict=True):
        assert np.allclose(array, tensor.numpy(), atol=1e-6)
    assert not made(trace(Two()), dataset).made


def test_another_weight_or_precision_is_another_entry(dataset: Dataset) -> None:
    prefix = trace(Two())
    assert made(prefix, dataset).made
    with torch.no_grad():
        prefix.get_parameter("first.bias")[0] += 1e-7
    assert made(prefix, dataset).made
    rounded = made(prefix, dataset, Compute(FP32.device, "bf16"))
    assert rounded.made
    assert rounded.arrays[0].dtype == np.uint16


def test_what_is_larger_than_the_cache_may_be_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("photos", "images", (*SETTLED, "images.size=32", "train.device=cpu"))
    assert make_plan(recipe, 2, 60, 32, FP32).prefixes
    monkeypatch.setenv("THAW_CACHE_LIMIT", "10")
    plan = make_plan(recipe, 2, 60, 32, FP32)
    assert plan.prefixes == []
    assert plan.networks["head"].frontier.reason == "its activations are larger than the cache may be"


def test_a_disk_without_room_for_them_is_said_before_the_work(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaw.training.activations.available_bytes", lambda: 10)
    with pytest.raises(StorageError, match=r'must be free|needed.*cache.activations = "off"'):
        made(trace(Two()), dataset)
