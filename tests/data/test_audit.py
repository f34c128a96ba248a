"""The audit and `thaw check`: planted faults are counted, the embedded example leaks at random and not by role."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from helpers.cli import thaw
from helpers.images import encoded, encoded_image, scene
from thaw.data.duplicates import outlines
from thaw.data.exposure import judge_exposure

AT_RANDOM = """
[data]
source = "thaw:emoji-people"
validation = 0.15
test = 0.25
[images]
size = 64
resize = "squash"
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[train]
precision = "fp32"
[arms.head]
train = "head"
"""
PLAIN = ("images.size=64", "images.resize=squash", "train.device=cpu", "train.precision=fp32")


def check(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: object,
    settings: tuple[str, ...] = (),
) -> tuple[int, str]:
    """Run `thaw check`; return its exit code and what it wrote."""
    return thaw(monkeypatch, "check", *arguments, settings=settings), capsys.readouterr().out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scenes in the folders train, validation and test, of two classes."""
    root = tmp_path / "pictures"
    for seed in range(60):
        split = "train" if seed < 36 else "validation" if seed < 48 else "test"
        path = root / split / ("a", "b")[seed % 2] / f"{seed:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(scene(seed)))
    return root


def sentences(found: dict[str, Any], severity: str) -> list[str]:
    return [one["what"] for one in found["findings"] if one["severity"] == severity]


def test_nothing_is_said_of_a_clean_source(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = check(monkeypatch, capsys, folder, "--json", settings=PLAIN)
    found = json.loads(out)
    assert code == 0
    assert found["classes"] == {"a": 30, "b": 30}
    assert found["sizes"] == {"smallest": [128, 128], "median": [128, 128], "largest": [128, 128]}
    assert found["leak"] is None
    assert not sentences(found, "error")
    assert sentences(found, "warning") == ["2 classes have fewer than 10 images in test: 'a', 'b'"]


def test_few_groups_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder.parent / "table.csv"
    files = sorted(folder.glob("*/*/*.png"))
    lines = [f"{file.relative_to(folder.parent)},{file.parent.name},{row % 20}" for row, file in enumerate(files)]
    table.write_text("\n".join(["image,label,patient", *lines]))
    code, out = check(monkeypatch, capsys, table, settings=(*PLAIN, "data.group=patient", "data.test=0.2"))
    assert code == 0
    assert "warning: the test images have 4 values of 'patient'; whatever the images, no difference" in out


def test_planted_faults_are_counted_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = (folder / "train" / "a" / "00.png").read_bytes()
    (folder / "test" / "a" / "copy.png").write_bytes(original)
    (folder / "train" / "b" / "conflict.png").write_bytes(original)
    (folder / "validation" / "a" / "again.jpg").write_bytes(encoded(scene(2), "JPEG", quality=60))
    (folder / "train" / "a" / "wrong.png").write_bytes(encoded(scene(70), "JPEG", quality=60))
    (folder / "train" / "a" / "dot.png").write_bytes(encoded(Image.new("RGB", (1, 1), "red")))
    (folder / "train" / "b" / "strip.png").write_bytes(encoded(scene(71).crop((0, 0, 128, 24))))
    (folder / "train" / "b" / "grey.png").write_bytes(encoded(scene(72).convert("L")))
    (folder / "train" / "b" / "empty.png").write_bytes(b"")
    code, out = check(monkeypatch, capsys, folder, "--json", settings=PLAIN)
    found = json.loads(out)
    assert code == 1
    assert found["images"] == 67
    assert found["skipped"] == 1
    assert found["exact"] == {
        "groups": 1,
        "images": 3,
        "across": {"train/validation": 0, "train/test": 1, "validation/test": 0},
    }
    assert found["near"] == {
        "groups": 1,
        "images": 2,
        "across": {"train/validation": 1, "train/test": 0, "validation/test": 0},
    }
    assert found["leaked"] == 1
    (conflict,) = found["conflicting"]["examples"]
    assert sorted(zip(conflict["ids"], conflict["labels"], strict=True)) == [
        ("test/a/copy.png", "a"),
        ("train/a/00.png", "a"),
        ("train/b/conflict.png", "b"),
    ]
    assert {(one["kind"], one["split_a"], one["split_b"]) for one in found["pairs"]} >= {
        ("near", "train", "validation")
    }
    assert {tuple(sorted((one["a"], one["b"]))) for one in found["pairs"] if one["kind"] == "near"} == {
        ("train/a/02.png", "validation/a/again.jpg")
    }
    assert found["issues"]["counts"] == {"misnamed": 1, "tiny": 1, "long": 1, "grey": 1, "low_information": 1}
    assert found["sizes"]["smallest"] == [1, 1]
    said = "\n".join(sentences(found, "error") + sentences(found, "warning"))
    assert "1 of 13 test images (7.7%) are copies, byte for byte, of images in train" in said
    assert "1 group of exact duplicates with different labels" in said
    assert "1 of 13 validation images (7.7%) look nearly the same as images in train" in said
    assert "1 image cannot be used, such as 'train/b/empty.png', which is not an image" in said
    assert "\n" not in max(one["what"] for one in found["findings"])
    # the same for people
    assert check(monkeypatch, capsys, folder, settings=PLAIN)[1].count("error: ") == 2


def test_images_of_one_colour_and_nearly_black_or_white_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (128, 128, 3))
    dim, paper = Image.eval(scene(80), lambda level: level // 6), Image.eval(scene(81), lambda level: 245 + level // 26)
    for name, image in {
        "black": Image.new("RGB", (128, 128)),
        "white": Image.new("L", (128, 128), "white"),
        "green": Image.fromarray((np.array([40, 130, 60]) + noise).astype(np.uint8)),
        "dim": dim,
        "paper": paper,
        "dusk": Image.eval(scene(82), lambda level: level // 2),
    }.items():
        (folder / "train" / "a" / f"{name}.png").write_bytes(encoded(image))
    _, out = check(monkeypatch, capsys, folder, "--json", settings=PLAIN)
    found = json.loads(out)
    named = {(Path(one["id"]).stem, one["kind"]) for one in found["issues"]["examples"]}
    plain = {("black", "low_information"), ("white", "low_information"), ("green", "low_information")}
    assert named == plain | {
        ("paper", "low_information"),
        ("black", "dark"),
        ("dim", "dark"),
        ("white", "light"),
        ("paper", "light"),
    }
    assert found["issues"]["counts"] == {"low_information": 4, "dark": 2, "light": 2}
    assert any(one.startswith("4 images are one colour, such as 'train/a/") for one in sentences(found, "warning"))
    assert any(one.startswith("2 images are nearly black, such as") for one in sentences(found, "note"))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["trash", "flowers"])
def test_no_photograph_is_one_colour_or_nearly_black_or_white(name: str, shared: Path) -> None:
    content = [
        row["bytes"]
        for file in sorted((shared / name / "data").glob("*.parquet"))
        for row in pq.read_table(file, columns=["image"]).column("image").to_pylist()
    ]
    pixels = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB").resize((64, 64))) for one in content]
    assert not np.any(judge_exposure(outlines(torch.from_numpy(np.stack(pixels)))[2]))


def test_the_embedded_drawings_leak_at_random_and_hardly_by_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "at-random.toml"
    recipe.write_text(AT_RANDOM)
    code, out = check(monkeypatch, capsys, "--recipe", recipe, "--json")
    at_random = json.loads(out)
    assert code == 1
    assert at_random["near"]["across"]["train/test"] > 0.9 * at_random["splits"]["test"]
    assert at_random["leak"]["effect"] > 0.085
    assert at_random["leak"]["interval"][0] > 0.03
    assert at_random["leak"]["accuracy"] > 0.9
    assert any("raise test accuracy by" in one for one in sentences(at_random, "error"))
    code, out = check(monkeypatch, capsys, "--json")
    by_role = json.loads(out)
    assert code == 0
    assert by_role["leaked"] < 0.15 * by_role["splits"]["test"]
    assert by_role["leak"]["interval"][0] < 0 < by_role["leak"]["interval"][1]
    assert by_role["near"]["images"] > 1900


def test_a_study_keeps_its_audit_and_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content = {
        "image": [encoded_image(row % 50, row % 2) for row in range(60)],
        "label": [row % 2 for row in range(60)],
    }
    pq.write_table(pa.table(content), tmp_path / "table.parquet")
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        AT_RANDOM.replace("thaw:emoji-people", "table.parquet").replace("size = 64", "size = 32")
        + "[search]\nlearning_rates = [1e-3]\nsteps = 1\n"
    )
    assert thaw(monkeypatch, "study", "--recipe", recipe, "--out", tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["audit"]["exact"]["images"] == 20
    leaked = metrics["audit"]["exact"]["across"]["train/test"]
    assert leaked > 0
    assert metrics["audit"]["leaked"] >= leaked
    assert metrics["seconds"]["audit"] > 0
    said = capfd.readouterr().err
    for one in metrics["audit"]["findings"]:
        assert (f"{one['severity']}: {one['what']}" in said) == (one["severity"] != "note")


@pytest.mark.shared
def test_copies_among_photographs_are_one_photograph(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("images.size=64", "images.resize=squash", "data.test=validation", "data.validation=100")
    _, out = check(monkeypatch, capsys, shared / "celeba", "--json", settings=settings)
    found = json.loads(out)
    # there are four pairs, each looked at: the same photograph twice; at this size three are near enough
    assert found["near"]["groups"] == 3
    assert found["near"]["images"] == 6
    assert found["exact"]["images"] == 0
    assert np.isfinite([one["distance"] for one in found["pairs"]]).all()
