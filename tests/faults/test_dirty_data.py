"""Bad files among good ones: each is said with its reason, and the rest is as if it had not been there."""

import csv
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.bad_files import ODD_NAMES, UNUSABLE, UNUSUAL
from helpers.cli import thaw
from helpers.images import encoded_image, make_class_folders
from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data import source, tables
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.errors import DataError
from thaw.images.decode import to_square
from thaw.progress import Clock
from thaw.recipe import load_recipe

SETTINGS = ("images.size=16", "images.resize=squash", "train.device=cpu", "train.precision=fp32")

SHORT = """
[data]
source = "replaced"
[images]
size = 32
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-3, 1e-2]
steps = 2
[train]
epochs = 1
batch_size = 8
device = "cpu"
precision = "fp32"
[arms.head]
train = "head"
"""
"""A recipe of one arm that trains in a second."""


def load(path: Path, *settings: str) -> Dataset:
    recipe = load_recipe("photos", str(path), (*SETTLED, *SETTINGS, *settings))
    return load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())


@dataclass
class Seen:
    """All that a study sees of its images, without their names."""

    classes: tuple[str, ...]
    splits: dict[str, list[tuple[str, int, bytes]]]


def seen(dataset: Dataset) -> Seen:
    of = dataset.source
    return Seen(
        of.classes,
        {
            split: [(of.digests[row], int(of.labels[row]), dataset.pixels.image(row).tobytes()) for row in rows]
            for split, rows in dataset.splits.rows().items()
        },
    )


def said(dataset: Dataset) -> list[tuple[str, str]]:
    return [(one.id, one.reason) for one in dataset.source.skipped]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_class_folders(tmp_path / "pictures", 40)


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_picture_is_said_and_changes_nothing_else(folder: Path, kind: str) -> None:
    clean = seen(load(folder))
    name, make, reason = UNUSABLE[kind]
    (folder / "left" / name).write_bytes(make())
    dirty = load(folder)
    (listed,) = dirty.source.skipped
    assert listed.id == f"left/{name}"
    assert listed.bad
    assert re.search(reason, listed.reason)
    with pytest.raises(DataError, match=re.escape(listed.reason)):
        load(folder, "data.on_bad_image=fail")
    assert "\n" not in listed.reason
    assert seen(dirty) == clean


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_picture_is_used_as_what_it_shows(folder: Path, kind: str) -> None:
    clean = {row for rows in seen(load(folder)).splits.values() for row in rows}
    name, make, shows = UNUSUAL[kind]
    (folder / "left" / name).write_bytes(make())
    dirty = load(folder)
    assert said(dirty) == []
    row = dirty.source.ids.tolist().index(f"left/{name}")
    assert np.array_equal(dirty.pixels.image(row), np.asarray(to_square(shows(), dirty.preprocessing)))
    assert clean < {row for rows in seen(dirty).splits.values() for row in rows}


def test_odd_names_change_nothing(folder: Path) -> None:
    clean = seen(load(folder))
    for name, path in zip(ODD_NAMES, sorted((folder / "left").iterdir()), strict=False):
        path.rename(path.with_name(name))
    dataset = load(folder)
    assert seen(dataset) == clean
    assert said(dataset) == []
    assert {'left/it\'s "quoted".png', "left/two\nlines.png", "left/latin-\\xe9t\\xe9.png"} < set(dataset.source.ids)
    json.dumps(dataset.source.ids.tolist(), ensure_ascii=False).encode("utf-8")


def test_links_are_followed_but_never_in_circles(folder: Path) -> None:
    clean = seen(load(folder))
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / "left", elsewhere)
    (folder / "left").symlink_to(elsewhere)
    linked = folder / "right" / "006.png"
    target = folder.parent / "kept.png"
    shutil.copy(next((folder / "right").iterdir()), target)
    shutil.copy(folder / "right" / "007.png", target)
    (folder / "right" / "007.png").unlink()
    (folder / "right" / "007.png").symlink_to(target)
    assert not linked.exists()
    (folder / "right" / "loop").symlink_to(folder / "right")
    (folder / "right" / "up").symlink_to(folder)
    (folder / "round").symlink_to(folder)
    (folder / "right" / "self.png").symlink_to("self.png")
    (folder / "right" / "nowhere.png").symlink_to("not-there.png")
    dirty = load(folder)
    assert seen(dirty) == clean
    assert sorted(said(dirty)) == [
        ("right/loop", "is a link to a folder that is read already or holds it"),
        ("right/nowhere.png", "cannot be read: No such file or directory"),
        ("right/self.png", "cannot be read: Too many levels of symbolic links"),
        ("right/up", "is a link to a folder that is read already or holds it"),
        ("round", "is a link to a folder that holds it"),
    ]


def test_what_may_not_be_read_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = seen(load(folder))
    (folder / "left" / "secret.png").write_bytes(encoded_image(1000))
    (folder / "left" / "closed").mkdir()
    read, scan = source.read_file, os.scandir

    def refused(path: str) -> bytes:
        if Path(path).name == "secret.png":
            raise PermissionError(13, "Permission denied", path)
        return read(path)

    def closed(path: str) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    # the tests may run as root, who may read everything
    monkeypatch.setattr(source, "read_file", refused)
    monkeypatch.setattr(os, "scandir", closed)
    dirty = load(folder)
    assert sorted(said(dirty)) == [
        ("left/closed", "cannot be read: Permission denied"),
        ("left/secret.png", "cannot be read: Permission denied"),
    ]
    assert seen(dirty) == clean


def test_bad_rows_of_a_table_are_said_and_change_nothing_else(folder: Path) -> None:
    good = [[str(path.relative_to(folder)), path.parent.name] for path in sorted(folder.rglob("*.png"))]
    (folder / "left" / "unlabelled.png").write_bytes(encoded_image(2000))
    (folder / "other").mkdir()
    (folder / "other" / "empty.png").write_bytes(b"")

    def table(rows: list[list[str]]) -> Path:
        with (folder / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image", "label"], *rows])
        return folder / "table.csv"

    clean = load(table(good))
    bad = [
        ["left/gone.png", "left"],
        ["left/unlabelled.png", ""],
        ["left/unlabelled.png", "NaN"],
        ["", "left"],
        ["other/empty.png", "right"],
        good[3],
        good[3],
    ]
    dirty = load(table([*bad[:4], *good, *bad[4:]]))
    assert said(dirty) == [
        ("left/gone.png", "cannot be read: No such file or directory"),
        ("left/unlabelled.png", "has no label"),
        ("left/unlabelled.png#2", "has no label"),
        ("all/000003", "cannot be read: neither bytes nor a path"),
        (f"{good[3][0]}#2", "is listed before, with the same label"),
        (f"{good[3][0]}#3", "is listed before, with the same label"),
        ("other/empty.png", "is not an image in a format that can be read"),
    ]
    assert seen(dirty) == seen(clean)
    assert dirty.source.ids.tolist() == clean.source.ids.tolist()


def test_missing_labels_of_every_type_are_left_out(tmp_path: Path) -> None:
    content = {
        "image": [encoded_image(seed, seed % 2) for seed in range(40)],
        "label": [float("nan") if seed in (3, 8) else None if seed == 5 else float(seed % 2) for seed in range(40)],
    }
    pq.write_table(pa.table(content), tmp_path / "dirty.parquet")
    kept = [row for row in range(40) if row not in (3, 5, 8)]
    clean = {"image": [content["image"][row] for row in kept], "label": [row % 2 for row in kept]}
    pq.write_table(pa.table(clean), tmp_path / "clean.parquet")
    dirty = load(tmp_path / "dirty.parquet")
    assert said(dirty) == [(f"all/{row:06d}", "has no label") for row in (3, 5, 8)]
    assert seen(dirty) == seen(load(tmp_path / "clean.parquet"))


def test_too_many_bad_pictures_are_refused(folder: Path) -> None:
    for index in range(5):
        (folder / "left" / f"bad-{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"5 of 45 images .* more than data.max_bad_fraction = 0.1 .*'left/bad-0.png'"):
        load(folder)
    assert len(load(folder, "data.max_bad_fraction=0.12").source.skipped) == 5
    with pytest.raises(DataError, match=r"cannot be used, 'left/bad-0.png': is not an image.* and 4 more; fix"):
        load(folder, "data.on_bad_image=fail")
    for path in folder.rglob("0*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="45 of 45 images"):
        load(folder, "data.max_bad_fraction=1.0")


def test_pictures_that_change_while_they_are_read_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = folder / "left" / "000.png"
    before, read, times = changed.read_bytes(), source.read_file, [0]

    def later(path: str) -> bytes:
        if Path(path) == changed:
            times[0] += 1
            if times[0] == 2:
                return encoded_image(3000)
            if times[0] == 4:
                raise FileNotFoundError(2, "No such file or directory")
        return read(path)

    monkeypatch.setattr(source, "read_file", later)
    with pytest.raises(DataError, match=r"'left/000.png' changed while the study was reading; run the command again"):
        load(folder)
    with pytest.raises(DataError, match=r"'left/000.png' cannot be read any more \(No such file"):
        load(folder)
    monkeypatch.undo()
    changed.write_bytes(before)
    assert said(load(folder)) == []


def test_a_table_that_changes_while_it_is_read_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, read_table = folder / "table.csv", tables.load_delimited
    table.write_text("image,label\nleft/000.png,left\nright/001.png,right\n")

    def slow(path: Path) -> Any:
        loaded = read_table(path)
        table.write_text(table.read_text() + "left/002.png,left\n")
        return loaded

    monkeypatch.setattr(tables, "load_delimited", slow)
    with pytest.raises(DataError, match="changed while it was read; run the command again when nothing writes to it"):
        load(table)


@pytest.mark.slow
def test_a_study_of_dirty_data_ends_as_one_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in zip(ODD_NAMES, sorted((folder / "right").iterdir()), strict=False):
        path.rename(path.with_name(name))
    recipe = folder.parent / "short.toml"
    recipe.write_text(SHORT)
    found = {}
    for run in ("clean", "dirty"):
        if run == "dirty":
            for index, (name, make, _) in enumerate(list(UNUSABLE.values())[:4]):
                (folder / "left" / f"{index}-{name}").write_bytes(make())
        assert thaw(monkeypatch, "study", folder, "--recipe", recipe, "--out", folder.parent / run) == 0
        metrics = json.loads((folder.parent / run / "metrics.json").read_text())
        predictions = pq.read_table(folder.parent / run / "predictions.parquet")
        found[run] = metrics["arms"]["head"]["search"], metrics["arms"]["head"]["test"], predictions
        listed = [one["id"] for one in metrics["data"]["skipped"]]
        assert metrics["audit"]["skipped"] == len(listed) == (4 if run == "dirty" else 0)
        report = (folder.parent / run / "report.html").read_text()
        assert "<img src=x onerror" not in report
    assert found["dirty"][:2] == found["clean"][:2]
    assert found["dirty"][2].equals(found["clean"][2])
