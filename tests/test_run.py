"""What a finished run says follows from its predictions, and respects its groups; its pictures are those it names."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from scipy.special import softmax

from helpers.studies import SETTLED
from thaw.audit.audit import audit
from thaw.audit.label_errors import LabelErrors, find_label_errors
from thaw.bundle.load import load
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.errors import StorageError
from thaw.images.preprocessing import Normalise
from thaw.nets.heatmaps import heat_maps
from thaw.plan import Study
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.run.folder import open_run
from thaw.run.gallery import Gallery, choose_images, choose_label_errors, make_gallery
from thaw.run.metrics import make_metrics, read_metrics
from thaw.run.read import read_run
from thaw.run.results import StudyResult
from thaw.run.write import write_run
from thaw.scoring.comparison import compare
from thaw.scoring.metrics import score
from thaw.scoring.statistics import score_intervals, wilson
from thaw.scoring.verdict import judge
from thaw.training.results import (
    Frontier,
    NetworkFacts,
    Parameters,
    SearchResult,
    TrainResult,
    TrialRecord,
    TrialResult,
    TrialSeconds,
)

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
    compute = choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    labels, random = dataset.source.labels[dataset.splits.test], np.random.default_rng(0)
    results = [
        result(arm, seed, skill, labels, random) for skill, arm in enumerate(recipe.arms) for seed in recipe.train.seeds
    ]
    splits, source = dataset.splits, dataset.source
    features = random.normal(size=(60, 3)).astype(np.float32)
    errors = find_label_errors(features, source.labels, None, np.union1d(splits.train, splits.validation), splits.test)
    maps = {row: np.full((14, 14), row, dtype=np.uint8) for row in range(60)}
    gallery = Gallery(choose_images(labels, results), choose_label_errors(errors), {"scratch": {}, "head": maps})
    checked = audit(dataset, recipe.data).record
    found = StudyResult(recipe, dataset, compute, checked, errors, results[::-1], "f")
    metrics = make_metrics(found, {"total": 1.0}, "")
    with open_run(folder / "run", recipe) as run:
        write_run(run, found, metrics, gallery)
    assert read_metrics(run) == metrics
    written: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return written


def result(arm: str, seed: int, skill: int, labels: NDArray[np.int64], random: np.random.Generator) -> TrialResult:
    """A trial whose logits favour the labels by `skill`."""
    logits = random.normal(size=(len(labels), 2)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += skill
    train = 2.0 * skill
    record = TrialRecord(
        arm=arm,
        seed=seed,
        precision="fp32",
        network=NetworkFacts(
            head="x",
            modules=[],
            parameters=Parameters(total=1000, trainable=TRAINED[arm]),
            frontier=Frontier(nodes=[], bytes_per_image=0, fraction_saved=0.0, reason=""),
            channels_last=False,
        ),
        probe=None,
        search=SearchResult(learning_rate=0.1, edge=None, tied=[], attempts=[], seconds=1.0),
        training=TrainResult(epochs=[], stopped=None, seconds=train),
        scores=score(labels, logits),
        seconds=TrialSeconds(prepare=0.0, search=1.0, train=train, test=0.0, total=1.0 + train),
    )
    return TrialResult(record, logits, None)


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
        for name, interval in expected:
            assert it["intervals"][name] == pytest.approx(interval, abs=0.08 if settings == GROUPED else 1e-9)
        values = [one["test"]["f1"] for one in it["trials"]]
        assert it["over_seeds"]["f1"]["mean"] == pytest.approx(np.mean(values))
        deviation = it["over_seeds"]["f1"]["deviation"]
        assert deviation == pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else deviation is None
        if not settings:
            assert it["intervals"]["accuracy"] == list(wilson(it["test"]["accuracy"], 24))
    values = {arm: (of == labels) * 1.0 for arm, of in predicted.items()}
    comparisons = compare(values, groups)
    for own, it in zip(found["comparisons"], comparisons, strict=True):
        assert own.pop("interval") == pytest.approx(it.interval, abs=0.08)
        assert own == it.model_dump(mode="json", exclude={"interval"})
    judged = judge(values, None, 0.01, None, groups)
    assert (found["best"], found["recommended"]) == (judged.best, judged.recommended)
    assert found["rule"] == "the best arm by accuracy"
    assert found["verdict"]["expected"] == pytest.approx(judged.expected, abs=1e-9)
    for arm, own in judged.arms.items():
        assert found["verdict"]["arms"][arm]["score"] == pytest.approx(own.score)
        assert found["verdict"]["arms"][arm]["probability_best"] == pytest.approx(own.probability_best, abs=0.05)
    assert [(step["cheaper"], step["better"], step["parameters"], step["seconds"]) for step in found["costs"]] == [
        ("head", "everything", 890, 2.0)
    ]


def test_results_csv_has_a_row_for_each_arm_and_seed(tmp_path: Path, table: Path) -> None:
    found = finish(tmp_path, table, "train.seeds=[0,1]")
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"]) for row in rows] == [(arm, seed) for arm in TRAINED for seed in ("0", "1")]
    for row, one in zip(rows, (one for it in found["arms"].values() for one in it["trials"]), strict=True):
        for name in ("accuracy", "f1", "balanced_accuracy", "macro_f1", "log_loss", "auroc", "average_precision"):
            assert float(row[name]) == one["test"][name]
        assert row["top5"] == ""
        assert float(row["learning_rate"]) == one["learning_rate"]
        assert float(row["seconds_total"]) == one["seconds"]["total"]
        assert (int(row["trained_parameters"]), int(row["parameters"])) == (TRAINED[row["arm"]], 1000)


def test_a_run_prints_as_a_table_that_fits_a_screen(tmp_path: Path, table: Path) -> None:
    found = finish(tmp_path, table)
    lines = repr(read_run(tmp_path / "run")).splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) <= 140
    best = found["arms"][found["recommended"]]["over_seeds"]["accuracy"]["mean"]
    assert lines[-1].startswith(f"Use {found['recommended']}: accuracy {best:.4f} on 24 test images (95% interval ")
    (marked,) = (line for line in lines if line.startswith("* "))
    assert marked.split()[1:3] == [found["recommended"], f"{best:.4f}"]


def test_studies_that_look_at_the_same_test_images_are_counted(tmp_path: Path, table: Path) -> None:
    looks = []
    for number, settings in enumerate([(), (), ("train.epochs=7",), ("data.seed=1",)]):
        (tmp_path / str(number)).mkdir()
        finish(tmp_path / str(number), table, *settings)
        looks.append(json.loads((tmp_path / str(number) / "run" / "environment.json").read_text())["looks"])
    assert looks == [1, 1, 2, 1]  # the same study again is no further look, and another split another test set


def test_predictions_are_the_same_in_blocks(tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "whole", tmp_path / "blocks"]
    for folder, cells in zip(folders, (1 << 22, 10), strict=True):
        folder.mkdir()
        monkeypatch.setattr("thaw.scoring.metrics.CELLS", cells)
        finish(folder, table, "train.seeds=[0,1]")
    one, other = (pq.read_table(folder / "run" / "predictions.parquet") for folder in folders)
    assert one.equals(other)
    metrics = [json.loads((folder / "run" / "metrics.json").read_text()) for folder in folders]
    assert metrics[0] == metrics[1]
    groups = [pq.ParquetFile(folder / "run" / "predictions.parquet").num_row_groups for folder in folders]
    assert groups == [6, 6 * 5]
    assert [str(one.schema.field(name).type) for name in ("id", "seed", "p_left")] == ["string", "int64", "double"]
    rows = one.to_pandas()
    np.testing.assert_allclose(rows.p_left + rows.p_right, 1, atol=1e-6)
    right = rows[["p_left", "p_right"]].to_numpy().argmax(1) == (rows.predicted == "right")
    assert right.all()


def test_a_run_of_another_format_is_not_read(tmp_path: Path) -> None:
    for content, why in (("{}", "has no format number"), ('{"format": 2}', "has format 2"), ("{", "cannot be read")):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(StorageError, match=rf"metrics\.json {why}.*; run the study again\.$"):
            read_run(tmp_path)
    with pytest.raises(StorageError, match=r"is not a finished run: it has no metrics\.json; run the study first\.$"):
        read_run(tmp_path / "none")


def test_a_second_study_in_the_same_folder_is_refused(tmp_path: Path, class_folder: Path) -> None:
    recipe = load_recipe("photos", str(class_folder), (*SETTLED,))
    with open_run(tmp_path / "run", recipe) as run:
        (run / ".metrics.json-x.part").touch()
        with pytest.raises(StorageError, match=r"another study is running in .*--out"), open_run(run, recipe):
            pass
    with open_run(run, recipe):  # what the first left half written is gone
        assert {path.name for path in run.iterdir()} == {"recipe.toml", ".lock"}


def test_finished_work_is_that_of_its_splits_and_weights(tmp_path: Path, table: Path) -> None:
    """Whatever the recipe, which names both but does not hold them."""
    weights = tmp_path / "weights.safetensors"

    def work(people: list[str], values: float) -> Path:
        lines = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
        table.write_text("\n".join(f"{line},{person}" for line, person in zip(lines, people, strict=True)))
        save_file({"x": torch.tensor([values])}, weights)
        settings = (*GROUPED, "data.validation=6", "data.test=24", f"model.weights={weights}", "images.size=32")
        recipe = load_recipe("photos", str(table), (*SETTLED, *settings))
        compute = choose_compute("cpu", "fp32")
        return Study(recipe, load_dataset(recipe, compute, Clock()), compute, tmp_path).work

    pairs = ["person", *(f"{row // 2}" for row in range(60))]
    others = ["person", *(f"{row % 30}" for row in range(60))]
    assert work(pairs, 1.0) == work(pairs, 1.0)
    assert len({work(pairs, 1.0), work(others, 1.0), work(pairs, 2.0)}) == 3


@pytest.mark.parametrize(
    ("left", "refused"),
    [
        ((), ""),
        ((".lock",), ""),
        ((".lock", "progress.json", "recipe.toml"), ""),
        (("progress.json", "recipe.toml"), ""),  # where the system removes the lock
        (("recipe.toml",), "holds another study"),
        ((".lock", "recipe.toml"), "holds another study"),
        (("progress.json",), "holds no study"),
        (("progress.json", "recipe.toml", "work"), "holds another study"),
    ],
)
def test_only_a_study_that_ended_as_it_began_makes_way(
    tmp_path: Path, class_folder: Path, left: tuple[str, ...], refused: str
) -> None:
    for name in left:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text('name = "other"\n')
    recipe = load_recipe("photos", str(class_folder), (*SETTLED,))
    if refused:
        with pytest.raises(StorageError, match=refused), open_run(tmp_path / "run", recipe):
            pass
        assert {path.name for path in (tmp_path / "run").iterdir()} == set(left)
    else:
        with open_run(tmp_path / "run", recipe) as run:
            assert "other" not in (run / "recipe.toml").read_text(encoding="utf-8")


def test_the_gallery_and_the_label_errors_are_as_the_metrics_say(tmp_path: Path, table: Path) -> None:
    found = finish(tmp_path, table)
    answers = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pandas()
    gallery = pq.read_table(tmp_path / "run" / "gallery.parquet").to_pandas()
    heat = ["heat:scratch", "heat:head"]
    assert list(gallery.columns) == ["id", "label", "image", "slice:person", *heat]
    assert set(gallery["id"]) == set(answers["id"])
    (column,) = found["slices"]
    counts = gallery["slice:person"].value_counts()
    assert (column["column"], column["kind"]) == ("person", "category")
    assert {it["value"]: it["count"] for it in column["values"]} == counts.to_dict()
    ids = answers[answers["arm"] == "head"]["id"].tolist()
    maps = dict(zip(gallery["id"], gallery["heat:head"], strict=True))
    assert len(set(maps.values())) == len(gallery)
    assert gallery["heat:scratch"].isna().all()
    assert Image.open(io.BytesIO(gallery["image"][0])).size == (32, 32)
    errors = pq.read_table(tmp_path / "run" / "label_errors.parquet").to_pandas()
    named = ["id", "split", "label", "suggested", "p_label", "p_suggested", "score", "image"]
    assert list(errors.columns) == [*named, *heat]
    maps_of_errors = dict(zip(errors["id"], errors["heat:head"], strict=True))
    assert all(maps_of_errors[name] == maps[name] for name in maps.keys() & maps_of_errors.keys())
    assert found["label_errors"]["checked"] == 60
    assert found["label_errors"]["count"] <= len(errors)
    assert errors["score"].is_monotonic_increasing
    assert (errors["p_suggested"] > errors["p_label"]).all()
    assert (errors["label"] != errors["suggested"]).all()
    assert set(errors["split"]) <= set(found["splits"])
    of_test = errors[errors["split"] == "test"]
    assert set(of_test["id"]) <= set(ids)
    for arm, it in found["arms"].items():
        rows = answers[answers["arm"] == arm]
        assert sum(own["count"] for own in it["calibration"]["bins"]) == len(rows) == 24
        assert it["calibration"]["temperature"] is None
    agreement = found["agreement"]
    right = answers.assign(right=answers["label"] == answers["predicted"]).pivot(index="id", columns="arm")["right"]
    assert agreement["all_right"] == right.all(axis=1).sum()
    assert agreement["none_right"] == (~right).all(axis=1).sum()


@pytest.mark.parametrize("classes", [2, 5])
def test_more_images_than_the_gallery_holds_are_mistakes_then_those_with_the_least_likely_labels(
    monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 400)
    logits = random.normal(size=(2, 400, classes)).astype(np.float32)
    logits[:, np.arange(400), labels] += 2
    results = [
        replace(result(arm, 0, 0, labels % 2, random), logits=of_arm)
        for arm, of_arm in zip(("head", "everything"), logits, strict=True)
    ]
    assert choose_images(labels, results).tolist() == list(range(400))
    shares = softmax(logits, 2)[:, np.arange(400), labels].min(0)
    mistaken = (logits.argmax(2) != labels).any(0)
    for held in (mistaken.sum() - 9, mistaken.sum() + 9):
        monkeypatch.setattr("thaw.run.gallery.GALLERY_IMAGES", held)
        order = sorted(range(400), key=lambda row: (not mistaken[row], shares[row]))
        assert choose_images(labels, results).tolist() == sorted(order[:held])


def test_maps_are_those_of_the_saved_models_and_are_made_once(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(small_run / "recipe.toml"), None, ())
    compute = choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    labels = dataset.source.labels[dataset.splits.test]
    blank = result("head", 0, 0, np.zeros(len(labels), np.int64), np.random.default_rng(0))
    results = [
        replace(
            blank, record=blank.record.model_copy(update={"arm": arm}), logits=np.zeros((len(labels), 2), np.float32)
        )
        for arm in recipe.arms
    ]
    nothing = np.empty(0)
    errors = LabelErrors(*(nothing.astype(int),) * 2, *(nothing,) * 3, nothing.astype(bool), "", nothing)
    found = StudyResult(recipe, dataset, compute, audit(dataset, recipe.data).record, errors, results, "f")

    def made() -> Gallery:
        return make_gallery(small_run, tmp_path, found)

    shown = made()
    pictures = torch.from_numpy(np.stack([dataset.pixels.image(row) for row in dataset.splits.test]))
    for arm in recipe.arms:
        model = load(small_run / "models" / arm).model
        alone = heat_maps(model, [Normalise(dataset.preprocessing)(picture[None]) for picture in pictures])
        assert alone is not None
        own = np.stack([shown.heat[arm][row] for row in dataset.splits.test])
        np.testing.assert_allclose(own.astype(int), alone.astype(int), atol=1)
        assert own.any()
    monkeypatch.setattr("thaw.run.gallery.load", None)
    again = made()
    assert all(
        np.array_equal(shown.heat[arm][row], again.heat[arm][row]) for arm in recipe.arms for row in again.heat[arm]
    )
