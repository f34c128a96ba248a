"""Fixtures shared by all tests: a cache of their own, the shared folder, small labelled images."""

import importlib.util
import shutil
import signal
from pathlib import Path

import pytest

from helpers import SHARED
from helpers.images import make_class_folders


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count and name what was skipped, for each reason."""
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    for reason, tests in sorted(skipped.items()):
        terminalreporter.write_line(f"{len(tests)} skipped: {reason} ({', '.join(sorted(tests))})")


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


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """60 images in two class folders."""
    return make_class_folders(tmp_path / "pictures")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `small_run`: 60 in two class folders."""
    return make_class_folders(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def small_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study with a tiny backbone, made once; leave it as it is."""
    from thaw.recipe import load_recipe
    from thaw.study import run_study

    folder = tmp_path_factory.mktemp("runs") / "run"
    small = (
        *("images.size=32", "images.resize=squash", "model.backbone=timm/test_resnet", "model.weights=random"),
        *('arms.last-stage.train="head"', "search.steps=2", "search.max_steps="),
        *("search.learning_rates=[1e-3,1e-2]", "train.epochs=3"),
        *("train.batch_size=16", "train.precision=fp32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(tmp_path_factory.mktemp("run-cache")))
        run_study(load_recipe("photos", str(photographs), small), folder)
    return folder
