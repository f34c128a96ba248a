"""Recipes: reading, error messages, and that a resolved recipe reads back."""

import re
import tomllib
from pathlib import Path

import pytest

from thaw.errors import RecipeError
from thaw.recipe import Recipe, built_in_recipes, load_recipe, recipe_text, to_toml, validate


def test_built_in_recipes_are_valid_and_read_back() -> None:
    for name in built_in_recipes():
        recipe = load_recipe(name, source="pictures")
        assert validate(tomllib.loads(to_toml(recipe)), name, Recipe) == recipe


def test_the_founding_study_is_to_the_letter() -> None:
    recipe = load_recipe("celeba-hq-gender")
    assert recipe.data.source == "hf:mattymchen/celeba-hq"
    assert (recipe.data.validation, recipe.data.test) == (2000, "validation")
    assert (recipe.images.size, recipe.images.resize, recipe.images.decode) == (224, "squash", "exact")
    assert recipe.images.mean == [0.485, 0.456, 0.406]
    assert recipe.images.std == [0.229, 0.224, 0.225]
    assert (recipe.model.backbone, recipe.model.frozen) == ("torchvision/alexnet", "train")
    assert (recipe.search.learning_rates, recipe.search.steps) == ([1e-5, 1e-4, 1e-3], 15)
    assert (recipe.train.optimizer, recipe.train.batch_size, recipe.train.epochs) == ("adam", 512, 3)
    assert recipe.train.refit == "train+validation"
    assert {name: arm.train for name, arm in recipe.arms.items()} == {
        "scratch": "all",
        "head": "head",
        "last-two-fc": ["classifier.4", "classifier.6"],
    }
    assert [recipe.weights_of(arm) for arm in recipe.arms] == ["random", "IMAGENET1K_V1", "IMAGENET1K_V1"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.epoch=3", "unknown key 'train.epoch' (did you mean 'epochs'?)"),
        ("modle.backbone=x", "unknown key 'modle' (did you mean 'model'?)"),
        ("train.epochs=0", "train.epochs = 0 should be 'auto' or a number of passes from 1 to 10000"),
        ("train.optimizer=adamm", "train.optimizer = 'adamm' should be 'adam', 'adamw' or 'sgd'"),
        ("data.validation=1.5", "data.validation = 1.5 should be the name of a split"),
        ("data.test=true", "data.test = True should be the name of a split"),
        ("arms.head.train=3", "arms.head.train = 3 should be 'all', 'head', 'last-stage'"),
        ("arms.a/b.train=head", "the arm name 'a/b'"),
        ("sweep.labels=[0.5,0.25,1.0]", "sweep.labels = [0.5, 0.25, 1.0] should be fractions that rise to 1.0"),
        ("sweep.labels=[0.5,0.5,1.0]", "should be fractions that rise to 1.0, such as [0.1, 0.25, 0.5, 1.0]"),
        ("sweep.labels=[0.5]", "should be fractions that rise to 1.0"),
        ("sweep.labels=[0.0,1.0]", "sweep.labels = 0.0 should be greater than 0"),
        ("sweep.depths=1", "sweep.depths = 1 should be greater than or equal to 2"),
        ("sweep.depths=65", "sweep.depths = 65 should be less than or equal to 64"),
        ("train.seeds=[1,1]", "train.seeds = [1, 1] should all differ"),
        ("nonsense", "has no value"),
        ("train=1", "train = 1 should be"),
        ("data.gruop=", "data.gruop= removes a key that is not there (did you mean 'group'?)."),
        ("am=", "am= removes a key that is not there (did you mean 'name'?)."),
        ("arms.scrach=", "did you mean 'scratch'?"),
        ("arms.nothing=", "removes a key that is not there (leave it out)."),
        (
            f"train.batch_size={2**80}",
            f"train.batch_size = {2**80} should be 'auto' or a number of images from 1 to 1048576",
        ),
        (f"train.epochs={2**80}", "should be 'auto' or a number of passes from 1 to 10000"),
        (f"train.seeds=[0,{2**32}]", "train.seeds = 4294967296 should be less than 4294967296"),
        (f"data.seed={2**80}", "should be less than 4294967296"),
        (f"search.steps={2**80}", "should be less than or equal to 100000"),
        (f"images.size={2**80}", "should be 'auto', a number of pixels up to 8192, or two in a list: [height, width]"),
        ("images.size=[96,96,3]", "should be 'auto', a number of pixels up to 8192, or two in a list: [height, width]"),
        (f"images.depth={2**80}", "should be 'auto' or a number of levels up to 2**32"),
        (f"arms.head.rank={2**80}", "should be less than or equal to 4096"),
        (f"data.test={2**80}", "should be the name of a split, a number of images"),
        ("train.epochs=0x" + "f" * 9999, "train.epochs = a number of thousands of digits should be 'auto'"),
        (f"train.optimizer={'a' * 999}", f"train.optimizer = '{'a' * 99}... should be"),
        ("images.mean=[123.675,116.28,103.53]", "images.mean = 123.675 should be less than or equal to 1"),
        ("images.mean=[nan,0,0]", "images.mean = nan should be"),
        ("images.std=[1,1,inf]", "images.std = inf should be less than or equal to 1"),
        ("images.std=[0,0,0]", "images.std = 0 should be greater than or equal to 0.001"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_value(setting: str, said: str) -> None:
    with pytest.raises(RecipeError, match=r"^[^\n]*\.$") as raised:
        load_recipe("celeba-hq-gender", settings=(setting,))
    assert said in str(raised.value)


def test_an_empty_value_removes_a_key() -> None:
    recipe = load_recipe("emoji-people", settings=("data.group=", "arms.scratch=", "arms.head.weights="))
    assert recipe.data.group is None
    assert list(recipe.arms) == ["head", "last-stage", "everything"]
    with pytest.raises(RecipeError, match=r"'data\.source' is missing"):
        load_recipe("emoji-people", settings=("data.source=",))


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("celeba-hq-gender", settings=("train.epoch=3", "search.steps=-1", "images.size=big"))
    for key in ("train.epoch", "search.steps", "images.size"):
        assert key in str(raised.value)


def test_an_unknown_recipe_names_a_near_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'emoji-people'"):
        load_recipe("emoji-peple")


def test_paths_in_a_file_are_relative_to_it_and_settings_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    text = recipe_text("photos").replace("[data]", '[data]\nsource = "pictures"')
    (folder / "mine.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/mine.toml", settings=("model.weights=w.safetensors",))
    assert recipe.name == "mine"
    assert recipe.data.source == str(folder / "pictures")
    assert recipe.model.weights == str(tmp_path / "w.safetensors")
    assert load_recipe("recipes/mine.toml", source="other").data.source == str(tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("decide.recall=0.9",), "decide.recall is of a class; name it in decide.positive"),
        (("decide.positive=a",), "one of decide.recall, decide.precision and decide.costs, not none"),
        (("decide.positive=a", "decide.recall=0.9", "decide.precision=0.9"), "not recall and precision"),
        (("decide.positive=a", "decide.costs=[[1, 0], [10, 0]]"), "each right decision cheaper than the wrong one"),
        (("decide.positive=a", "decide.costs=[[0, 1]]"), "decide.costs"),
        (("decide.coverage=1.5",), "decide.coverage = 1.5 should be less than 1"),
    ],
)
def test_a_threshold_is_for_one_class_and_one_aim(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe("photos", "images", settings)
    recipe = load_recipe("photos", "images", ("decide.positive=a", "decide.costs=[[0, 1], [10, 0]]"))
    assert recipe.decide.costs == [[0, 1], [10, 0]]
