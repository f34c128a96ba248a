"""progress.json: what a running study tells those who watch it, how often, and what is left behind."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers.records import small_record
from thaw.errors import DataError
from thaw.progress import stage
from thaw.recipe import Recipe, load_recipe
from thaw.run import live
from thaw.run.live import follow
from thaw.run.metrics import read_metrics
from thaw.training.results import Attempt, Epoch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that live.py sees, in seconds; the test moves it."""
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("emoji-people")


def read(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "progress.json").read_text())
    return found


def test_a_watcher_sees_stages_trials_epochs_and_the_time_left(
    tmp_path: Path, clock: list[float], recipe: Recipe
) -> None:
    attempts, epochs = [Attempt(learning_rate=1e-3, steps=4, accuracy=0.5, loss=0.9)], [Epoch(loss=0.7, accuracy=0.6)]
    search, rows = ([row.model_dump() for row in of_kind] for of_kind in (attempts, epochs))
    record = small_record("scratch", attempts, epochs * 2, seconds=8.0)
    with follow(tmp_path, recipe) as listener:
        listener.begin_trial("scratch", 0)
        with stage("training", 10, "steps") as advance:
            listener.note("search", attempts)
            listener.note("epochs", epochs)
            clock[0] += 8
            advance(4)
            seen = read(tmp_path)
            assert (seen["state"], seen["stage"], seen["done"], seen["total"]) == ("running", "training", 4, 10)
            assert seen["arms"]["scratch"] == [
                {"seed": 0, "search": search, "fit": [], "learning_rate": None, "epochs": rows, "seconds": None}
            ]
            assert seen["stage_left"] == pytest.approx(12)
            assert seen["study_left"] == pytest.approx(12 + 3 * (8 + 12))
            advance(6)
        listener.end_trial(record)
        listener.begin_trial("head", 0)
        with stage("search", 5, "steps") as advance:
            clock[0] += 2
            advance(1)
            seen = read(tmp_path)
            assert seen["arms"]["scratch"] == [
                {"seed": 0, "search": search, "fit": [], "learning_rate": 1e-3, "epochs": rows * 2, "seconds": 8}
            ]
            assert seen["trials"] == {"done": 1, "total": 4}
            assert seen["study_left"] == pytest.approx(3 * 8 - 2)
    assert read(tmp_path)["state"] == "finished"


def test_the_time_left_goes_by_what_each_arm_costs(tmp_path: Path, clock: list[float], recipe: Recipe) -> None:
    """Scratch is measured at 8 s for 1.0 of work: 8 s for each 1.0 of the arms that wait."""
    with follow(tmp_path, recipe) as listener:
        listener.expect({"scratch": 1.0, "head": 0.25, "last-stage": 0.5, "everything": 1.0})
        listener.begin_trial("scratch", 0)
        listener.end_trial(small_record("scratch", [], [], seconds=8.0))
        listener.begin_trial("everything", 0)
        with stage("search", 5, "steps", 2) as advance:
            assert listener.told()["stage_left"] is None
            clock[0] += 2
            advance(1)
            told = listener.told()
        assert told["stage_left"] == pytest.approx(2 * 2)  # one of the three that were left took 2 s
        assert told["study_left"] == pytest.approx((8 - 2) + 8 * 0.25 + 8 * 0.5)


def test_a_rehearsal_is_followed_by_as_long_a_training(tmp_path: Path, clock: list[float]) -> None:
    recipe = load_recipe("emoji-people", None, ("train.refit=train+validation", "train.rehearse=true", "arms.head="))
    with follow(tmp_path, recipe) as listener:
        listener.begin_trial("scratch", 0)
        for training, left in ((0, 6 + 10), (1, 6)):
            with stage("training", 10, "steps") as advance:
                clock[0] += 4
                advance(4)
                own = listener.told()["study_left"]
                assert own == pytest.approx(left + 2 * (10 * training + 4 + left))
                clock[0] += 6
                advance(6)


def test_it_is_written_once_a_second_at_most(
    tmp_path: Path, clock: list[float], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    monkeypatch.setattr(Path, "replace", lambda self, target: written.append(clock[0]))
    with follow(tmp_path, recipe), stage("reading", 1000, "images") as advance:
        for _ in range(1000):
            clock[0] += 0.01
            advance(1)
    *while_running, at_the_end = written
    assert all(later - earlier >= 1 for earlier, later in pairwise(while_running))
    assert 10 <= len(while_running) <= 11
    assert at_the_end == clock[0]


def test_a_study_that_stops_says_why(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(DataError), follow(tmp_path, recipe):
        raise DataError("no pictures; give some.")
    assert (read(tmp_path)["state"], read(tmp_path)["why"]) == ("stopped", "no pictures; give some.")
    with pytest.raises(KeyboardInterrupt), follow(tmp_path, recipe):
        raise KeyboardInterrupt
    assert read(tmp_path)["why"] == "Ctrl-C"


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, recipe: Recipe) -> None:
    with follow(tmp_path / "gone", recipe), stage("reading", 1, "images") as advance:
        advance(1)


def test_what_a_whole_study_told_is_what_it_noted(small_run: Path) -> None:
    told = read(small_run)
    assert told["state"] == "finished"
    assert told["trials"] == {"done": 3, "total": 3}
    for arm, noted in read_metrics(small_run).arms.items():
        assert told["arms"][arm][0]["search"] == [attempt.model_dump() for attempt in noted.search]
        assert told["arms"][arm][0]["epochs"] == [epoch.model_dump() for epoch in noted.epochs]
