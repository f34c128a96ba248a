"""An arm that ends after a module: its bundle is small, predicts what the study measured, and exports to the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import thaw
from helpers.images import make_class_folders
from thaw.export.export import export_bundle

RECIPE = """
[images]
size = 64
resize = "squash"
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
steps = 2
learning_rates = [1e-3]
[train]
epochs = 1
batch_size = 8
precision = "fp32"
[arms.whole]
train = "head"
head = "linear"
[arms.cut]
train = "head"
head = "linear"
at = "features.6"
grid = 3
[arms.cut-everything]
train = "all"
at = "features.6"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[thaw.Run]:
    root = tmp_path_factory.mktemp("cut")
    pictures = make_class_folders(root / "pictures")
    (root / "cut.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(root / "cache"))
        thaw.run_study(thaw.load_recipe(str(root / "cut.toml"), str(pictures)), root / "run")
        yield thaw.read_run(root / "run")


@pytest.mark.parametrize("arm", ["cut", "cut-everything"])
def test_its_bundle_predicts_what_the_study_measured(run: thaw.Run, arm: str) -> None:
    rows = [row for row in run.predictions.to_pylist() if row["arm"] == arm]
    files = [Path(run.recipe.data.source) / row["id"] for row in rows]
    bundle = thaw.load(run.folder / "models" / arm, device="cpu", precision="fp32")
    measured = [[row[f"p_{name}"] for name in bundle.classes] for row in rows]
    np.testing.assert_allclose(bundle.predict_proba(files), measured, atol=1e-6)


def test_it_is_smaller_and_computed_once(run: thaw.Run) -> None:
    arms = run.metrics.arms
    assert arms["cut"].parameters.total < arms["whole"].parameters.total / 20
    assert arms["cut"].parameters.trainable == 2 * (32 * 9 + 1)
    assert arms["cut"].frontier.nodes
    assert arms["cut-everything"].parameters.trainable == arms["cut-everything"].parameters.total
    sizes = [(run.folder / "models" / arm / "model.safetensors").stat().st_size for arm in ("cut", "whole")]
    assert sizes[0] < sizes[1] / 20
    assert "features.6" in run.report.read_text()


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_its_exports_answer_as_it_does(run: thaw.Run, to: str, tmp_path: Path) -> None:
    """Which `export_bundle` checks on real images before it keeps the file."""
    bundle, images = run.folder / "models" / "cut", Path(run.recipe.data.source)
    exported = export_bundle(bundle, to, tmp_path / f"cut.{to}", images)
    checked = exported.metadata["check"]
    assert checked["same_class"] == checked["pictures"] > 0
    assert checked["largest_difference"] < 1e-4
