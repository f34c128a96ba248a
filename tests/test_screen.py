"""The table that a terminal shows of a running study: its rows, its heading, and that it fits."""

import io
from typing import Any

import pytest
from rich.console import Console

from thaw.recipe import Arm, Recipe, load_recipe
from thaw.run.screen import heading, screen, trial_line, trial_rows

ATTEMPTS = [
    {"learning_rate": 1e-4, "accuracy": 0.61, "score": 0.61, "failed": None},
    {"learning_rate": 3e-3, "accuracy": 0.83, "score": 0.83, "failed": None},
]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("emoji-people", None, ("train.epochs=3", "train.seeds=[0,1]"))


def trial(seed: int, **known: Any) -> dict[str, Any]:
    return {"seed": seed, "search": [], "fit": [], "learning_rate": None, "epochs": [], "seconds": None} | known


def told(**known: Any) -> dict[str, Any]:
    """Head is done with seed 0, and searches with seed 1; nothing else has begun."""
    epochs = [{"loss": 0.5, "accuracy": 0.8, "validation_score": None}] * 3
    head = [trial(0, search=ATTEMPTS, learning_rate=3e-3, epochs=epochs, seconds=100.0), trial(1, search=ATTEMPTS)]
    arms = {"scratch": [], "head": head, "last-stage": [], "everything": []}
    shown = {"recipe": "emoji-people", "arm": "head", "seed": 1, "stage": "search", "done": 10, "total": 40}
    times = {"trials": {"done": 1, "total": 8}, "seconds": 120.0, "stage_left": 65.0, "study_left": 727.0}
    return {**shown, **times, "unit": "steps", "arms": arms, **known}


def drawn(shown: dict[str, Any], recipe: Recipe, height: int = 40, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, height=height, force_terminal=False).print(screen(shown, recipe, height))
    return out.getvalue()


def test_every_trial_has_a_row_with_its_numbers(recipe: Recipe) -> None:
    rows = trial_rows(told(), recipe)
    assert len(rows) == 8
    assert rows[2] == ("head, seed 0", "done", "3 of 3", "0.5000", "0.8300", "3e-3", "1 min 40 s")
    assert rows[3] == ("head, seed 1", "search", "", "", "0.8300", "3e-3", "")
    assert {row.state for row in (*rows[:2], *rows[4:])} == {"waiting"}


def test_a_score_of_validation_images_after_an_epoch_comes_before_that_of_the_search(recipe: Recipe) -> None:
    shown = told(stage="training")
    shown["arms"]["head"][1]["epochs"] = [{"loss": 0.4, "accuracy": 0.9, "validation_score": 0.7}]
    assert trial_rows(shown, recipe)[3][1:5] == ("training", "1 of 3", "0.4000", "0.7000")


def test_a_fitted_head_shows_its_best_accuracy_only_where_that_is_the_metric(recipe: Recipe) -> None:
    fits = [{"value": 1.0, "accuracy": score, "loss": 0.3} for score in (0.8, 0.9)]
    shown = told(arms={"head": [trial(0, fit=fits)]})
    assert trial_rows(shown, recipe)[0].validation == "0.9000"
    by_loss = load_recipe("emoji-people", None, ("search.metric=log_loss",))
    assert trial_rows(shown, by_loss)[0].validation == ""


def test_the_heading_says_which_trial_and_how_long_in_minutes() -> None:
    assert heading(told()) == "emoji-people: trial 2 of 8, 12 min 7 s left of the study"
    assert heading(told(study_left=None)) == "emoji-people: trial 2 of 8, 2 min so far"
    assert heading(told(arm=None, study_left=None)) == "emoji-people: 8 trials, 2 min so far"
    assert heading(told(trials={"done": 8, "total": 8})) == "emoji-people: 8 trials done, 2 min so far"


def test_the_stage_tells_how_much_is_done(recipe: Recipe) -> None:
    assert "10 of 40 steps 1 min 5 s left" in " ".join(drawn(told(), recipe).split())


@pytest.mark.parametrize("height", [10, 24])
def test_a_study_of_many_trials_fits_and_shows_the_running_one(height: int) -> None:
    arms = {f"arm-{number:02}": Arm(train="head") for number in range(60)}
    recipe = load_recipe("emoji-people").model_copy(update={"arms": arms})
    begun = {arm: [trial(0, seconds=1.0)] if place < 30 else [] for place, arm in enumerate(arms)}
    begun["arm-30"] = [trial(0)]
    text = drawn(told(arms=begun, arm="arm-30", seed=0), recipe, height)
    assert len(text.splitlines()) <= height - 1
    assert "arm-30" in text
    assert "more above" in text
    assert "more below" in text


def test_where_there_is_no_terminal_a_line_says_what_a_trial_came_to(recipe: Recipe) -> None:
    shown = told(seed=0)
    shown["arms"]["head"] = shown["arms"]["head"][:1]
    assert trial_line(shown, recipe) == (
        "arm head, seed 0: done in 1 min 40 s, epoch 3 of 3, loss 0.5000, validation accuracy 0.8300, "
        "learning rate 3e-3, 12 min 7 s left of the study"
    )
