"""What enters the head, against torchvision's own network with the head taken off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.images.preprocessing import Normalise
from thaw.nets.backbones import build_backbone
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.recipes import embedded_weights
from thaw.training.features import extract_features
from thaw.training.specs import feature_spec


def test_features_are_what_the_headless_network_gives(class_folder: Path) -> None:
    settings = ("images.size=32", "train.precision=fp32", "data.validation=10", "data.test=10")
    recipe = load_recipe("photos", str(class_folder), (*SETTLED, *settings))
    compute = choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    found = extract_features(feature_spec(recipe), dataset, compute).values
    model, _ = build_backbone(recipe.model.backbone, embedded_weights(recipe.model.weights), 2, seed=5)
    model.classifier = nn.Identity()
    pixels = torch.from_numpy(np.stack([dataset.pixels.image(row) for row in range(60)]))
    with torch.inference_mode():
        expected = model.eval()(Normalise(dataset.preprocessing)(pixels)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_features_are_the_same_without_caches(class_folder: Path) -> None:
    settings = ("images.size=32", "train.precision=fp32")
    compute = choose_compute("cpu", "fp32")
    found = []
    for caches in ("auto", "off"):
        recipe = load_recipe("photos", str(class_folder), (*SETTLED, *settings, f"cache.activations={caches}"))
        found.append(extract_features(feature_spec(recipe), load_dataset(recipe, compute, Clock()), compute).values)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_features_follow_the_normalisation(class_folder: Path) -> None:
    """Also where they come from pixels, which are kept before it."""
    compute, settings = choose_compute("cpu", "fp32"), ("images.size=32", "cache.activations=off")
    found = []
    for mean in ("[0.5, 0.4, 0.3]", "[0.1, 0.2, 0.3]"):
        recipe = load_recipe("photos", str(class_folder), (*SETTLED, *settings, f"images.mean={mean}"))
        found.append(extract_features(feature_spec(recipe), load_dataset(recipe, compute, Clock()), compute))
    assert found[0].key != found[1].key
    assert not np.allclose(found[0].values, found[1].values)


def test_features_are_computed_once(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("photos", str(class_folder), (*SETTLED, "images.size=32", "train.precision=fp32"))
    compute = choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    found, ran = extract_features(feature_spec(recipe), dataset, compute).values, []
    monkeypatch.setattr("thaw.training.features.stage", lambda *_: ran.append(True))
    np.testing.assert_array_equal(extract_features(feature_spec(recipe), dataset, compute).values, found)
    assert not ran
