"""What a study is expected to take."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import thaw
from helpers.cli import thaw as command
from helpers.images import make_class_folders
from helpers.studies import QUICK
from thaw import estimate as module
from thaw.compute.device import choose_compute
from thaw.estimate import Estimate, Sizes, Speed, estimate, steps_of
from thaw.recipe import Augment, load_recipe
from thaw.study import plan_recipe, run_study
from thaw.training import loop, search, train
from thaw.training.specs import resolve_arm

CPU = choose_compute("cpu", "fp32")


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.rehearse=false",),
        ("train.refit=train",),
        ("search.weight_decays=[0.0,0.1]",),
        ("search.method=halving", "search.candidates=5", "search.range=[1e-4,1e-2]"),
    ],
)
def test_as_many_steps_are_counted_as_are_taken(
    settings: tuple[str, ...], class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(
        "photos",
        str(class_folder),
        (*QUICK, "arms.head=", "arms.last-stage=", "arms.everything.train=head", "augment.policy=none", *settings),
    )
    taken = {"search": 0, "train": 0}
    whole = loop.fit

    def counted(where: str):  # type: ignore[no-untyped-def]
        def fit(task, learners, batches, *rest):  # type: ignore[no-untyped-def]
            taken[where] += len(learners) * len(batches)
            return whole(task, learners, batches, *rest)

        return fit

    monkeypatch.setattr(search, "fit", counted("search"))
    monkeypatch.setattr(train, "fit", counted("train"))
    metrics = run_study(recipe, tmp_path / "run")
    sizes = Sizes(*(metrics.splits[name] for name in ("train", "validation", "test")))
    searched, trained = steps_of(resolve_arm("everything", recipe.arms["everything"], recipe), sizes)
    assert taken["train"] == trained
    if "search.method=halving" in settings:  # which widens its range where its edge is best
        assert searched <= taken["search"]
    else:
        assert taken["search"] == searched


def test_seconds_follow_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """One arm that trains everything, at 1 s an image: its seconds are counted by hand."""
    recipe = load_recipe(
        "emoji-people", settings=("arms.head=", "arms.last-stage=", "arms.scratch=", "train.rehearse=true")
    )
    spec = resolve_arm("everything", recipe.arms["everything"], recipe)
    whole = SimpleNamespace(frontier=SimpleNamespace(fraction_saved=0.0))
    trial = SimpleNamespace(spec=spec, saved=True, fraction=1.0)
    plan = SimpleNamespace(
        trials=[trial], repeated=[], repeat_views=0, prefixes=[], views=0, networks={"everything": whole}
    )
    monkeypatch.setattr(module, "measure_speed", lambda *_: (Speed(forward=0.25, training=1.0), 100))
    found = estimate(plan, Sizes(320, 64, 100), Augment(test_views=2), 64, CPU)  # type: ignore[arg-type]
    rates, steps, epochs = 3, 60, 6
    assert found.activations == 0
    assert found.search == pytest.approx(rates * steps * (32 + module.STEP) + rates * (64 + 2 * 320) * 0.25)
    assert found.training == pytest.approx(epochs * 10 * (32 + module.STEP))
    assert found.rest == pytest.approx((320 + 64 + 100) * 0.25 + 100 * 0.25 * 2 + 2 * 100 * 0.25)


def test_it_is_said_in_minutes() -> None:
    found = Estimate(activations=1.0, search=60.0, training=120.0, rest=30.0)
    assert found.told().replace("\u00a0", " ").replace("\u202f", " ") == (
        "about 3 min 31 s if nothing else runs: 1 min of searches, 2 min of training and 30 s of tests and heat maps"
    )


def test_a_plan_and_a_study_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_class_folders(tmp_path / "images", 40)
    recipe = load_recipe("photos", str(tmp_path / "images"), QUICK)
    state = torch.random.get_rng_state()
    _, _, found = plan_recipe(recipe)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert min(found.search, found.training, found.rest) > 0
    assert command(monkeypatch, "study", tmp_path / "images", "--out", tmp_path / "run", settings=QUICK) == 0
    assert "if nothing else runs" in capsys.readouterr().err
    thaw.run_study(recipe, tmp_path / "run")  # nothing is left to do
    assert "if nothing else runs" not in capsys.readouterr().err
