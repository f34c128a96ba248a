"""Batches of one image: trained on where the network can, else refused before an image is decoded."""

from pathlib import Path

import pytest

import thaw
from helpers.images import encoded_image, make_class_folders
from thaw.errors import ModelError
from thaw.plan import check_batches
from thaw.recipe import Recipe, load_recipe

RECIPE = """
data.source = "images"
images.size = 32
model.backbone = "torchvision/mobilenet_v2"
model.weights = "random"
search.learning_rates = [1e-3]
search.steps = 2
train.batch_size = 1
train.epochs = 1
train.precision = "fp32"
arms.head.train = "head"
"""


def recipe(folder: Path, *settings: str) -> Recipe:
    (folder / "one.toml").write_text(RECIPE)
    return load_recipe(str(folder / "one.toml"), settings=settings)


@pytest.mark.parametrize("train", ["all", "last-stage", "norm"])
def test_an_arm_that_cannot_is_named_before_an_image_is_decoded(train: str, tmp_path: Path) -> None:
    for label in ("left", "right"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "images" / label / f"{number}.png").write_bytes(b"no image")
    refused = recipe(tmp_path, f"arms.b.train={train}")
    with pytest.raises(ModelError, match=r"^arm b trains batch normalisation.* 32 px .*batch_size to 2 or more.*\.$"):
        thaw.run_study(refused, tmp_path / "run")


def test_an_arm_that_can_is_not_refused(tmp_path: Path) -> None:
    check_batches(recipe(tmp_path, "arms.b.train=all", "images.size=64"), 64)
    check_batches(recipe(tmp_path, "arms.b.train=all", "train.batch_size=2"), 32)


def test_a_study_on_batches_of_one(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "images", 24)
    metrics = thaw.run_study(recipe(tmp_path), tmp_path / "run")
    assert list(metrics.arms) == ["head"]


def test_a_classifier_says_the_same() -> None:
    images, labels = [encoded_image(seed, seed % 2) for seed in range(8)], [0, 1] * 4
    one = {"weights": "random", "size": 32, "batch_size": 1, "epochs": 1, "learning_rates": [1e-3]}
    assert thaw.Classifier(**one).fit(images, labels).predict(images).shape == (8,)
    with pytest.raises(ModelError, match="arm classifier trains batch normalisation"):
        thaw.Classifier(train="all", **one).fit([b"no image"] * 8, labels)
