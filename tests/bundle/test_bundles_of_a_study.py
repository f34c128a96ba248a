"""What a study leaves can be taken away: its bundles predict what it measured, and say where they come from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

import thaw
from helpers.images import encoded_image
from thaw.nets.backbones import origin
from thaw.report.card import card
from thaw.run.metrics import Metrics

QUICK = (
    "images.size=32",
    "search.steps=2",
    "search.learning_rates=[1e-3]",
    "train.epochs=1",
    "train.batch_size=8",
    "train.precision=fp32",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[thaw.Run]:
    """A study of two arms on pictures of several sizes and formats."""
    root = tmp_path_factory.mktemp("study")
    kinds = ("PNG", "JPEG", "WEBP")
    for seed in range(40):
        folder = root / "pictures" / ("left", "right")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        kind = kinds[seed % 3]
        (folder / f"{seed:03d}.{kind.lower()}").write_bytes(encoded_image(seed, seed % 2, side=30 + seed, kind=kind))
    (root / "two.toml").write_text(
        '[model]\nbackbone = "torchvision/mobilenet_v2"\nweights = "thaw:mobilenet_v2"\n'
        '[arms.head]\ntrain = "head"\n[arms.everything]\ntrain = "all"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(root / "cache"))
        thaw.run_study(thaw.load_recipe(str(root / "two.toml"), str(root / "pictures"), QUICK), root / "run")
        yield thaw.read_run(root / "run")


@pytest.mark.parametrize("arm", ["head", "everything"])
def test_a_bundle_predicts_what_the_study_measured(run: thaw.Run, arm: str) -> None:
    rows = [row for row in run.predictions.to_pylist() if row["arm"] == arm]
    files = [Path(run.recipe.data.source) / row["id"] for row in rows]
    bundle = thaw.load(run.folder / "models" / arm, device="cpu", precision="fp32")
    assert len(files) > 4
    assert bundle.predict(files).tolist() == [row["predicted"] for row in rows]
    measured = [[row[f"p_{name}"] for name in bundle.classes] for row in rows]
    np.testing.assert_allclose(bundle.predict_proba(files), measured, atol=1e-6)


def test_a_bundle_says_where_it_comes_from(run: thaw.Run) -> None:
    config, arm = run.bundle("head").config, run.metrics.arms["head"]
    assert config["test"]["accuracy"] == arm.test.accuracy
    assert config["test"]["intervals"] == arm.intervals.model_dump(mode="json")
    told = run.metrics.data
    assert config["data"] == {"source": "pictures", "fingerprint": told.fingerprint, "splits": told.splits}
    assert "confusion" not in config["test"]
    assert config["weights"]["name"] == "thaw:mobilenet_v2"
    assert {"torch", "torchvision", "timm", "thaw-vision"} <= config["versions"].keys()
    assert str(run.folder.parent) not in json.dumps(config) + (run.folder / "models/head/README.md").read_text()


def test_the_model_card_is_what_the_hub_reads(run: thaw.Run) -> None:
    read = ModelCard.load(run.folder / "models" / "head" / "README.md")
    test = run.metrics.arms["head"].test.model_dump()
    assert read.data.pipeline_tag == "image-classification"
    assert {one.metric_type: one.metric_value for one in read.data.eval_results} == {
        name: pytest.approx(test[name]) for name in ("accuracy", "precision", "recall", "f1")
    }
    assert eval_results_to_model_index(read.data.model_name, read.data.eval_results)[0]["name"] == "two-head"
    assert f"| Accuracy | {test['accuracy']:.4f} |" in read.text
    for heading in ("## Use", "**Intended use.**", "## Scores", "## Limits", "## Training"):
        assert heading in read.text


def test_a_card_of_everything_there_may_be(run: thaw.Run) -> None:
    """Slices, a temperature, a licence, a data set and a base model on the hub; names that Markdown would take up."""
    config = run.bundle("head").config
    config |= {"temperature": 1.7, "classes": ["a|b", "<b>"]}
    config["weights"] = {"name": "a1_in1k", "licence": "apache-2.0", "hub": "timm/resnet50.a1_in1k"}
    config["data"]["source"] = "hf:user/pictures"
    found = run.metrics.model_dump()
    found["arms"]["head"]["calibration"] |= {"ece": 0.2, "ece_after": 0.05, "temperature": 1.7}
    value = {"value": "old", "count": 12, "small": True, "arms": {"head": {"accuracy": 0.5, "interval": [0.2, 0.8]}}}
    found["slices"] = [{"column": "age", "kind": "category", "values": [value], "gaps": {}}]

    def read() -> Any:
        return ModelCard(card(config, Metrics.model_validate(found)))

    assert read().data.license == "apache-2.0"
    assert read().data.datasets == ["user/pictures"]
    assert read().data.base_model == "timm/resnet50.a1_in1k"
    assert "| age | old | 12, few images | 0.5000 | 0.2000 to 0.8000 |" in read().text
    assert "temperature 1.700. Their expected calibration error on the test images is 0.050" in read().text
    assert r"a\|b, \<b\>" in read().text
    config["weights"]["licence"] = "https://example.org/licence"
    assert read().data.license_link == "https://example.org/licence"
    config["weights"]["licence"] = "seer-license"
    assert read().data.license_name == "seer-license"


def test_a_card_tells_what_is_known_of_the_licence_of_torchvisions_weights(run: thaw.Run) -> None:
    weights = run.bundle("head").config["weights"]
    read = ModelCard.load(run.folder / "models" / "head" / "README.md")
    assert (read.data.license, read.data.license_link) == ("other", weights["licence"])
    assert f"{weights['terms']} See {weights['licence']}." in read.text
    assert all(word in weights["terms"] for word in ("BSD 3-Clause", "terms of their own", "ImageNet-1k"))


def test_what_the_libraries_say_of_their_weights() -> None:
    nothing = {"licence": None, "terms": None, "hub": None}
    assert origin("torchvision/alexnet", "random") == origin("torchvision/alexnet", "own.safetensors") == nothing
    assert origin("torchvision/alexnet", "IMAGENET1K_V1")["terms"]
    swag = origin("torchvision/vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    assert swag == nothing | {"licence": "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"}
    assert origin("timm/resnet50", "a1_in1k") == nothing | {"licence": "apache-2.0", "hub": "timm/resnet50.a1_in1k"}


def test_a_temperature_calibrates(run: thaw.Run) -> None:
    rows = [row for row in run.predictions.to_pylist() if row["arm"] == "head"]
    files = [Path(run.recipe.data.source) / row["id"] for row in rows]
    config = json.loads((run.folder / "models/head/config.json").read_text())
    (run.folder / "models/head/config.json").write_text(json.dumps(config | {"temperature": 4.0}))
    warm = thaw.load(run.folder / "models" / "head", "cpu", "fp32").predict_proba(files)
    (run.folder / "models/head/config.json").write_text(json.dumps(config))
    plain = thaw.load(run.folder / "models" / "head", "cpu", "fp32").predict_proba(files)
    np.testing.assert_allclose(warm, plain**0.25 / (plain**0.25).sum(1, keepdims=True), atol=1e-6)


def test_a_run_in_a_notebook(run: thaw.Run) -> None:
    page = run._repr_html_()
    assert f'<a href="{run.report.as_posix()}">report</a>' in page
    assert all(f"<td>{arm}</td>" in page for arm in ("head", "everything"))
    assert f"{run.metrics.arms['head'].over_seeds.accuracy.mean:.4f}" in page
    assert run.bundle().classes == ("left", "right")
    with pytest.raises(thaw.ThawError, match="is not a finished run"):
        thaw.read_run(run.folder / "models")
