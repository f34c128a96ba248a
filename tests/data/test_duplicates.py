"""Near duplicates: edited pictures are found and others are not, and no pair is lost between blocks."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from helpers.images import SIDE, scene
from thaw.compute.batches import make_inputs
from thaw.data import duplicates
from thaw.data.duplicates import NEAR, cached_outlines, chain, components, near_pairs, outlines

CPU = torch.device("cpu")


def looks_of(pictures: list[Image.Image]) -> np.ndarray:
    return outlines(torch.from_numpy(np.stack([np.asarray(one) for one in pictures])))[0]


def saved_again(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize(
    "edit",
    [
        saved_again,
        lambda one: one.resize((70, 70)).resize((SIDE, SIDE)),
        lambda one: ImageEnhance.Brightness(one).enhance(0.6),
        lambda one: ImageEnhance.Contrast(one).enhance(0.6),
        lambda one: ImageEnhance.Color(one).enhance(0.5),
    ],
    ids=["saved again", "made smaller", "darker", "less contrast", "paler"],
)
def test_a_picture_that_was_edited_is_near_and_others_are_not(edit: Callable[[Image.Image], Image.Image]) -> None:
    pictures = [scene(seed) for seed in range(30)]
    looks = looks_of([*pictures, *map(edit, pictures)])
    found = {
        (int(a), int(b)) for first, second, _ in near_pairs(looks, CPU) for a, b in zip(first, second, strict=True)
    }
    right = {(row, row + 30) for row in range(30)}
    assert found <= right
    assert len(found) >= 28


def test_blank_pictures_are_near_nothing_and_grey_ones_are_seen() -> None:
    blank = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("white", "black", "red")]
    looks, grey, *_ = outlines(
        torch.from_numpy(
            np.stack([np.asarray(one) for one in [*blank, scene(0), scene(0).convert("L").convert("RGB")]])
        )
    )
    assert not looks[:3].any()
    assert np.allclose(np.linalg.norm(looks[3:], axis=1), 1, atol=1e-5)
    assert grey.tolist() == [True, True, False, False, True]


def test_every_pair_is_found_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    looks = random.normal(size=(90, 20)).astype(np.float32)
    looks[40:60] = looks[:20] + 0.1 * random.normal(size=(20, 20)).astype(np.float32)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    expected = {
        (a, b) for a in range(90) for b in range(a + 1, 90) if 1 - float(looks[a].astype(float) @ looks[b]) <= NEAR
    }
    assert len(expected) >= 15
    for block in (7, 32, 90, 2048):
        monkeypatch.setattr(duplicates, "BLOCK", block)
        found = [
            (int(a), int(b))
            for first, second, far in near_pairs(looks, CPU)
            for a, b, d in zip(first, second, far, strict=True)
            if 0 <= d <= NEAR + 1e-6
        ]
        assert len(found) == len(set(found))
        assert set(found) == expected


def test_components_are_the_same_when_pairs_are_condensed(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    pairs = [(random.integers(0, 300, 20), random.integers(0, 300, 20)) for _ in range(9)]
    whole = components(300, pairs)
    monkeypatch.setattr(duplicates, "EDGES", 30)
    assert np.array_equal(components(300, pairs), whole)
    codes = random.integers(0, 50, 300)
    linked = components(300, [chain(codes)])
    assert len(np.unique(np.stack([linked, codes]), axis=1)[0]) == len(np.unique(codes)) == linked.max() + 1


def test_outlines_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = make_inputs((np.stack([np.asarray(scene(seed)) for seed in range(40)]),), CPU)
    found = cached_outlines(pixels, "these")
    monkeypatch.setattr(duplicates, "outlines", None)
    for one, again in zip(found, cached_outlines(pixels, "these"), strict=True):
        assert np.array_equal(one, again)
    with pytest.raises(TypeError):
        cached_outlines(pixels, "others")
