"""Several networks in one study: each is the study it would be alone, and the verdict is over all their arms."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import thaw
from helpers.cli import thaw as run_thaw
from helpers.images import encoded_image
from helpers.studies import break_off
from thaw.data.source import read_source
from thaw.errors import DataError, ModelError, RecipeError, StorageError
from thaw.nets.usual import usual_weights
from thaw.recipe import Recipe, load_recipe
from thaw.report.networks import headline, label, reasons
from thaw.run.networks import Networks, make_networks, read_networks
from thaw.scoring.verdict import judge
from thaw.studies import network_studies, run_networks
from thaw.study import run_study

SMALL = """
[data]
source = "animals.parquet"
split = "split"
group = "animal"
[model]
backbone = "timm/test_resnet"
weights = "random"
[search]
learning_rates = [1e-3, 1e-2]
steps = 2
[train]
batch_size = 8
epochs = 2
device = "cpu"
precision = "fp32"
[arms]
linear = { train = "head", head = "linear" }
everything = { train = "all" }
[sweep]
backbones = ["timm/test_resnet", "torchvision/mobilenet_v2"]
"""
RESNET, MOBILENET = "timm-test_resnet", "torchvision-mobilenet_v2"


def recipe_in(folder: Path, *settings: str) -> Recipe:
    return load_recipe(str(folder / "small.toml"), settings=settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight images of twenty-four animals."""
    made = tmp_path_factory.mktemp("networks")
    animals = [row // 2 for row in range(48)]
    table = {
        "image": [encoded_image(row, animal % 2) for row, animal in enumerate(animals)],
        "label": [("left", "right")[animal % 2] for animal in animals],
        "animal": [f"animal {animal}" for animal in animals],
        "split": ["train" if animal < 12 else "validation" if animal < 16 else "test" for animal in animals],
    }
    pq.write_table(pa.table(table), made / "animals.parquet")
    (made / "small.toml").write_text(SMALL)
    return made


@pytest.fixture(scope="module")
def stopped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two networks, stopped in the second of them and resumed."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    recipe = recipe_in(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(tmp_path_factory.mktemp("stopped-cache")))
        begun = break_off(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            run_networks(recipe, out)
        assert (out / "networks" / RESNET / "metrics.json").exists()
        assert not (out / "networks.json").exists()
        begun.clear()
        run_networks(recipe, out, "thaw study --recipe small.toml")
        assert len(begun) == 1
    return out


@pytest.fixture(scope="module")
def networks(stopped: Path) -> Networks:
    return read_networks(stopped)


@pytest.mark.slow
def test_stopped_and_resumed_it_is_two_studies_of_one_network_each(folder: Path, stopped: Path, tmp_path: Path) -> None:
    for name, backbone, weights, size in (
        (RESNET, "timm/test_resnet", "random", 160),
        (MOBILENET, "torchvision/mobilenet_v2", "thaw:mobilenet_v2", 224),
    ):
        own = (f"model.backbone={backbone}", f"model.weights={weights}", "sweep.backbones=")
        alone = run_study(recipe_in(folder, *own), tmp_path / name)
        together = thaw.read_run(stopped / "networks" / name)
        assert together.metrics.images.size == alone.images.size == size
        for file in ("predictions.parquet", "gallery.parquet"):
            assert (together.folder / file).read_bytes() == (tmp_path / name / file).read_bytes()
        for arm in alone.arms:
            weights_of = [run / "models" / arm / "model.safetensors" for run in (together.folder, tmp_path / name)]
            assert weights_of[0].read_bytes() == weights_of[1].read_bytes()
        assert (together.folder / "report.html").exists()


@pytest.mark.slow
def test_the_verdict_is_that_of_all_arms_on_the_same_images(folder: Path, stopped: Path, networks: Networks) -> None:
    """From the answers that each run wrote, by a plain loop."""
    values, ids = {}, list[str]()
    for name in (RESNET, MOBILENET):
        for arm in ("linear", "everything"):
            rows = thaw.read_run(stopped / "networks" / name).predictions.to_pylist()
            right = {row["id"]: float(row["predicted"] == row["label"]) for row in rows if row["arm"] == arm}
            ids = sorted(right)
            values[f"{name}/{arm}"] = np.array([[right[one] for one in ids]])
    source = read_source(recipe_in(folder).data)
    animal = dict(zip(source.ids.tolist(), source.columns.column("animal").to_pylist(), strict=True))
    order = {name: place for place, name in enumerate(dict.fromkeys(animal.values()))}
    groups = np.unique([order[animal[one]] for one in ids], return_inverse=True)[1]
    expected = judge(values, None, 0.01, np.full(len(ids), 0.5), groups)
    assert (networks.best, networks.recommended) == (expected.best, expected.recommended)
    assert networks.verdict.expected == pytest.approx(expected.expected)
    assert networks.verdict.arms.keys() == values.keys()
    for key, own in networks.verdict.arms.items():
        other = expected.arms[key]
        assert own.score == networks.arm(key)[2].score == values[key].mean()
        assert own.probability_best == other.probability_best
        assert own.loss_interval == pytest.approx(other.loss_interval)
    assert sum(own.probability_best for own in networks.verdict.arms.values()) == pytest.approx(1)


@pytest.mark.slow
def test_what_networks_json_says_of_each(stopped: Path, networks: Networks) -> None:
    assert [(it.backbone, it.weights, it.size) for it in networks.networks.values()] == [
        ("timm/test_resnet", "random", 160),
        ("torchvision/mobilenet_v2", "thaw:mobilenet_v2", 224),
    ]
    for name, it in networks.networks.items():
        metrics = thaw.read_run(stopped / "networks" / name).metrics
        for arm, own in it.arms.items():
            assert own.interval == metrics.arms[arm].intervals.accuracy
            weights = stopped / "networks" / name / "models" / arm / "model.safetensors"
            assert own.megabytes == weights.stat().st_size / 1e6
            assert own.milliseconds > 0
    slow, fast = (networks.networks[name].arms["everything"].milliseconds for name in (MOBILENET, RESNET))
    assert slow > fast
    assert networks.test_images == 16


@pytest.mark.slow
def test_the_page_has_every_arm_and_leads_to_each_report(stopped: Path, networks: Networks) -> None:
    page = (stopped / "report.html").read_text(encoding="utf-8")
    for name in (RESNET, MOBILENET):
        assert f'<a href="networks/{name}/report.html">' in page
        assert (stopped / "networks" / name / "report.html").exists()
    assert page.count('<th scope="row">') == 4
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "thaw study --recipe small.toml" in page
    network, arm, _ = networks.arm(networks.recommended)
    assert headline(networks).startswith(("Use", "No network"))
    assert f"`{arm}` of `{network.backbone}`" in headline(networks)
    assert "is the best of 4 models of 2 networks" in reasons(networks)
    assert label(networks, RESNET) == "timm/test_resnet"


@pytest.mark.slow
def test_networks_with_other_test_images_are_not_compared(folder: Path, stopped: Path, tmp_path: Path) -> None:
    other = recipe_in(folder, "sweep.backbones=", "data.split=", "data.group=", "data.test=16", "arms.everything=")
    run_study(other, tmp_path / "other")
    folders = {RESNET: stopped / "networks" / RESNET, "other": tmp_path / "other"}
    with pytest.raises(DataError, match=r"^other has other test images than timm-test_resnet"):
        make_networks(recipe_in(folder), folders, None, "")


def test_weights_are_the_usual_ones_unless_they_are_named(folder: Path) -> None:
    names = ("timm/test_resnet", "timm/test_vit", "timm/test_vit@random", "torchvision/resnet18")
    written = json.dumps([*names, "timm/test_vit@a/b.safetensors"])
    studies = network_studies(recipe_in(folder, f"sweep.backbones={written}"))
    assert {name: own.model.weights for name, own in studies.items()} == {
        RESNET: "random",
        "timm-test_vit": "pretrained",
        "timm-test_vit-random": "random",
        "torchvision-resnet18": "IMAGENET1K_V1",
        "timm-test_vit-b": str(Path("a/b.safetensors").resolve()),
    }
    assert all(own.sweep.backbones is None for own in studies.values())
    assert usual_weights("torchvision/alexnet") == "DEFAULT"


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (
            ('sweep.backbones=["timm/test_vit@random","timm/test_resnt"]',),
            ModelError,
            r"^there is no backbone 'timm/test_resnt' \(did you mean timm/test_resnet.*\.$",
        ),
        (
            ('sweep.backbones=["timm/test_resnet","timm/test_vit@nothing"]',),
            ModelError,
            r"^timm/test_vit has no weights 'nothing'; use pretrained, .*\.$",
        ),
        (("data.group=copies",), RecipeError, r"^data\.group = 'copies' depends on the size .*; name a column\.$"),
        (('sweep.backbones=["a/b","a/b"]',), RecipeError, r"sweep\.backbones names 'a/b' twice; "),
    ],
)
def test_what_is_wrong_is_said_before_anything_trains(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr("thaw.studies.run_study", lambda *_: pytest.fail("a study ran"))
    with pytest.raises(kind, match=message):
        run_networks(recipe_in(folder, *settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_had_are_said_before_anything_trains(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("thaw.studies.run_study", lambda *_: pytest.fail("a study ran"))
    monkeypatch.setattr("thaw.nets.backbones._torch_hub_file", lambda url: tmp_path / "hub" / url.rsplit("/", 1)[-1])
    monkeypatch.setattr("thaw.nets.backbones._fetch", refuse)
    recipe = recipe_in(folder, 'sweep.backbones=["timm/test_resnet","torchvision/resnet18"]')
    with pytest.raises(ModelError, match=r"^the weights 'IMAGENET1K_V1' of torchvision/resnet18 could not be downl"):
        run_networks(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dry_run_lists_the_networks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_thaw(monkeypatch, "study", "--recipe", folder / "small.toml", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "48 images, timm/test_resnet" in said
    assert "48 images, torchvision/mobilenet_v2" in said
    assert list(tmp_path.iterdir()) == []
    assert run_thaw(monkeypatch, "study", "--recipe", folder / "small.toml", "--leave-out", "animal") == 2
    assert "--leave-out is for one network" in capsys.readouterr().err


def test_one_study_is_of_one_network(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"use thaw\.run_networks"):
        run_study(recipe_in(folder), tmp_path / "run")
    (tmp_path / "networks.json").write_text("{}")
    with pytest.raises(StorageError, match=r"networks\.json is missing or damaged"):
        read_networks(tmp_path)
    with pytest.raises(StorageError, match=r"holds several networks; give .*networks/NAME"):
        thaw.read_run(tmp_path)
