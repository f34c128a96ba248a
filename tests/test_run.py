"""What a finished run says of how sure its scores are follows from its predictions, and respects its groups."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from thaw.compute import choose_compute
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.run import Tested as Answers
from thaw.run import finish_run, open_run
from thaw.scoring.comparison import compare
from thaw.scoring.metrics import metrics
from thaw.scoring.statistics import score_intervals, wilson
from thaw.study import load_dataset

GROUPED = ("data.group=person",)
TRAINED = {"scratch": 900, "head": 10, "everything": 900}


def finish(folder: Path, table: Path, *settings: str) -> dict[str, Any]:
    """Finish a run of three made-up arms on the pictures of a table."""
    recipe_file = folder / "small.toml"
    recipe_file.write_text(
        f'[data]\nsource = "{table}"\nvalidation = 6\ntest = 24\n'
        '[images]\nsize = 32\n[model]\nbackbone = "torchvision/mobilenet_v2"\nweights = "random"\n'
        '[arms.scratch]\ntrain = "all"\n[arms.head]\ntrain = "head"\n[arms.everything]\ntrain = "all"\n'
    )
    recipe = load_recipe(str(recipe_file), None, settings)
    run, compute = open_run(folder / "run", recipe), choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    labels, random = dataset.source.labels[dataset.splits.test], np.random.default_rng(0)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}
    tested = []
    for skill, arm in enumerate(recipe.arms):
        for seed in recipe.train.seeds:
            logits = random.normal(size=(len(labels), 2)).astype(np.float32)
            logits[np.arange(len(labels)), labels] += skill
            tested.append(Answers(arm, seed, logits))
            results[arm].append(
                {
                    "seed": seed,
                    "learning_rate": 0.1,
                    "edge": None,
                    "search": [],
                    "epochs": [],
                    "head": "x",
                    "test": metrics(labels, logits),
                    "modules": [],
                    "frontier": None,
                    "parameters": {"total": 1000, "trainable": TRAINED[arm]},
                    "seconds": {"search": 1.0, "train": 2.0 * skill},
                }
            )
    found = finish_run(run, recipe, dataset, results, tested, {}, compute, {"total": 1.0}, "")
    written: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(found)) == written
    return written


@pytest.fixture
def table(class_folder: Path) -> Path:
    """A table of 60 pictures, four of each person."""
    rows = sorted(path.relative_to(class_folder) for path in class_folder.rglob("*.png"))
    lines = [f"{path},{path.parent},{place // 4}" for place, path in enumerate(rows)]
    (class_folder / "table.csv").write_text("\n".join(["image,label,person", *lines]))
    return class_folder / "table.csv"


@pytest.mark.parametrize("settings", [(), ("train.seeds=[0,1]",), GROUPED])
def test_statistics_follow_from_the_predictions(tmp_path: Path, table: Path, settings: tuple[str, ...]) -> None:
    found = finish(tmp_path, table, *settings)
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pandas()
    runs = {arm: [of.set_index("id") for _, of in rows[rows.arm == arm].groupby("seed")] for arm in TRAINED}
    groups = None
    if settings == GROUPED:
        people = dict(line.split(",")[::2] for line in table.read_text().splitlines()[1:])
        groups = np.unique([people[name] for name in runs["head"][0].index], return_inverse=True)[1]
        assert len(set(groups)) < 24 == len(groups)
    codes = {name: code for code, name in enumerate(found["classes"])}
    labels = runs["head"][0].label.map(codes).to_numpy()
    predicted = {arm: np.stack([one.predicted.map(codes) for one in of]) for arm, of in runs.items()}
    for arm, it in found["arms"].items():
        expected = score_intervals(labels, predicted[arm], 2, groups)
        # which group is drawn when depends on their order, which the predictions do not tell
        for name, interval in expected.items():
            assert it["intervals"][name] == pytest.approx(interval, abs=0.08 if settings == GROUPED else 1e-9)
        values = [one["test"]["f1"] for one in it["runs"]]
        assert it["over_seeds"]["f1"]["mean"] == pytest.approx(np.mean(values))
        deviation = it["over_seeds"]["f1"]["deviation"]
        assert deviation == pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else deviation is None
        if not settings:
            assert it["intervals"]["accuracy"] == list(wilson(it["test"]["accuracy"], 24))
    comparisons = compare({arm: of == labels for arm, of in predicted.items()}, groups)
    for own, it in zip(found["comparisons"], comparisons, strict=True):
        assert own.pop("interval") == pytest.approx(it.pop("interval"), abs=0.08)
        assert own == it
    assert found["recommended"] in ("head", "everything")
    assert "fewest trained parameters" in found["rule"]
    assert [(step["from"], step["to"], step["parameters"], step["seconds"]) for step in found["prices"]] == [
        ("head", "everything", 890, 2.0)
    ]
