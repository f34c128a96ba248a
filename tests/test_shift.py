"""Other pictures: a finished model on new images, further test sets, corruptions, and averages of weights."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import thaw
from helpers.cli import thaw as run_thaw
from helpers.images import encoded_image
from thaw.arm import run_trial
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.data.shifted import corrupted
from thaw.errors import DataError, RecipeError
from thaw.images.corrupt import corrupt
from thaw.plan import Study, plan_study
from thaw.progress import Clock
from thaw.recipe import CORRUPTIONS, Data, Recipe, load_recipe
from thaw.run.tested import score_source

RECIPE = """
[data]
source = "pictures"
shifted = { night = "night" }
corruptions = true
[images]
size = 48
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-3]
steps = 2
[train]
batch_size = 16
epochs = 2
precision = "fp32"
device = "cpu"
rehearse = true
[arms.lp-ft]
train = ["features.18", "classifier.1"]
probe = true
[arms.start]
average = "lp-ft"
alpha = 0
[arms.wise]
average = "lp-ft"
[arms.end]
average = "lp-ft"
alpha = 1
"""


def draw(folder: Path, seeds: range, light: float = 1.0) -> None:
    """Write pictures of two classes, PNG so that they are what they were drawn as."""
    for seed in seeds:
        of_class = folder / ("left", "right")[seed % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / f"{seed:03d}.png").write_bytes(encoded_image(seed, seed % 2, side=60))
        if light != 1:
            with Image.open(of_class / f"{seed:03d}.png") as image:
                dark = image.convert("RGB").point(lambda level: int(level * light))
            dark.save(of_class / f"{seed:03d}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with pictures, darker ones, and a recipe."""
    folder = tmp_path_factory.mktemp("shift")
    draw(folder / "pictures", range(80))
    draw(folder / "night", range(100, 130), light=0.3)
    (folder / "shift.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def recipe(root: Path) -> Recipe:
    return load_recipe(str(root / "shift.toml"))


@pytest.fixture(scope="module")
def run(root: Path, recipe: Recipe) -> thaw.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(root / "cache"))
        thaw.run_study(recipe, root / "run")
    return thaw.read_run(root / "run")


@pytest.fixture(autouse=True)
def _same_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger of looks, and the memory layouts, are those of the study."""
    monkeypatch.setenv("THAW_CACHE", str(root / "cache"))


def answers(run: thaw.Run, arm: str) -> np.ndarray:
    """The probabilities of the test images, (n, 2)."""
    rows = [row for row in run.predictions.to_pylist() if row["arm"] == arm]
    return np.array([[row["p_left"], row["p_right"]] for row in rows])


def test_the_studys_own_test_images_have_the_studys_own_scores(run: thaw.Run, root: Path) -> None:
    rows = [row for row in run.predictions.to_pylist() if row["arm"] == "lp-ft"]
    for row in rows:
        target = root / "own" / row["id"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "pictures" / row["id"], target)
    tested = score_source(run.folder, Data(source=str(root / "own")), "cpu", "fp32")
    assert next(iter(tested.record.results.arms)) == run.metrics.recommended
    for arm, it in tested.record.results.arms.items():
        study, close = run.metrics.arms[arm], {"rel": 1e-4}
        assert it.scores.confusion == study.test.confusion
        for score in ("accuracy", "balanced_accuracy", "macro_f1", "f1"):
            assert getattr(it.scores, score) == getattr(study.test, score)
        assert it.scores.auroc == pytest.approx(study.test.auroc, **close)
        assert it.scores.log_loss == pytest.approx(study.test.log_loss, **close)
        assert it.intervals.accuracy == study.intervals.accuracy
        assert it.classes == study.classes
        assert it.change == 0
        assert it.own == study.test.accuracy
    assert tested.record.results.baselines == run.metrics.baselines
    assert tested.record.looks == 2  # the study's own look, and this


def test_a_further_test_set_has_the_scores_of_its_bundles(run: thaw.Run, root: Path) -> None:
    tested = score_source(run.folder, Data(source=str(root / "night")), "cpu", "fp32")
    night = run.metrics.shifted["night"]
    assert night.images == 30
    for arm, it in night.arms.items():
        assert it == tested.record.results.arms[arm]
        alone = score_source(run.folder / "models" / arm, Data(source=str(root / "night")), "cpu", "fp32")
        own = alone.record.results.arms[arm]
        assert (own.scores, own.own, own.change, own.change_interval) == (
            it.scores,
            it.own,
            it.change,
            it.change_interval,
        )
    files = [root / "night" / name for name in tested.images.ids]
    chances = thaw.load(run.folder / "models" / "wise", "cpu", "fp32").predict_proba(files)
    labels = np.array([name.split("/")[0] for name in tested.images.ids])
    assert night.arms["wise"].scores.accuracy == (np.array(["left", "right"])[chances.argmax(1)] == labels).mean()


def test_newcombes_interval_of_a_change(run: thaw.Run) -> None:
    it = run.metrics.shifted["night"].arms["lp-ft"]
    (low, high), own = it.interval, run.metrics.arms["lp-ft"].intervals.accuracy
    below = np.sqrt((it.value - low) ** 2 + (own[1] - it.own) ** 2)
    above = np.sqrt((high - it.value) ** 2 + (it.own - own[0]) ** 2)
    assert it.change_interval == pytest.approx((it.change - below, it.change + above))


def test_averages_lie_between_the_linear_probe_and_the_trained_network(run: thaw.Run) -> None:
    start, wise, end, tuned = (
        load_file(run.folder / "models" / arm / "model.safetensors") for arm in ("start", "wise", "end", "lp-ft")
    )
    assert all(torch.equal(end[name], tuned[name]) for name in tuned)
    moved = [name for name in tuned if not torch.equal(start[name], tuned[name])]
    assert {name.split(".")[1] for name in moved} == {"18", "1"}
    for name in tuned:
        if tuned[name].is_floating_point() and "running" not in name:
            torch.testing.assert_close(wise[name], (start[name] + tuned[name]) / 2)
    pretrained = thaw.nets.backbones.build_backbone("torchvision/mobilenet_v2", recipe_weights(), 2, 0)[0].state_dict()
    assert all(torch.equal(start[name], pretrained[name]) for name in moved if not name.startswith("classifier"))
    assert np.array_equal(answers(run, "end"), answers(run, "lp-ft"))
    assert not np.array_equal(answers(run, "start"), answers(run, "lp-ft"))


def recipe_weights() -> str:
    from thaw.recipes import embedded_weights

    return embedded_weights("thaw:mobilenet_v2")


def test_an_average_alone_is_the_average_beside_its_arm(run: thaw.Run, recipe: Recipe, tmp_path: Path) -> None:
    compute = choose_compute("cpu", "fp32")
    study = Study(recipe, load_dataset(recipe, compute, Clock()), compute, tmp_path)
    (trial,) = [one for one in plan_study(study).trials if one.spec.name == "wise"]
    result = run_trial(study, trial)
    assert result.record.scores == run.metrics.arms["wise"].test
    again = run_trial(study, trial)
    assert np.array_equal(again.logits, result.logits)
    assert np.array_equal(again.validation_logits, result.validation_logits)


def test_corruptions_are_mild_and_the_same_every_time(
    run: thaw.Run, recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.asarray(Image.open(root / "pictures" / "left" / "000.png").convert("RGB").resize((48, 48)))
    for kind in CORRUPTIONS:
        once = corrupt(kind, pixels, 7)
        assert once.dtype == np.uint8
        assert once.shape == pixels.shape
        assert np.array_equal(once, corrupt(kind, pixels, 7))
        assert 0 < np.abs(once.astype(int) - pixels).mean() < 60
    noise = corrupt("noise", np.full((64, 64, 3), 128, np.uint8), 1).astype(float) - 128
    assert noise.std() == pytest.approx(255 * 0.08, rel=0.05)
    assert list(run.metrics.shifted) == ["night", *CORRUPTIONS]
    dataset = load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())
    one = corrupted("blur", recipe, dataset)
    row = dataset.splits.test[3]
    expected = corrupt("blur", dataset.pixels.image(int(row)), int(dataset.source.digests[row], 16))
    assert np.array_equal(one.pixels[3], expected)
    assert np.array_equal(one.labels, dataset.source.labels[dataset.splits.test])
    it = run.metrics.shifted["noise"].arms["wise"]
    assert it.own == run.metrics.arms["wise"].test.accuracy
    assert it.change_interval[0] <= it.change <= it.change_interval[1]


def test_the_report_has_the_tables(run: thaw.Run) -> None:
    page = run.report.read_text(encoding="utf-8")
    assert 'id="shift"' in page
    assert all(f"<bdi>{name}</bdi>" in page for name in ("night", *CORRUPTIONS))
    assert "WiSE-FT" in page


def test_classes_that_a_model_does_not_know_are_refused_or_left_out(
    run: thaw.Run, root: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "night", root / "other", dirs_exist_ok=True)
    (root / "other" / "middle").mkdir(exist_ok=True)
    (root / "other" / "middle" / "x.png").write_bytes(encoded_image(1, 0, side=50))
    with pytest.raises(DataError, match=r"'middle', which the model does not know.*--known"):
        score_source(run.folder, Data(source=str(root / "other")), "cpu", "fp32")
    out, table = root / "scores.json", root / "answers.csv"
    arguments = (run.folder / "models" / "lp-ft", root / "other", "--known", "--precision", "fp32", "--out", out)
    assert run_thaw(monkeypatch, "test", *arguments, "--predictions", table) == 0
    said = capsys.readouterr()
    assert "1 image of the class 'middle' left out" in said.err
    assert "on the study's test set" in said.out
    record = json.loads(out.read_text())
    assert record["results"]["images"] == 30
    assert len(table.read_text().splitlines()) == 31
    assert run_thaw(monkeypatch, "test", *arguments, "--predictions", root / "answers.parquet") == 0
    assert pq.read_table(root / "answers.parquet").column_names == [
        "id",
        "arm",
        "label",
        "predicted",
        "p_left",
        "p_right",
    ]
    wrong = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"shifted": {"other": str(root / "other")}})}
    )
    with pytest.raises(DataError, match="'middle'"):
        thaw.run_study(wrong, root / "refused")
    assert not (root / "refused" / "work").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("arms.wise.average=nothing",), "is not an arm that trains; name one of lp-ft"),
        (("arms.wise.average=end",), "is not an arm that trains"),
        (("arms.lp-ft.probe=false",), "starts from a random head"),
        (("arms.wise.layer_decay=0.5",), "layer_decay differs"),
        (("data.shifted.test=night",), "names a test set 'test'"),
    ],
)
def test_what_cannot_be_averaged_or_named_is_refused(root: Path, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(root / "shift.toml"), None, settings)


def test_each_value_of_a_column_is_left_out_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["image,label,site"]
    for seed in range(60):
        (tmp_path / f"{seed:03d}.png").write_bytes(encoded_image(seed, seed % 2, side=40))
        lines.append(f"{seed:03d}.png,{'left' if seed % 2 else 'right'},{('north', 'south')[seed % 3 // 2]}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    small = ("images.size=32", "model.backbone=timm/test_resnet", "model.weights=random", "arms.last-stage=")
    quick = ("search.steps=1", "search.learning_rates=[1e-3]", "train.epochs=1", "train.batch_size=16")
    monkeypatch.setattr("thaw.study.write_report", lambda run: None)
    arguments = (tmp_path / "table.csv", "--leave-out", "site", "--out", tmp_path / "runs")
    assert run_thaw(monkeypatch, "study", *arguments, settings=(*small, *quick)) == 0
    assert "trained on the others" in capsys.readouterr().out
    for name, place, images in (("north", 1, 40), ("south", 2, 20)):
        study = thaw.read_run(tmp_path / "runs" / f"{place:02d}-{name}")
        assert study.metrics.splits["test"] == images
        test = {row["id"] for row in study.predictions.to_pylist()}
        assert {("north", "south")[int(one[:3]) % 3 // 2] for one in test} == {name}
    assert run_thaw(monkeypatch, "study", tmp_path / "table.csv", "--leave-out", "place") == 2
    assert "has no column 'place'" in capsys.readouterr().err
