"""The embedded example: what its table and its weights hold, and that they are the files the README names."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Image, load_dataset
from safetensors.torch import load_file
from torchvision.models import mobilenet_v2

import thaw.recipes

ASSETS = Path(thaw.recipes.__file__).parent / "assets"
PICTURES, WEIGHTS = ASSETS / "emoji-people.parquet", ASSETS / "mobilenet_v2.safetensors"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cache = tmp_path_factory.mktemp("datasets")
    return load_dataset("parquet", data_files=str(PICTURES), split="train", cache_dir=str(cache))


def test_the_table_keeps_its_features(people: Dataset) -> None:
    assert len(people) == 2008
    assert people.column_names == ["image", "label", "role", "skin_tone", "artist"]
    assert isinstance(people.features["image"], Image)
    assert people.features["label"] == ClassLabel(names=["female", "male"])


def test_labels_tones_and_artists_are_balanced(people: Dataset) -> None:
    assert np.bincount(people["label"][:]).tolist() == [1004, 1004]
    assert sorted(set(people["skin_tone"])) == ["dark", "light", "medium", "medium-dark", "medium-light", "none"]
    assert sorted(people["artist"]) == ["noto"] * 1004 + ["twemoji"] * 1004


def test_each_role_has_both_genders_by_both_artists(people: Dataset) -> None:
    found = set(zip(people["role"], people["label"], people["artist"], strict=True))
    assert found == {(role, label, artist) for role, _, artist in found for label in (0, 1)}
    assert {artist for _, _, artist in found} == {"noto", "twemoji"}
    assert len(found) == 4 * len(set(people["role"])) == 4 * 79


def test_a_drawing_shares_its_role_across_gender_and_direction(people: Dataset) -> None:
    paths = [image["path"] for image in people.cast_column("image", Image(decode=False))["image"]]
    assert len(set(paths)) == 2008
    assert paths == sorted(paths)
    roles = {Path(path).stem: role for path, role in zip(paths, people["role"], strict=True)}
    assert roles["1f468-200d-1f33e"] == roles["1f469-1f3ff-200d-1f33e"] == "farmer"
    assert roles["1f934"] == roles["1f478-1f3fb"] == "prince or princess"
    assert roles["1f3c3-200d-2640-fe0f"] == roles["1f3c3-200d-2642-fe0f-200d-27a1-fe0f"] == "running"


def test_no_picture_stands_in_two_roles(people: Dataset) -> None:
    of_picture: dict[bytes, set[str]] = {}
    for image, role in zip(people.cast_column("image", Image(decode=False))["image"], people["role"], strict=True):
        of_picture.setdefault(image["bytes"], set()).add(role)
    assert [roles for roles in of_picture.values() if len(roles) > 1] == []


def test_pictures_are_drawn_on_white(people: Dataset) -> None:
    assert {(image.size, image.mode) for image in people["image"]} == {((64, 64), "RGB")}
    corners = np.stack([np.asarray(image)[[0, 0, -1, -1], [0, -1, 0, -1]] for image in people["image"]])
    assert (corners == 255).all(axis=-1).mean() > 0.8  # some drawings reach into a corner


def test_the_weights_fill_mobilenet_but_for_its_classifier() -> None:
    model = mobilenet_v2()
    missing, unexpected = model.load_state_dict(load_file(WEIGHTS), strict=False)
    assert (missing, unexpected) == (["classifier.1.weight", "classifier.1.bias"], [])
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_assets_are_small_and_the_ones_that_the_readme_names() -> None:
    assert PICTURES.stat().st_size + WEIGHTS.stat().st_size < 12_800_000
    text = (ASSETS / "README.md").read_text()
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() in text for path in (PICTURES, WEIGHTS))
