"""`thaw scout`: what it finds and writes, on small images and with nothing but what comes with thaw."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from helpers.cli import thaw
from thaw.nets.usual import KNOWN
from thaw.recipe import load_recipe
from thaw.scout.probes import scout, spread

SMALL = ("images.size=64", "train.precision=fp32", "data.validation=10", "data.test=10")


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights in the caches of torch.hub and the hub, and no way to download any."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing should be downloaded")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("thaw.nets.backbones._is_cached", lambda _: False)
    monkeypatch.setattr("thaw.nets.backbones._fetch", refuse)
    monkeypatch.setattr("thaw.nets.backbones._reach_hub", refuse)
    monkeypatch.chdir(tmp_path)


def test_it_finds_and_writes_a_study_that_loads(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thaw(monkeypatch, "scout", class_folder, settings=SMALL) == 0
    said = capsys.readouterr().out
    assert "torchvision/mobilenet_v2" in said
    assert "Worth a study: " in said
    assert "50 training and validation images; no test image was looked at" in " ".join(said.split())
    missing = [name for name in KNOWN if name != "torchvision/mobilenet_v2"]
    assert f"Not tried, since their weights are not on this machine: {', '.join(missing)}." in said
    text = Path("scout.toml").read_text()
    assert text.startswith("# Written by thaw scout. ")
    assert tomllib.loads(text)["images"]["size"] == 64
    recipe = load_recipe("scout.toml")
    assert recipe.data.source == str(class_folder)
    assert {"head", "last-stage", "everything"} <= recipe.arms.keys()
    if "cut" in recipe.arms:
        assert recipe.arms["cut"].at == recipe.arms["cut-everything"].at is not None
    assert thaw(monkeypatch, "scout", class_folder, settings=SMALL) == 2
    assert "scout.toml is already there and is left as it is" in capsys.readouterr().err
    assert Path("scout.toml").read_text() == text


def test_a_mistyped_network_is_one_helpful_sentence(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thaw(monkeypatch, "scout", class_folder, "--backbones", "torchvision/resnt18", settings=SMALL) == 2
    said = capsys.readouterr().err
    assert said.startswith("thaw: there is no backbone 'torchvision/resnt18' (did you mean torchvision/resnet18")
    assert said.count("\n") == 1
    assert not Path("scout.toml").exists()


def test_two_networks_at_sizes_of_their_own(class_folder: Path) -> None:
    """The recipe's own, and one that was named, which sees the images in its own way."""
    settings = ("model.backbone=timm/test_resnet", "model.weights=random", "images.size=", *SMALL[1:])
    recipe = load_recipe("photos", str(class_folder), settings)
    found = scout(recipe, ["timm/test_resnet", "torchvision/mobilenet_v2"])
    assert [network.recipe.model.weights for network in found.networks] == ["random", "thaw:mobilenet_v2"]
    assert [network.preprocessing.size for network in found.networks] == [160, 224]
    assert all(len(probe.right) == 50 for network in found.networks for probe in network.probes)
    best = max(probe.accuracy for network in found.networks for probe in network.probes)
    assert found.chosen[1].accuracy >= best - 0.01


def test_a_network_of_one_size_sees_images_at_its_own(class_folder: Path) -> None:
    settings = ("model.backbone=timm/vit_tiny_patch16_224", "model.weights=random", *SMALL)
    found = scout(load_recipe("photos", str(class_folder), settings), ["timm/vit_tiny_patch16_224"])
    assert [network.preprocessing.size for network in found.networks] == [224]
    assert found.networks[0].recipe.images.size is None
    assert [probe.at for probe in found.networks[0].probes][-3:] == ["blocks.10", "norm", None]


def test_of_many_images_each_class_gives_its_share() -> None:
    labels = np.repeat([0, 1, 2], [6000, 3000, 1000])
    drawn = spread(labels, np.arange(10_000), 1000)
    assert len(np.unique(drawn)) == 1000
    assert np.bincount(labels[drawn]).tolist() == pytest.approx([600, 300, 100], abs=1)
    assert spread(labels, np.arange(10), 1000).tolist() == list(range(10))
