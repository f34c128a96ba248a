"""Exports of trained models: a few fast backbones of what benchmarks/export.py prints for all families."""

import importlib.util
from pathlib import Path

import pytest

from helpers import SHARED
from thaw.data.source import read_source
from thaw.recipe import Data

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "export.py"


spec = importlib.util.spec_from_file_location("export_benchmark", BENCHMARK)
assert spec is not None
assert spec.loader is not None
export = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces to learn from, and 33 to test with, in every format three times."""
    folder = tmp_path_factory.mktemp("faces")
    export.write_pictures(folder, read_source(Data(source=str(SHARED / "faces"))), 16, 33)
    return folder


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "weights", "resize"),
    [
        ("torchvision/mobilenet_v2", "thaw:mobilenet_v2", "squash"),
        ("timm/test_vit", "random", "crop"),
        ("timm/test_convnext", "random", "crop"),
    ],
)
def test_exports_agree_with_the_trained_model(
    backbone: str, weights: str, resize: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    export.study(tmp_path / "run", backbone, weights, resize, pictures)
    found = export.differences(tmp_path / "run")
    assert found.keys() == {"bundle", "onnx", "torch", "fp64", "spread"}
    for largest, others in (found[name] for name in ("bundle", "onnx", "torch", "fp64")):
        assert largest < 1e-3
        assert others == 0
