"""thaw init: what is guessed of a source of every kind, and that the recipe written for it loads and plans."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.cli import thaw
from helpers.images import encoded_image
from helpers.sources import as_csv, as_dataset, as_parquet, as_saved_dataset, labelled_files
from thaw.data.source import read_source
from thaw.data.splits import make_splits
from thaw.errors import DataError, StorageError
from thaw.init.guess import look_at
from thaw.init.recipe import suggest, write_recipe
from thaw.recipe import load_recipe


def as_odd_table(folder: Path, **columns: list[object]) -> Path:
    """A CSV in whose columns nothing is called as a recipe would call it."""
    path = folder / "odd.csv"
    content = {"file": [str(p.relative_to(folder)) for p, _ in labelled_files(folder)], **columns}
    content["species"] = [label for _, label in labelled_files(folder)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(content)
        writer.writerows(zip(*content.values(), strict=True))
    return path


def test_the_recipe_for_every_kind_of_source_loads_and_reads_it(class_folder: Path, tmp_path: Path) -> None:
    sources = [
        class_folder,
        as_csv(class_folder),
        as_parquet(class_folder),
        as_dataset(class_folder, tmp_path / "dataset"),
        as_saved_dataset(class_folder, tmp_path / "other"),
    ]
    for index, source in enumerate(sources):
        look = look_at(str(source))
        recipe = load_recipe(str(write_recipe(look, tmp_path / f"recipe-{index}.toml")))
        assert Path(recipe.data.source) == source.resolve()
        assert (recipe.data.image, recipe.data.label) == ("image", "label")
        assert (recipe.images.size, recipe.images.resize) == (32, "squash")
        assert (recipe.train.batch_size, recipe.train.epochs) == (16, 20)
        assert set(recipe.arms) == {"head", "last-stage", "everything"}
        read = read_source(recipe.data)
        assert len(read.ids) == 60
        assert len(make_splits(read, recipe.data).test) == 9


def test_init_through_the_command_line_and_a_dry_run_of_its_recipe(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert thaw(monkeypatch, "init", "pictures") == 0
    assert "60 images of 2 classes" in capsys.readouterr().out
    assert 'source = "pictures"' in Path("recipe.toml").read_text()
    small = ("model.backbone=timm/test_resnet", "model.weights=random", 'arms.last-stage.train="head"')
    sets = [word for setting in small for word in ("--set", setting)]
    assert thaw(monkeypatch, "study", "--recipe", "recipe.toml", "--dry-run", *sets) == 0
    assert "head: trains " in capsys.readouterr().out
    before = Path("recipe.toml").read_text()
    assert thaw(monkeypatch, "init", "pictures") == 2
    error = capsys.readouterr().err
    assert "already there" in error
    assert error.count("\n") == 1
    assert Path("recipe.toml").read_text() == before
    assert thaw(monkeypatch, "init", "picturse") == 2
    assert "there is no picturse" in capsys.readouterr().err


def test_columns_are_guessed_by_name_and_values(class_folder: Path) -> None:
    count = len(labelled_files(class_folder))
    patients = [f"p{index // 4}" for index in range(count)]
    splits = [("training", "val", "testing")[index // 4 % 3] for index in range(count)]
    table = as_odd_table(class_folder, patientId=patients, age=[index % 70 for index in range(count)], part=splits)
    look = look_at(str(table))
    assert look.data.model_dump(exclude={"source", "seed"}, exclude_defaults=True) == {
        "image": "file",
        "label": "species",
        "split": "part",
        "group": "patientId",
        "validation": "val",
        "test": "testing",
    }
    assert [len(part) for part in look.splits.rows().values()] == [20, 20, 20]
    text = suggest(look, class_folder / "recipe.toml")
    assert 'source = "odd.csv"' in text
    assert "its values are training, val, testing" in text


def test_a_group_that_straddles_the_splits_is_named_and_left_out(class_folder: Path) -> None:
    count = len(labelled_files(class_folder))
    splits = [("train", "test")[index % 2] for index in range(count)]
    people = [index % 10 // 2 for index in range(count)]
    look = look_at(str(as_odd_table(class_folder, person=people, part=splits)))
    assert look.data.group is None
    assert "'person' looks like one" in look.why["group"]
    assert "# group: 'person'" in suggest(look, class_folder / "recipe.toml")


def test_a_label_without_a_telling_name_is_called_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    content = {
        "shot": [encoded_image(i) for i in range(40)],
        "when": list(range(40)),
        "kind": ["a", "b"] * 20,
        "n": [0, 1] * 20,
    }
    pq.write_table(pa.table(content), path)
    look = look_at(str(path))
    assert (look.data.image, look.data.label) == ("shot", "kind")
    assert look.why["label"] == "a guess: it has 2 different values that repeat; 'n' could be too"


def test_sizes_shapes_and_balance_are_told(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for index in range(60):
        folder = root / ("cat\x07" if index < 52 else "dog\U0001f415")
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(np.full((900, 1200, 3), index, dtype=np.uint8)).save(buffer, "JPEG")
        (folder / f"{index}.jpg").write_bytes(buffer.getvalue())
    (root / "cat\x07" / "broken.jpg").write_bytes(b"no picture")
    recipe = tmp_path / "recipe.toml"
    text = write_recipe(look_at(str(root)), recipe).read_text()
    assert "# 61 images of 2 classes: cat\\x07 53, dog\U0001f415 8." in text
    assert "7 times the images of the smallest" in text
    assert "8 images only" in text
    assert "1 of 61 images looked at cannot be opened" in text
    assert "1200 x 900 pixels in the median" in text
    assert "squash bends their shape" in text
    assert 'decode = "fast"' in text
    found = load_recipe(str(recipe))
    assert found.images.size == 224
    assert found.train.class_weights == "balanced"
    assert "always answering 'cat\\x07' is right on 86.9%" in text


def test_sources_that_cannot_be_guessed_say_so(class_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"no column of .* holds images"):
        look_at(str(tmp_path / "numbers.csv"))
    pq.write_table(
        pa.table({"image": [encoded_image(i) for i in range(4)], "x": [0.1, 0.2, 0.3, 0.4]}), tmp_path / "t.parquet"
    )
    with pytest.raises(DataError, match="looks like classes; it has image, x"):
        look_at(str(tmp_path / "t.parquet"))
    shutil.rmtree(class_folder)
    class_folder.mkdir()
    with pytest.raises(DataError, match="no folder per class"):
        look_at(str(class_folder))


def test_a_recipe_is_never_overwritten(class_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("# mine")
    with pytest.raises(StorageError, match="already there"):
        write_recipe(look_at(str(class_folder)), tmp_path / "mine.toml")
    assert (tmp_path / "mine.toml").read_text() == "# mine"
