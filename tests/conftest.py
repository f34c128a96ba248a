"""Fixtures shared by all tests: a cache of their own, the shared folder, small labelled images."""

import importlib.util
import io
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    """Have the processes that tests start hear Ctrl-C, which those of a shell in the background ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    import torch

    missing = {
        "shared": "" if SHARED.is_dir() else f"needs real photographs in {SHARED}",
        "gpu": "" if torch.cuda.is_available() else "needs a CUDA device",
        "browser": _no_browser(),
    }
    for item in items:
        for mark, reason in missing.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_browser() -> str:
    """Why the report cannot be driven here; empty where it can."""
    if not shutil.which("chromium"):
        return "needs Chromium (apt-get install chromium)"
    return "" if importlib.util.find_spec("playwright") else "needs playwright (tests/requirements.txt)"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def shared() -> Path:
    """The folder with real photographs and weights."""
    return SHARED


def picture(seed: int, label: int = 0, side: int = 40, kind: str = "PNG") -> bytes:
    """An encoded picture: noise, brighter on the left for label 0 and on the right for label 1."""
    pixels = np.random.default_rng(seed).integers(0, 128, (side, side, 3), dtype=np.uint8)
    half = slice(0, side // 2) if label == 0 else slice(side // 2, side)
    pixels[:, half] += 100
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """60 pictures in two class folders."""
    root = tmp_path / "pictures"
    for seed in range(60):
        folder = root / ("left", "right")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed:03d}.png").write_bytes(picture(seed, seed % 2))
    return root


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `small_run`: 60 in two class folders."""
    root = tmp_path_factory.mktemp("photographs")
    for seed in range(60):
        folder = root / ("left", "right")[seed % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{seed:03d}.png").write_bytes(picture(seed, seed % 2))
    return root


@pytest.fixture(scope="session")
def small_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study with a tiny backbone, made once; leave it as it is."""
    from thaw.recipe import load_recipe
    from thaw.study import run_study

    folder = tmp_path_factory.mktemp("runs") / "run"
    small = (
        *("images.size=32", "images.resize=squash", "model.backbone=timm/test_resnet", "model.weights=random"),
        *('arms.last-stage.train="head"', "search.steps=2", "search.learning_rates=[1e-3,1e-2]", "train.epochs=3"),
        *("train.batch_size=16", "train.precision=fp32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(tmp_path_factory.mktemp("run-cache")))
        run_study(load_recipe("photos", str(photographs), small), folder)
    return folder
