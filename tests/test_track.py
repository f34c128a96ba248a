"""Trials in other tools: what each tool says of them afterwards, read with the tool's own reader."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.records import small_record
from thaw.errors import StorageError
from thaw.recipe import Recipe, load_recipe
from thaw.run.track import Board, Page, Tracking, tracking
from thaw.training.results import Attempt, Epoch

RATES = (1e-4, 1e-3)
ATTEMPTS = [Attempt(learning_rate=rate, steps=4, accuracy=0.5 + rate, loss=0.9, score=0.5) for rate in RATES]
EPOCHS = [Epoch(loss=0.7, accuracy=0.6), Epoch(loss=0.4, accuracy=0.8)]
SCORES = {"test/accuracy": 0.9, "test/f1": 0.9, "learning_rate": 1e-3, "seconds": 8.0}
tool = pytest.mark.filterwarnings("ignore")
"""Other people's packages warn of what is theirs."""


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("emoji-people")


def play(listener: Tracking) -> None:
    """Two trials: of the second, an earlier run of the study finished all."""
    listener.begin_trial("head", 0)
    for known in (1, 2):
        listener.note("search", ATTEMPTS[:known])
    for known in (0, 1, 2):
        listener.note("epochs", EPOCHS[:known])
    listener.end_trial(small_record("head", ATTEMPTS, EPOCHS, seconds=8.0))
    listener.begin_trial("scratch", 0)
    listener.end_trial(small_record("scratch", ATTEMPTS, EPOCHS, seconds=8.0))


def studied(name: str, run: Path, recipe: Recipe) -> None:
    """Show a study of two trials in a tool, with a report."""
    run.mkdir(exist_ok=True)
    (run / "report.html").write_text("<p>report</p>")
    with tracking(name, run, recipe) as listener:
        assert listener is not None
        play(listener)


def noting(told: list[Any]) -> Board:
    """A board that writes down what it is told."""

    def begin(name: str, settings: Mapping[str, Any]) -> Page:
        told.append((name, settings["train"], settings["epochs"]))
        return Page(
            lambda values, axis, step: told.append((dict(values), axis, step)),
            lambda values, done: told.append((values.get("test/accuracy"), done)),
        )

    return Board(begin, lambda report: told.append(report))


def test_each_attempt_and_epoch_is_told_once(recipe: Recipe) -> None:
    told: list[Any] = []
    listener = Tracking(noting(told), recipe)
    play(listener)
    listener.end(Path("report.html"))
    searches = [
        ({"search/learning_rate": rate, "search/loss": 0.9, "search/accuracy": 0.5 + rate}, "attempt", place)
        for place, rate in enumerate(RATES, 1)
    ]
    epochs = [({"train/loss": it.loss, "train/accuracy": it.accuracy}, "epoch", n) for n, it in enumerate(EPOCHS, 1)]
    each = [*searches, *epochs, (0.9, True)]
    assert told == [("head-0", "head", 6), *each, ("scratch-0", "all", 6), *each, Path("report.html")]


def test_a_board_that_fails_stops_no_study(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the server is gone")

    listener = Tracking(Board(lambda *_: Page(fail, fail), fail), recipe)
    play(listener)
    listener.end(None)
    error = capsys.readouterr().err
    assert error.count("the study goes on without its tracker, which failed: ConnectionError: the server is gone") == 1


def test_a_missing_package_is_one_sentence_with_the_line_to_type(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(StorageError, match=r"^mlflow is not installed; install it with `pip install 'thaw-vision\[ml"),
        tracking("mlflow", tmp_path, recipe),
    ):
        pass
    with tracking(None, tmp_path, recipe) as listener:
        assert listener is None


@tool
def test_tensorboard_reads_the_curves(tmp_path: Path, recipe: Recipe) -> None:
    pytest.importorskip("tensorboard", reason="needs TensorBoard (the extra tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # a study that goes on shows each value once
        studied("tensorboard", tmp_path / "run", recipe)
    for trial in ("head-0", "scratch-0"):
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / trial)).Reload()
        assert [(it.step, it.value) for it in events.Scalars("train/loss")] == [
            (1, pytest.approx(0.7)),
            (2, pytest.approx(0.4)),
        ]
        assert [it.value for it in events.Scalars("search/learning_rate")] == pytest.approx(list(RATES))
        for name, value in SCORES.items():
            assert [it.value for it in events.Scalars(name)] == [pytest.approx(value)]
    report = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "report")).Reload()
    assert report.Tags()["tensors"] == ["report/text_summary"]


def check_mlflow(uri: str, recipe: Recipe) -> None:
    """Look a study up with MLflow's client."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(recipe.name)
    found = {it.info.run_name: it for it in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"run", "head-0", "scratch-0"}
    assert {it.info.status for it in found.values()} == {"FINISHED"}
    head = found["head-0"]
    assert head.data.tags["mlflow.parentRunId"] == found["run"].info.run_id
    assert head.data.params["backbone"] == recipe.model.backbone
    assert {name: head.data.metrics[name] for name in SCORES} == SCORES
    curve = client.get_metric_history(head.info.run_id, "train/loss")
    assert [(it.step, it.value) for it in curve] == [(1, 0.7), (2, 0.4)]
    assert [it.path for it in client.list_artifacts(found["run"].info.run_id)] == ["report.html"]


@tool
@pytest.mark.slow
def test_mlflow_finds_the_runs_in_its_sqlite_store(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow (the extra mlflow)")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    studied("mlflow", tmp_path / "run", recipe)
    check_mlflow(uri, recipe)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server of its own, with a SQLite store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env=os.environ)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(address)


@tool
@pytest.mark.slow
def test_mlflow_finds_the_runs_on_a_real_server(request: pytest.FixtureRequest, tmp_path: Path, recipe: Recipe) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow (the extra mlflow)")
    uri = request.getfixturevalue("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        studied("mlflow", tmp_path / "run", recipe)
    check_mlflow(uri, recipe)


@tool
@pytest.mark.slow
def test_wandb_keeps_the_runs_offline(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs Weights & Biases (the extra wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    studied("wandb", tmp_path / "run", recipe)
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(runs) == 3
    assert all(list(folder.glob("run-*.wandb")) for folder in runs)
    written = b"".join(path.read_bytes() for folder in runs for path in folder.glob("run-*.wandb"))
    for name in (b"train/loss", b"test/accuracy", b"search/learning_rate", b"report-emoji-people"):
        assert name in written


@tool
@pytest.mark.slow
def test_trackio_keeps_the_runs(tmp_path: Path, recipe: Recipe) -> None:
    """In a process of its own: trackio reads TRACKIO_DIR when it is imported."""
    pytest.importorskip("trackio", reason="needs trackio (the extra trackio)")
    script = (
        "import sys, pathlib, test_track; from thaw.recipe import load_recipe; import trackio\n"
        "recipe = load_recipe('emoji-people')\n"
        "test_track.studied('trackio', pathlib.Path(sys.argv[1]), recipe)\n"
        "runs = {run.name: run for run in trackio.Api().runs('emoji-people')}\n"
        "assert set(runs) == {'head-0', 'scratch-0'}, runs\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "logs = SQLiteStorage.get_logs('emoji-people', 'head-0')\n"
        "assert [row['train/loss'] for row in logs if 'train/loss' in row] == [0.7, 0.4], logs\n"
        "assert [row['epoch'] for row in logs if 'train/loss' in row] == [1, 2], logs\n"
        "assert [row['test/accuracy'] for row in logs if 'test/accuracy' in row] == [0.9], logs\n"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]
    known = os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": ":".join([*folders, known])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "trackio").rglob("report.html"))
