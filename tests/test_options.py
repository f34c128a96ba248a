"""The plain options of `thaw study`, the folder of a run, and what an unknown option suggests."""

from pathlib import Path
from typing import Any

import pytest

from helpers.cli import thaw
from thaw.cache.arrays import Field, cached
from thaw.cache.budget import entries, making_for
from thaw.cli.options import default_folder, setting_for, side
from thaw.recipe import Recipe
from thaw.run.folder import differences


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("--learning-rate", "'search.learning_rates=[VALUE]'"),
        ("--lr", "'search.learning_rates=[VALUE]'"),
        ("--batch-size", "train.batch_size=VALUE"),
        ("--batch", "train.batch_size=VALUE"),
        ("--bs", "train.batch_size=VALUE"),
        ("--backbone", "model.backbone=VALUE"),
        ("--optimiser", "train.optimizer=VALUE"),
        ("--train-epochs", "train.epochs=VALUE"),
        ("--rank", "arms.NAME.rank=VALUE"),
        ("--otu", ""),
        ("--zzz", ""),
    ],
)
def test_an_unknown_option_names_the_key_that_it_means(option: str, setting: str) -> None:
    assert setting_for(option) == setting


def test_the_key_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert thaw(monkeypatch, "study", "--learning-rate", "0.1") == 2
    assert capsys.readouterr().err == (
        "thaw: no such option '--learning-rate'; set the recipe's key: --set 'search.learning_rates=[VALUE]'.\n"
    )


@pytest.mark.parametrize(
    ("source", "recipe", "folder"),
    [
        (None, None, "emoji-people"),
        ("birds", None, "birds"),
        ("photos/birds/", None, "birds"),
        ("table.csv", None, "table"),
        ("hf:user/some.name", None, "user-some.name"),
        ("thaw:emoji-people", None, "emoji-people"),
        ("birds", "mine/quick.toml", "birds-quick"),
        ("my birds", "photos", "my-birds-photos"),
        (".", None, "here"),
    ],
)
def test_a_run_is_named_for_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, recipe: str | None, folder: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "table.csv").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert default_folder(source, recipe, "emoji-people") == Path("runs") / folder


def test_plain_options_are_keys_of_the_recipe(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("thaw.study.run_study", lambda *given: seen.append(given) or 1 / 0)
    options = ("--epochs", 2, "--device", "cpu", "--size", "32x48", "--limit", 50, "--seed", 3, "--seed", 4)
    assert thaw(monkeypatch, "study", class_folder, *options, "--track", "wandb") == 1
    recipe, out, _, track = seen[0]
    assert isinstance(recipe, Recipe)
    assert (recipe.train.epochs, recipe.train.device, recipe.train.seeds) == (2, "cpu", [3, 4])
    assert (recipe.images.size, recipe.data.limit) == ([32, 48], 50)
    assert (out, track) == (Path("runs") / "pictures", "wandb")
    assert "wandb" not in str(recipe.model_dump())
    assert side("224") == "224"


def test_a_size_that_is_none_is_one_sentence(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thaw(monkeypatch, "study", class_folder, "--size", "big") == 2
    assert "--size 'big' is not a number of pixels; write it like 224 or 160x224" in capsys.readouterr().err


def test_a_mistyped_source_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert thaw(monkeypatch, "study", "nosuch") == 2
    assert "there is no" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    assert thaw(monkeypatch, "study", "nosuch") == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_without_a_source_it_is_said_that_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("thaw.study.run_study", lambda *given: 1 / 0)
    assert thaw(monkeypatch, "study") == 1
    assert "runs the built-in example" in capsys.readouterr().err
    assert thaw(monkeypatch, "study", "--recipe", "emoji-people") == 1
    assert "example" not in capsys.readouterr().err


def test_a_dry_run_lists_modules_only_when_asked(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ("--set", "arms.last-stage=", "--set", "arms.everything=", "--size", 32, "--dry-run")
    assert thaw(monkeypatch, "study", class_folder, *arms) == 0
    short = capsys.readouterr().out
    assert short.startswith("photos: 60 images, torchvision/mobilenet_v2, 1 trial of 20 epochs (1 arm, 1 seed)\n")
    assert "features.0.0" not in short
    assert "--verbose lists the 105 modules" in short
    assert thaw(monkeypatch, "study", class_folder, *arms, "--verbose") == 0
    assert "features.0.0" in capsys.readouterr().out


def test_the_cache_says_whose_entries_are_and_clears_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    for key, source in (("aaaa1111", "birds"), ("aabb2222", "hf:cats")):
        with making_for(source, "timm/resnet18"):
            cached("pixels", key, 2, [Field((1,), "uint8")], lambda _: iter([((np.zeros((2, 1), np.uint8),), {})]))
    cached("pixels", "cccc3333", 2, [Field((1,), "uint8")], lambda _: iter([((np.zeros((2, 1), np.uint8),), {})]))
    assert {entry.key: entry.made_for.get("source") for entry in entries()} == {
        "aaaa1111": "birds",
        "aabb2222": "hf:cats",
        "cccc3333": None,
    }
    assert thaw(monkeypatch, "cache") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("birds, timm/resnet18") + 1].split()[:2] == ["pixels", "aaaa1111"]
    assert lines[lines.index("hf:cats, timm/resnet18") + 1].split()[:2] == ["pixels", "aabb2222"]
    assert thaw(monkeypatch, "cache", "clear", "aa") == 2
    assert "several entries have keys that begin with 'aa'" in capsys.readouterr().err
    assert thaw(monkeypatch, "cache", "clear", "zz") == 2
    assert "no entry has a key that begins with 'zz'" in capsys.readouterr().err
    assert thaw(monkeypatch, "cache", "clear", "aab") == 0
    assert {entry.key for entry in entries()} == {"aaaa1111", "cccc3333"}


def test_recipes_differ_by_keys() -> None:
    one = {"train": {"epochs": 3, "seeds": [0]}, "name": "a"}
    other = {"train": {"epochs": 4, "seeds": [0]}, "name": "a", "data": {"limit": 5}}
    assert differences([one, one]) == {}
    assert differences([one, other, one]) == {"data.limit": [None, 5, None], "train.epochs": [3, 4, 3]}
