"""Depths: their arithmetic against the prefixes of networks frozen there, and the choice against every other one."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.nets.backbones import build_backbone
from thaw.nets.depths import choose_depths, depth_of, depths_of
from thaw.nets.freezing import freeze, set_mode
from thaw.nets.prefix.split import split


@pytest.mark.parametrize(
    ("backbone", "size", "depths"),
    [("torchvision/mobilenet_v2", 64, 20), ("torchvision/resnet18", 64, 10), ("timm/test_vit", 160, 8)],
)
def test_the_arithmetic_of_a_depth_is_what_its_prefix_leaves(backbone: str, size: int, depths: int) -> None:
    model, head = build_backbone(backbone, "random", 3, seed=0)
    found = depths_of(model, head, size, (size, size))
    assert len(found) == depths
    assert found[-1].modules == (head,)
    for depth in found[1:]:
        rows = freeze(model, head, list(depth.modules), size)
        assert depth_of(rows, found) == depth
        set_mode(model, "eval")
        parts = split(model, torch.zeros(1, 3, size, size))
        assert parts.total_macs - parts.cut.macs == depth.macs
    assert found[0].macs == parts.total_macs
    assert depth_of(freeze(model, head, "all"), found) == found[0]


def test_what_trains_no_end_of_a_network_has_no_depth() -> None:
    model, head = build_backbone("torchvision/mobilenet_v2", "random", 2, seed=0)
    found = depths_of(model, head, 64, (64, 64))
    for train in ("norm", "bias", ["features.3", head], ["features.18.0", head]):
        assert depth_of(freeze(model, head, train), found) is None
    last = depth_of(freeze(model, head, "last-stage"), found)
    assert last is not None
    assert last.modules[0] == "features.14"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(2, 6))
def test_chosen_depths_are_the_most_even_of_all(steps: list[int], count: int) -> None:
    macs = [sum(steps[place:]) + 1 for place in range(len(steps) + 1)]
    chosen = choose_depths(macs, count)
    if len(macs) <= count:
        assert chosen == list(range(len(macs)))[::-1]
        return

    def unevenness(places: tuple[int, ...]) -> float:
        step = (macs[0] - macs[-1]) / (count - 1)
        return sum((macs[place] - macs[-1] - number * step) ** 2 for number, place in enumerate(places))

    ends = (len(macs) - 1, 0)
    every = [(ends[0], *inner[::-1], ends[1]) for inner in combinations(range(1, len(macs) - 1), count - 2)]
    assert tuple(chosen) in every
    assert unevenness(tuple(chosen)) == pytest.approx(min(map(unevenness, every)))
