"""What a recipe leaves to the images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from helpers.images import make_class_folders
from thaw.compute.device import choose_compute
from thaw.data.shapes import Shapes, look_at_shapes
from thaw.data.source import read_source
from thaw.errors import RecipeError
from thaw.recipe import Recipe, load_recipe
from thaw.settle import _beats, choose_size, choose_training, settle

CPU = choose_compute("cpu", "fp32")
ARROWS = 60


def settled(folder: Path, *settings: str) -> Recipe:
    recipe = load_recipe("photos", str(folder), ("data.validation=0.2", "data.test=0.2", *settings))
    return settle(recipe, read_source(recipe.data), CPU)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(40, 16, 20), (255, 16, 13), (256, 32, 13), (320, 32, 12), (5120, 32, 6)]
)
def test_few_images_have_small_batches_and_many_epochs(images: int, batch: int, epochs: int) -> None:
    chosen = choose_training(["a", "b"], np.array([images // 2, images - images // 2]))
    assert [choice.value for choice in chosen.values()] == [batch, epochs, "none"]


def test_rare_classes_are_weighted() -> None:
    choice = choose_training(["a", "b"], np.array([95, 5]))["train", "class_weights"]
    assert choice.value == "balanced"
    assert "'a'" in choice.why


def test_small_images_are_not_enlarged() -> None:
    assert [choose_size(Shapes([side], 0, 0), 224).value for side in [(640, 480), (224, 200), (64, 70), (20, 20)]] == [
        *(224, 224, 64, 32)
    ]


def test_what_is_given_stays(class_folder: Path) -> None:
    recipe = settled(class_folder, "train.epochs=3", "images.size=40")
    assert (recipe.train.epochs, recipe.images.size) == (3, 40)
    assert (recipe.train.batch_size, recipe.train.class_weights, recipe.images.resize) == (16, "none", "squash")
    assert settle(recipe, read_source(recipe.data)) == recipe


def test_an_arm_has_no_auto_of_its_own() -> None:
    settings = ('arms.everything.training.epochs="auto"', "train.budget=own")
    with pytest.raises(RecipeError, match=r"arms\.everything\.training: epochs = 'auto' should be a valid integer"):
        load_recipe("photos", "pictures", settings)


def test_a_probe_keeps_what_the_middle_does_not_show(tmp_path: Path) -> None:
    """Classes that differ at the ends alone, which crop cuts off, and ones that squash makes alike."""
    for kind in ("left", "right"):
        (tmp_path / kind).mkdir()
        for number in range(ARROWS):
            noise = np.random.default_rng(number).integers(90, 160, (40, 160, 3), np.uint8)
            image = Image.fromarray(noise)
            place = 4 if kind == "left" else 136
            ImageDraw.Draw(image).rectangle((place, 8, place + 20, 32), fill=(200, 30, 30))
            image.save(tmp_path / kind / f"{number}.png")
    assert settled(tmp_path, "images.size=64").images.resize == "squash"


def test_other_losses_beat_squash_beyond_chance_alone() -> None:
    random = np.random.default_rng(0)
    squash, gain = random.uniform(0.5, 1, 400), random.normal(0, 0.1, 400)
    assert _beats(squash - gain - 0.02, squash, None)
    assert not _beats(squash - gain, squash, None) or gain.mean() > 0.008
    groups = np.repeat(np.arange(4), 100)
    between = np.array([0.3, -0.2, 0.1, -0.1])[groups]
    assert not _beats(squash - between, squash, groups)
    assert _beats(squash - between, squash, None)


def test_shapes_are_those_of_the_headers(tmp_path: Path) -> None:
    make_class_folders(tmp_path, 12)
    shapes = look_at_shapes(read_source(load_recipe("photos", str(tmp_path)).data))
    assert len(shapes.sizes) == 12
    assert shapes.unreadable == shapes.jpegs == 0
    sides = np.array(shapes.sizes)
    assert shapes.shorter_side == int(np.median(sides.min(1)))
