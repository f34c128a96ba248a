"""Repeats on other draws of the split: the study stays what it is, and its repeats are studies of these draws."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.images import encoded_image
from helpers.studies import break_off
from thaw.data.repeats import drawn_parts, pooled, repeat_seed, repeat_splits
from thaw.data.source import read_source
from thaw.data.splits import group_codes, make_splits
from thaw.errors import DataError
from thaw.recipe import Recipe, load_recipe
from thaw.run.metrics import Metrics, read_metrics
from thaw.study import plan_recipe, run_study

SMALL = """
[data]
source = "animals.parquet"
group = "animal"
test = 0.2
validation = 0.2
[images]
size = 32
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-3, 1e-2]
steps = 1
[train]
batch_size = 16
epochs = 2
precision = "fp32"
refit = "train"
[augment]
policy = "flip"
[arms]
head = { train = "head" }
linear = { train = "head", head = "linear" }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety images of thirty animals, some of which a column holds out."""
    made = tmp_path_factory.mktemp("repeats")
    animals = [row // 3 for row in range(90)]
    table = {
        "image": [encoded_image(row, animal % 2) for row, animal in enumerate(animals)],
        "label": [("left", "right")[animal % 2] for animal in animals],
        "animal": [f"animal {animal}" for animal in animals],
        "held": ["train" if animal < 20 else "validation" if animal < 24 else "test" for animal in animals],
        "tested": ["test" if animal >= 24 else "train" for animal in animals],
    }
    pq.write_table(pa.table(table), made / "animals.parquet")
    (made / "small.toml").write_text(SMALL.replace("animals.parquet", str(made / "animals.parquet")))
    return made


def recipe_in(folder: Path, *settings: str) -> Recipe:
    return load_recipe(str(folder / "small.toml"), settings=settings)


def timeless(value: Any) -> Any:
    """Metrics without what another run measures otherwise."""
    if isinstance(value, dict):
        return {key: timeless(of) for key, of in value.items() if key not in ("seconds", "repeats", "costs")}
    return [timeless(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("group", ["animal", ""])
def test_draws_differ_and_hold_what_a_split_holds(folder: Path, group: str) -> None:
    data = recipe_in(folder, "data.repeats=5", f"data.group={group}").data
    source = read_source(data)
    draws = (make_splits(source, data), *repeat_splits(source, data))
    assert len(draws) == 5
    assert len({splits.test.tobytes() for splits in draws}) == 5
    codes = group_codes(source, data)
    for splits in draws:
        parts = list(splits.rows().values())
        assert sorted(np.concatenate(parts).tolist()) == list(range(90))
        for part in parts:
            assert abs(np.bincount(source.labels[part]) - len(part) / 2).max() <= (3 if group else 1)
        if codes is not None:
            assert sum(len(np.unique(codes[part])) for part in parts) == 30
    again = make_splits(source, data.model_copy(update={"seed": repeat_seed(0, 3)}))
    assert again.rows()["test"].tolist() == draws[3].test.tolist()
    every = pooled(draws[0], draws[1:])
    assert every.train.tolist() == every.test.tolist() == list(range(90))


def test_named_splits_stay(folder: Path) -> None:
    some = recipe_in(folder, "data.repeats=3", "data.split=tested", "data.test=test").data
    source = read_source(some)
    first, *others = make_splits(source, some), *repeat_splits(source, some)
    assert drawn_parts(source, some) == ["validation"]
    assert all(other.test.tolist() == first.test.tolist() for other in others)
    assert len({splits.validation.tobytes() for splits in (first, *others)}) == 3
    assert len(pooled(first, tuple(others)).train) == 72
    none = recipe_in(folder, "data.repeats=3", "data.split=held", "data.test=test", "data.validation=validation").data
    source = read_source(none)
    assert repeat_splits(source, none) == ()


def test_a_draw_that_cannot_be_had_says_which(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = recipe_in(folder, "data.repeats=3").data
    source = read_source(data)

    def refuse(*_: object) -> None:
        raise DataError("no image of class 'left' is in train; draw other splits with data.seed.")

    monkeypatch.setattr("thaw.data.repeats.make_splits", refuse)
    with pytest.raises(DataError, match=r"data\.repeats = 3: in draw 2, no image of class 'left'"):
        repeat_splits(source, data)


@pytest.mark.slow
def test_a_plan_counts_them(folder: Path) -> None:
    (one, _, alone), (three, _, repeated) = (plan_recipe(recipe_in(folder, f"data.repeats={n}")) for n in (1, 3))
    assert not one.repeated
    assert one.trials == three.trials
    assert [(trial.spec.name, trial.repeat, trial.saved) for trial in three.repeated] == [
        (trial.spec.name, number, False) for number in (1, 2) for trial in one.trials
    ]
    assert three.repeat_views == 90
    assert repeated.told().startswith("about ")
    assert repeated.training > alone.training


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with three draws."""
    made = tmp_path_factory.mktemp("runs") / "three"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        run_study(recipe_in(folder, "data.repeats=3"), made)
    return made


@pytest.mark.slow
def test_the_study_is_the_first_draw_to_the_bit(folder: Path, run: Path, tmp_path: Path) -> None:
    run_study(recipe_in(folder), tmp_path / "one")
    one, three = (json.loads((of / "metrics.json").read_text()) for of in (tmp_path / "one", run))
    assert one["repeats"] is None
    assert timeless(one) == timeless(three)
    names = {path.relative_to(run) for path in (run / "models").rglob("*.safetensors")}
    assert names
    for name in (*names, Path("predictions.parquet")):
        assert (run / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    found = read_metrics(run).repeats
    assert found is not None
    assert found.drawn == ["validation", "test"]
    assert len(found.draws) == 3
    for arm, it in found.arms.items():
        assert it.scores[0] == one["arms"][arm]["test"]["accuracy"]
        assert it.variances.total == pytest.approx(np.var(it.scores, ddof=1))
    (pair,) = found.pairs.values()
    assert pair.test is not None
    assert pair.test.mean == pytest.approx(np.mean(pair.differences))
    assert "three draws" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_repeat_is_a_study_with_its_seeds(folder: Path, run: Path, tmp_path: Path) -> None:
    """A function of its draw and seed alone; mirror images have other batches there, which bits do not notice here."""
    found = read_metrics(run).repeats
    assert found is not None
    settings = (f"data.seed={found.draws[2].seed}", f"train.seeds=[{repeat_seed(0, 2)}]")
    alone = run_study(recipe_in(folder, *settings), tmp_path / "alone")
    assert alone.data.splits == found.draws[2].splits
    assert {arm: it.test.accuracy for arm, it in alone.arms.items()} == {
        arm: it.scores[2] for arm, it in found.arms.items()
    }


@pytest.mark.slow
def test_a_study_stopped_in_a_repeat_goes_on(
    folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's epochs: two of the study, then two of each repeat."""
    recipe, computed = recipe_in(folder, "data.repeats=3"), []
    epochs = break_off(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        run_study(recipe, tmp_path / "run")
    monkeypatch.setattr("thaw.training.activations.stage", lambda *_: computed.append(1))
    found: Metrics = run_study(recipe, tmp_path / "run")
    assert not computed, "all activations were there"
    assert len(epochs) == 4 + 6 - 3
    assert found.repeats == read_metrics(run).repeats
    assert timeless(found.model_dump(mode="json")) == timeless(read_metrics(run).model_dump(mode="json"))


@pytest.mark.slow
def test_nothing_to_draw(folder: Path, tmp_path: Path) -> None:
    settings = ("data.repeats=3", "data.split=held", "data.test=test", "data.validation=validation")
    found = run_study(recipe_in(folder, *settings), tmp_path / "run")
    assert found.repeats is not None
    assert found.repeats.drawn == []
    assert "nothing to repeat" in (tmp_path / "run" / "report.html").read_text()
