"""Untrusted files: nothing in them is run, obeyed by a terminal, read without bounds or written elsewhere."""

import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import thaw as package
from helpers.cli import thaw
from helpers.images import encoded_image
from helpers.small_metrics import as_metrics
from thaw.data.source import read_source
from thaw.errors import ModelError
from thaw.images import files
from thaw.nets.backbones import build_backbone
from thaw.progress import say
from thaw.recipe import Data
from thaw.run.metrics import Metrics
from thaw.text import escape_terminal

ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202etxt.exe\udcff\r"


def is_inert(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert escape_terminal("a\x1b[2J\u202eb\x9b\x00\udcff") == r"a\x1b[2J\u202eb\x9b\x00\udcff"
    assert escape_terminal("Zoë 猫 👩🏽‍⚕️ 'x'\n\ty") == "Zoë 猫 👩🏽‍⚕️ 'x'\n\ty"


def test_recipes_sources_and_errors_are_inert_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.toml").write_text(f"# {ESCAPE[:-2]}\n[{ESCAPE[:4]}")
    (tmp_path / "evil.csv").write_text(f"image,{ESCAPE[:-2]}[bold]\na.png,b\n")
    assert thaw(monkeypatch, "recipes", str(tmp_path / "evil.toml")) == 0
    assert thaw(monkeypatch, "study", "--recipe", str(tmp_path / "evil.toml")) == 2
    assert thaw(monkeypatch, "study", str(tmp_path / "evil.csv"), "--out", str(tmp_path / "run")) == 2
    assert thaw(monkeypatch, "study", "--recipe", f"no{ESCAPE}") == 2
    assert thaw(monkeypatch, f"study{ESCAPE}") == 2
    say(f"skipped {ESCAPE} [red]")
    said = capsys.readouterr()
    assert is_inert(said.out)
    assert is_inert(said.err)
    assert "[bold]" in said.err
    assert "[red]" in said.err
    assert len(said.err.splitlines()) == 5


def test_the_name_of_a_recipe_is_neither_markup_nor_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_metrics({"splits": {"test": 2}, "arms": {"head": {}}, "best": "head", "recommended": "head"})
    outs: list[Path] = []

    def study(recipe: Any, out: Path, *_: object) -> Metrics:
        outs.append(out)
        return found.model_copy(update={"recipe": recipe.name})

    monkeypatch.setattr("thaw.study.run_study", study)
    for name in (r"[/] [red]\u001b[2J", "../../../etc", ".."):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f'name = "{name}"\n[data]\nsource = "x"\n[model]\nbackbone = "torchvision/alexnet"\nweights = "random"\n'
            '[arms.head]\ntrain = "head"\n'
        )
        assert thaw(monkeypatch, "study", "--recipe", str(recipe)) == 0
    said = capsys.readouterr().out
    assert r"[/] [red]\x1b[2J: 2 test images" in said
    assert is_inert(said)
    assert outs == [Path("runs/red-2J"), Path("runs/etc"), Path("runs/study")]


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads() -> None:
    """Checked in the text here, and while whole studies run in tests/faults, where unpickling a name is an error."""
    forbidden = re.compile(
        r"\b(?:c?pickle|dill|joblib|marshal|shelve)\.\w*loads?\b|import (?:dill|joblib|marshal|shelve|pickle)\b"
        r"|torch\.load\(|allow_pickle|np\.load\(|trust_remote_code|\beval\(\s*['\"a-z]|\bexec\(|shell=True|os\.system"
        r"|weights_only=False|yaml\.(?:unsafe_)?load\("
    )
    files = list(Path(package.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    assert [f"{file.name}: {found[0]}" for file in files for found in forbidden.finditer(file.read_text("utf-8"))] == []


def test_a_cached_checkpoint_that_was_tampered_with_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub itself compares the hash only when it downloads the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.value, "url", "file:///alexnet-7be5be79.pth")
    file = tmp_path / "hub" / "checkpoints" / "alexnet-7be5be79.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.alexnet(num_classes=2).state_dict(), file)
    with pytest.raises(ModelError, match=r"its SHA-256 begins with \w{8}, not 7be5be79; delete it"):
        build_backbone("torchvision/alexnet", "IMAGENET1K_V1", 2, seed=0)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.value, "url", "file:///alexnet.pth")
    file = tmp_path / "hub" / "checkpoints" / "alexnet.pth"
    file.parent.mkdir(parents=True)
    torch.save({"features.0.weight": _Evil()}, file)
    with pytest.raises(ModelError):
        build_backbone("torchvision/alexnet", "IMAGENET1K_V1", 2, seed=0)
    assert not (tmp_path / "owned").exists()


def test_weights_with_a_header_without_bounds_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "huge.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    file.write_bytes(struct.pack("<Q", 1 << 30) + file.read_bytes()[8:])
    with pytest.raises(ModelError, match="header of 1,073,741,824 bytes"):
        build_backbone("torchvision/alexnet", file, 2, seed=0)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ModelError, match="not a regular file"):
        build_backbone("torchvision/alexnet", tmp_path / "pipe.safetensors", 2, seed=0)


def test_pictures_that_are_no_files_or_too_large_are_skipped_unread(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    os.mkfifo(class_folder / "left" / "pipe.png")
    (class_folder / "right" / "vast.png").write_bytes(encoded_image(0) + bytes(1 << 20))
    source = read_source(Data(source=str(class_folder)))
    assert len(source.ids) == 60
    reasons = {skipped.id: skipped.reason for skipped in source.skipped}
    assert "not a plain file" in reasons["left/pipe.png"]
    assert "more than the 1,048,576" in reasons["right/vast.png"]
