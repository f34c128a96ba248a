"""Predictions are those of the trained network, whatever form the pictures come in and go out."""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import thaw
from helpers import cli
from helpers.images import encoded_image
from helpers.small_bundle import small_bundle
from thaw.bundle import model
from thaw.bundle.model import Named
from thaw.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle", temperature=2.0)


@pytest.fixture
def bundle(folder: Path) -> thaw.Bundle:
    return thaw.load(folder, device="cpu", precision="fp32")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten pictures of several sizes and formats."""
    root = tmp_path / "pictures"
    root.mkdir()
    kinds = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
    paths = [root / f"{index}.{kinds[index % 5].lower()}" for index in range(10)]
    for index, path in enumerate(paths):
        path.write_bytes(encoded_image(index, index % 2, side=30 + 7 * index, kind=kinds[index % 5]))
    return paths


def rgb(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def one_by_one(bundle: thaw.Bundle, files: list[Path]) -> NDArray[np.float64]:
    """The same by torchvision's transforms, a picture at a time."""
    given = bundle.preprocessing
    transform = v2.Compose(
        [
            v2.Resize((given.size, given.size)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(given.mean, given.std),
        ]
    )
    with torch.inference_mode():
        logits = [bundle.model(transform(rgb(path))[None])[0] for path in files]
        return torch.softmax(torch.stack(logits).double() / (bundle.temperature or 1), 1).numpy()


def thaw_predict(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return cli.thaw(monkeypatch, "predict", "--precision", "fp32", *arguments)


def test_every_form_of_a_picture_gives_what_torchvision_gives(bundle: thaw.Bundle, files: list[Path]) -> None:
    expected = one_by_one(bundle, files)
    opened = [rgb(path) for path in files]
    arrays = [np.array(image) for image in opened]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    forms: list[Any] = [files, list(map(str, files)), [path.read_bytes() for path in files], opened, arrays, tensors]
    forms += [np.array([str(path) for path in files]), iter(files)]
    for form in forms:
        np.testing.assert_allclose(bundle.predict_proba(form), expected, atol=1e-6)
    assert bundle.predict(files).tolist() == [bundle.classes[code] for code in expected.argmax(1)]
    mixed = [files[0], opened[1], arrays[2], tensors[3], files[4].read_bytes()]
    np.testing.assert_allclose(bundle.predict_proba(mixed), expected[:5], atol=1e-6)


def test_one_picture_and_arrays_of_several(bundle: thaw.Bundle, files: list[Path]) -> None:
    image = np.array(rgb(files[0]))
    expected = bundle.predict_proba([image])
    for one in (image, torch.from_numpy(image), image[None], str(files[0]), Image.fromarray(image)):
        np.testing.assert_array_equal(bundle.predict_proba(one), expected)
    assert bundle.predict_proba([]).shape == (0, 2)


def test_the_model_still_gives_gradients(bundle: thaw.Bundle, files: list[Path]) -> None:
    bundle.predict(files)
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(bundle.model(images).sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("/no/such.png", "/no/such.png cannot be read"),
        (b"no picture", "image 0 is not an image"),
        (np.zeros((4, 4, 3)), "is an array float64"),
        (torch.zeros(5, 4, 5, dtype=torch.uint8), "is an array uint8"),
        (7, "is of type int"),
        ("a\0b", "cannot be read"),
        (Image.open(io.BytesIO(encoded_image(0)[:200])), "image 0 cannot be decoded"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(bundle: thaw.Bundle, wrong: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        bundle.predict_proba([wrong])


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_memory_that_waits_is_bounded(ahead: int, bundle: thaw.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pictures there are, no more are taken from their source than the batches that are asked for."""
    monkeypatch.setitem(model.BATCH_PIXELS, "cpu", 16 * 32**2)
    monkeypatch.setitem(model.AHEAD, "cpu", ahead)
    image, taken, written = encoded_image(0), 0, 0

    def source() -> Iterator[Named]:
        nonlocal taken
        for index in range(400):
            taken += 1
            yield Named(str(index), image)

    for batch in bundle.batches(source()):
        assert taken <= written + 16 * (1 + ahead)
        written += len(batch.names)
        assert len(batch.names) == 16
    assert written == 400


def test_bf16_is_fp32_but_for_rounding(folder: Path, bundle: thaw.Bundle, files: list[Path]) -> None:
    """The network is folded there; the bundle's own is not touched."""
    rounded = thaw.load(folder, device="cpu", precision="bf16")
    before = {name: value.clone() for name, value in rounded.model.state_dict().items()}
    np.testing.assert_allclose(rounded.predict_proba(files), bundle.predict_proba(files), atol=0.02)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in rounded.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in rounded.model.state_dict().items())


def test_the_command_writes_what_the_model_says(
    folder: Path,
    bundle: thaw.Bundle,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = one_by_one(bundle, files)
    predicted = [bundle.classes[code] for code in expected.argmax(1)]
    for ending in ("csv", "jsonl", "parquet"):
        assert thaw_predict(monkeypatch, folder, files[0].parent, "--out", tmp_path / f"out.{ending}") == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["image"] for row in rows] == list(map(str, files))
    assert [row["predicted"] for row in rows] == predicted
    found = [[float(row["p_left"]), float(row["p_right"])] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([list(line["probabilities"].values()) for line in lines], expected, atol=1e-6)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["image"], row["predicted"]) for row in table] == list(zip(map(str, files), predicted, strict=True))
    assert thaw_predict(monkeypatch, folder, *files, "--top", "9", "--format", "csv") == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row["class_1"] == predicted[0]
    assert float(row["p_1"]) >= float(row["p_2"])
    assert thaw_predict(monkeypatch, folder, *files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["p", "class", "image"]
    assert [line.split()[1:] for line in lines[1:]] == [[p, str(f)] for p, f in zip(predicted, files, strict=True)]


def test_what_the_command_takes(
    folder: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def images(*arguments: object) -> list[str]:
        assert thaw_predict(monkeypatch, folder, *arguments, "--format", "jsonl") == 0
        return [Path(json.loads(line)["image"]).name for line in capsys.readouterr().out.splitlines()]

    names = [file.name for file in files]
    root = files[0].parent
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(files[0].read_bytes())
    assert images(root) == names
    assert images(f"{root}/*.png") == ["0.png", "5.png"]
    assert images(f"{tmp_path}/**/*.png", files[1]) == ["0.png", "5.png", "1.jpeg"]
    (root / "table.csv").write_text("id,image\n" + "".join(f"x,{name}\n" for name in names))
    assert images(root / "table.csv") == names
    content = [file.read_bytes() for file in files]
    structs = pa.array([{"bytes": one, "path": name} for one, name in zip(content, names, strict=True)])
    pq.write_table(pa.table({"image": structs}), root / "structs.parquet")
    assert images(root / "structs.parquet") == names
    pq.write_table(pa.table({"photo": pa.array(content)}), root / "bytes.parquet")
    assert images(root / "bytes.parquet", "--image", "photo") == [f"bytes.parquet#{row}" for row in range(10)]
    pq.write_table(pa.table({"image": pa.array(names)}), root / "paths.parquet")
    assert images(root / "paths.parquet") == names
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{file}\n" for file in files)))
    assert images("-") == names


def test_bad_files_are_noted_and_passed_over(
    folder: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files[3].write_bytes(files[3].read_bytes()[:200])
    files[4].write_bytes(b"")
    assert thaw_predict(monkeypatch, folder, *files, "--format", "csv") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 + 8
    assert f"skipped {files[4]}: is not an image" in said.err
    assert "2 of 10 images cannot be used and were skipped" in said.err
    table = files[0].parent / "table.csv"
    table.write_text(f"image\n../bundle/config.json\n{files[1].name}\n")
    assert thaw_predict(monkeypatch, folder, table, "--format", "csv") == 0
    said = capsys.readouterr()
    assert [line.split(",")[0] for line in said.out.splitlines()[1:]] == [files[1].name]
    assert "skipped ../bundle/config.json: lies outside the table's folder" in said.err


def test_names_that_are_no_text_pass_through_a_pipe(folder: Path, files: list[Path]) -> None:
    odd = files[0].parent / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes(files[0].read_bytes())
    command = [sys.executable, "-m", "thaw", "predict", folder, "-", "--format", "csv"]
    names = b"\n".join(map(os.fsencode, (odd, files[0])))
    strict = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    ended = subprocess.run(command, input=names, env=strict, capture_output=True, check=False)
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 3), ended.stderr
    ended = subprocess.run(["sh", "-c", f"{shlex.join(map(str, command))} <&- >&-"], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        2,
        b"thaw: there are no images; give images, such as JPEG or PNG files.\n",
    )


def test_what_lies_in_a_folder_is_found_as_a_study_finds_it(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "found"
    (root / ".ipynb_checkpoints").mkdir(parents=True)
    (root / ".ipynb_checkpoints" / "old.png").write_bytes(files[0].read_bytes())
    (root / "linked").symlink_to(files[0].parent)
    (root / "again").symlink_to(root)
    assert thaw_predict(monkeypatch, folder, root, "--format", "csv") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 + len(files)
    assert f"skipped {root}/again: is a link to a folder that is read already or holds it" in said.err


def test_what_is_not_a_plain_file_or_too_large_is_passed_over(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "hostile"
    root.mkdir()
    (root / "good.png").write_bytes(files[0].read_bytes())
    os.mkfifo(root / "pipe.png")
    (root / "linked.png").symlink_to(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    with (root / "giant.png").open("wb") as giant:
        giant.truncate(1 << 40)
    (root / "table.csv").write_text("image\npipe.png\ngiant.png\ngood.png\n")
    for given in (root, root / "table.csv"):
        assert thaw_predict(monkeypatch, folder, given, "--format", "csv") == 0
        said = capsys.readouterr()
        assert len(said.out.splitlines()) == 1 + 1
        assert "pipe.png: cannot be read: is not a plain file" in said.err
        assert "giant.png: cannot be read: has 1,099,511,627,776 bytes, more than" in said.err


@pytest.mark.parametrize("kind", ["saved", "parquet", "metadata"])
def test_a_dataset_folder_is_taken_as_a_study_takes_it(
    kind: str,
    folder: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "dataset"
    content = datasets.Dataset.from_dict({"image": [{"bytes": file.read_bytes(), "path": None} for file in files]})
    if kind == "saved":
        datasets.disable_progress_bars()
        content.cast_column("image", datasets.Image()).save_to_disk(root)
    elif kind == "parquet":
        (root / "data").mkdir(parents=True)
        pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), root / "data" / "test-0.parquet")
    else:
        files[0].parent.rename(root)
        (root / "metadata.csv").write_text("\n".join(["file_name", *(file.name for file in files)]))
    assert thaw_predict(monkeypatch, folder, root, "--format", "csv") == 0
    said = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    files = sorted(root.glob("[0-9]*")) if kind == "metadata" else files
    predicted = thaw.load(folder, device="cpu", precision="fp32").predict(files)
    assert [row["predicted"] for row in said] == predicted.tolist()


def test_a_link_is_written_through_and_a_device_is_not_replaced(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert thaw_predict(monkeypatch, folder, files[0], "--out", tmp_path / "link.csv") == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len((tmp_path / "real.csv").read_text().splitlines()) == 2
    os.mkfifo(tmp_path / "pipe.csv")
    for name, what in (("pipe.csv", "not a regular file"), ("bundle", "a folder")):
        assert thaw_predict(monkeypatch, folder, files[0], "--format", "csv", "--out", tmp_path / name) == 2
        assert f"{name} is {what}; give the name of a file." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such"], "there is no /no/such"),
        (["{root}/*.xyz"], "there is no"),
        (["{root}/empty"], "holds no image"),
        (["{root}/empty.csv"], "has no column 'image'"),
        (["{root}/broken.parquet"], "cannot be read as a table"),
        (["{root}/notes.txt"], "none of the 1 images can be used"),
        (["{root}/0.png", "--out", "{root}/out.xyz"], "has no known extension"),
        (["{root}/0.png", "--format", "parquet"], "cannot go to standard output"),
        (["{root}/0.png", "--out", "/proc/out.csv"], "cannot write to"),
        (["{root}/0.png", "--device", "cuda"], "is not there"),
    ],
)
def test_a_mistake_is_one_sentence(
    folder: Path,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    root = files[0].parent
    (root / "empty").mkdir()
    (root / "empty.csv").write_text("")
    (root / "broken.parquet").write_text("PAR1")
    (root / "notes.txt").write_text("no picture")
    assert thaw_predict(monkeypatch, folder, *(argument.format(root=root) for argument in arguments)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("thaw:")]
    assert len(error) == 1
    assert said in error[0]
    assert error[0].endswith(".")
    assert not (root / "out.xyz").exists()


def test_no_name_is_a_formula_or_moves_the_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_bundle(tmp_path / "bundle", classes=["=1+1", "-7"])
    monkeypatch.chdir(tmp_path)
    names = ["=cmd()", "+1+cmd()", "@sum", "-2", "a\x1b[2Jb.png", os.fsdecode(b"\xff.png")]
    for name in names:
        Path(name).write_bytes(encoded_image(0))
    assert thaw_predict(monkeypatch, folder, "--format", "csv", "--", *names) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [row[0] for row in rows[1:]] == ["'=cmd()", "'+1+cmd()", "'@sum", "-2", names[4], "\\xff.png"]
    assert {row[1] for row in rows[1:]} <= {"'=1+1", "-7"}
    assert thaw_predict(monkeypatch, folder, "--", *names[:5]) == 0
    assert "\x1b" not in capsys.readouterr().out
