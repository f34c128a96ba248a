"""Sweeps: depths as arms, and shares of the labels, each trial of which is that of a study with those images alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.images import encoded_image
from helpers.studies import break_off
from thaw.arm import run_trial
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.data.shares import with_share
from thaw.data.splits import group_codes
from thaw.errors import ModelError
from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze
from thaw.plan import Study, plan_study
from thaw.progress import Clock
from thaw.recipe import Recipe, load_recipe, to_toml
from thaw.run.metrics import Metrics, read_metrics
from thaw.run.read import read_run
from thaw.study import plan_recipe, run_study
from thaw.training.results import TrialResult
from thaw.training.sweep import with_depths

FP32 = choose_compute("cpu", "fp32")
SMALL = """
[data]
source = "animals.parquet"
split = "split"
group = "animal"
[images]
size = 32
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-3, 1e-2]
steps = 2
[train]
batch_size = 8
epochs = 2
precision = "fp32"
refit = "train"
[augment]
policy = "flip"
views = 2
[arms]
head = { train = "head" }
linear = { train = "head", head = "linear" }
last-stage = { train = "last-stage" }
"""


def recipe_in(folder: Path, table: str = "animals", labels: str = "[1.0]") -> Recipe:
    (folder / "small.toml").write_text(SMALL.replace("animals", table))
    return load_recipe(str(folder / "small.toml"), settings=(f"sweep.labels={labels}",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety images of thirty animals, twenty of which are there to train on."""
    made = tmp_path_factory.mktemp("sweep")
    rows = range(90)
    animals = [row // 3 for row in rows]
    table = {
        "image": [encoded_image(row, animals[row] % 2) for row in rows],
        "label": [("left", "right")[animal % 2] for animal in animals],
        "animal": [f"animal {animal}" for animal in animals],
        "split": ["train" if animal < 20 else "validation" if animal < 24 else "test" for animal in animals],
    }
    pq.write_table(pa.table(table), made / "animals.parquet")
    return made


def results(recipe: Recipe, run: Path) -> tuple[Study, dict[str, TrialResult]]:
    study = Study(recipe, load_dataset(recipe, FP32, Clock()), FP32, run)
    return study, {trial.name: run_trial(study, trial) for trial in plan_study(study).trials}


def facts(result: TrialResult) -> list[object]:
    """All of a result that another run of the same trial must repeat."""
    record = result.record
    return [
        record.fit and record.fit.attempts,
        record.search and record.search.attempts,
        record.training.epochs,
        record.scores,
        result.logits.tolist(),
    ]


@pytest.mark.slow
def test_a_trial_on_half_the_labels_is_that_of_a_study_with_these_images_alone(folder: Path, tmp_path: Path) -> None:
    study, found = results(recipe_in(folder, labels="[0.5, 1.0]"), tmp_path / "swept")
    _, plain = results(recipe_in(folder), tmp_path / "plain")
    assert found.keys() == plain.keys() | {f"{name}@0.5" for name in plain}
    assert all(facts(found[name]) == facts(plain[name]) for name in plain)
    assert {path.name for path in (tmp_path / "swept" / "models").iterdir()} == {"head", "linear", "last-stage"}

    table = pq.read_table(folder / "animals.parquet")
    half = with_share(study.dataset, study.recipe.data, 0.5)
    kept = set(half.source.rows[np.concatenate(list(half.splits.rows().values()))].tolist())
    assert len(half.splits.train) == 30
    codes = group_codes(study.dataset.source, study.recipe.data)
    assert codes is not None
    assert np.bincount(np.unique(codes[half.splits.train], return_inverse=True)[1]).tolist() == [3] * 10
    pq.write_table(table.filter([row in kept for row in range(90)]), folder / "half.parquet")
    _, alone = results(recipe_in(folder, "half"), tmp_path / "alone")
    for name, result in alone.items():
        assert facts(found[f"{name}@0.5"]) == facts(result)
        assert found[f"{name}@0.5"].record.fraction == 0.5


@pytest.mark.slow
def test_a_label_sweep_adds_curves_and_leaves_the_rest_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a share and resumed."""
    run_study(recipe_in(folder), tmp_path / "plain")
    swept = recipe_in(folder, labels="[0.25, 0.5, 1.0]")
    whole = run_study(swept, tmp_path / "whole")
    begun = break_off(monkeypatch, 9)
    with pytest.raises(KeyboardInterrupt):
        run_study(swept, tmp_path / "stopped")
    begun.clear()
    resumed = run_study(swept, tmp_path / "stopped")
    assert len(begun) == 12 - 8
    plain = read_metrics(tmp_path / "plain")
    assert timeless(whole) == timeless(resumed)
    assert whole.labels is not None
    assert plain.labels is None
    assert timeless(whole) | {"labels": None} == timeless(plain)
    for name in ("predictions.parquet", "gallery.parquet"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    for arm, curve in whole.labels.arms.items():
        assert [point.fraction for point in curve.points] == [0.25, 0.5, 1.0]
        assert [point.images for point in curve.points] == [15, 30, 60]
        assert curve.points[-1].score == whole.arms[arm].test.accuracy
        assert curve.points[-1].interval == whole.arms[arm].intervals.accuracy
        assert curve.gain == pytest.approx(curve.points[-1].score - curve.points[-2].score)
        assert curve.gain_interval[0] <= curve.gain <= curve.gain_interval[1]
    assert read_run(tmp_path / "whole").metrics == whole


def timeless(metrics: Metrics) -> dict[str, object]:
    """Metrics without seconds, and what rests on them."""

    def without(part: object) -> object:
        if isinstance(part, dict):
            return {key: without(value) for key, value in part.items() if key not in ("seconds", "costs")}
        return [without(one) for one in part] if isinstance(part, list) else part

    plain = without(metrics.model_dump(mode="json"))
    assert isinstance(plain, dict)
    return plain


def test_depths_become_arms_that_rise_evenly() -> None:
    recipe = load_recipe("emoji-people", settings=("sweep.depths=6",))
    swept = with_depths(recipe)
    assert list(swept.arms) == [
        *("scratch", "head", "from-features.16", "last-stage", "from-features.13", "from-features.8"),
        *("from-features.3", "everything"),
    ]
    assert {name: swept.arms[name] for name in recipe.arms} == recipe.arms
    model, head = build_backbone("torchvision/mobilenet_v2", "random", 2, seed=0)
    for start in (3, 8, 13, 16):
        rows = freeze(model, head, swept.arms[f"from-features.{start}"].train)
        trained = {row.module for row in rows if row.trained}
        assert trained == {row.module for row in rows if _place(row.module, head) >= start}
    assert with_depths(swept) == swept
    assert to_toml(with_depths(swept)) == to_toml(swept)
    assert with_depths(load_recipe("emoji-people")) == load_recipe("emoji-people")


def _place(module: str, head: str) -> int:
    return 99 if module == head else int(module.split(".")[1])


def test_depths_of_a_transformer_have_short_names_and_ends_of_their_own() -> None:
    settings = ("sweep.depths=4", "model.backbone=timm/test_vit", "model.weights=random", "images.size=160")
    only = ("arms.head=", "arms.everything=", "arms.scratch=", "arms.last-stage.train=norm")
    swept = with_depths(load_recipe("emoji-people", settings=settings + only))
    assert list(swept.arms) == ["last-stage", "head", "from-blocks.4", "from-blocks.1", "everything"]
    assert swept.arms["from-blocks.4"].train == ["blocks.4", "blocks.5", "norm", "head"]


def test_an_arm_that_only_has_the_name_of_a_depth_is_refused() -> None:
    recipe = load_recipe("emoji-people", settings=("sweep.depths=3", "arms.everything.train=norm"))
    with pytest.raises(ModelError, match=r"^arms\.everything does not train what sweep\.depths calls so; .*\.$"):
        with_depths(recipe)


@pytest.mark.slow
def test_a_plan_knows_how_deep_each_arm_thaws(folder: Path) -> None:
    settings = ("sweep.depths=3", "arms.norm.train=norm", "arms.random.train=all", "arms.random.weights=random")
    (folder / "depths.toml").write_text(SMALL)
    recipe = load_recipe(str(folder / "depths.toml"), settings=(*settings, "arms.knn={train='head',head='knn'}"))
    plan, *_ = plan_recipe(recipe)
    assert {arm: one.first for arm, one in plan.thawed.items()} == {
        "head": "classifier.1",
        "linear": "classifier.1",
        "last-stage": "features.14",
        "from-features.11": "features.11",
        "everything": "features.0",
    }
    assert plan.thawed["everything"].arithmetic == plan.thawed["everything"].parameters == 1
    total = plan.networks["head"].parameters.total
    assert plan.thawed["head"].parameters == 2562 / total
    ordered = sorted(plan.thawed.values(), key=lambda one: one.arithmetic)
    assert ordered == sorted(plan.thawed.values(), key=lambda one: one.parameters)
