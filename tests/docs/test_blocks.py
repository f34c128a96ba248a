"""Every block of code in the README and the docs runs, on small stand-ins for what it names."""

import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.images import encoded_image
from thaw.cli.app import main
from thaw.recipe import Recipe, recipe_text, validate

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CANNOT = {
    "benchmarks/": "minutes long, on photographs that are not part of the project",
    "--track ": "needs a tool that is not installed with the tests; tests/test_track.py runs it",
    "thaw serve ": "runs until it is stopped; tests/serve runs it",
    "sweep.backbones": "the weights of its networks are on the hub; tests/test_networks.py runs it",
    "--recipe celeba-hq-gender": "fetches from the hub, or wants 28,000 photographs and AlexNet's weights",
}
"""Commands that do not run here, by a part of them, and why."""
SMALL = (
    *("images.size=32", "model.backbone=timm/test_resnet", "model.weights=random", 'arms.last-stage.train="head"'),
    *("search.steps=1", "search.learning_rates=[1e-3]", "train.batch_size=32", "train.epochs=1", "train.seeds=[0]"),
)
"""Laid over every study, so that it takes a second."""


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.strip().splitlines()[0][:60]}"


def blocks(*languages: str) -> list[Block]:
    found = [Block(page.name, *match) for page in PAGES for match in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def commands(block: Block) -> Iterator[str]:
    """The commands of a block, each on one line, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if command := re.sub(r"(^|\s)#\s.*", "", line).strip():
            yield command


def takes_long(block: Block) -> bool:
    """Whether a block runs a study or an export."""
    return any(re.search(r"thaw (study|export)", command) for command in commands(block))


@pytest.fixture(scope="module")
def desk(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the pages name."""
    root = tmp_path_factory.mktemp("desk")
    lines = ["file,image,label,species,animal,age"]
    for seed in range(60):
        name = ("cat", "dog")[seed % 2]
        path = root / "images" / name / f"{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(seed, seed % 2))
        where = path.relative_to(root)
        lines.append(f"{where},{where},{name},{name},animal-{seed // 3},{seed}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    shutil.copytree(root / "images", root / "path" / "to" / "images")
    shutil.copy(root / "images" / "cat" / "000.png", root / "photo.jpg")
    shutil.copytree(small_run, root / "RUN")
    shutil.copytree(small_run, root / "runs" / "later")
    shutil.copytree(small_run / "models" / "head", root / "BUNDLE")
    return root


@pytest.fixture
def at_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is a copy of the desk; all blocks share a cache, since they share the images."""
    shutil.copytree(desk, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("THAW_CACHE", str(desk.parent / "blocks-cache"))
    monkeypatch.setattr("thaw.study.write_report", lambda run: None)  # half of a small study; `small_run` has its own


def thaw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Run one command in this process; `>` and `>>` write its output to a file."""
    line, append, file = re.fullmatch(r"(.*?)(?:\s(>>?)\s(\S+))?", command).groups()  # type: ignore[union-attr]
    words = shlex.split(line)
    assert Path(words[0]).name == "thaw", command
    if words[1] == "study":
        if "--out" not in words:
            words += ["--out", f"runs/{len(list(Path().glob('runs/*')))}"]
        words += [word for setting in SMALL for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["thaw", *words[1:]])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main()
    out, error = capsys.readouterr()
    assert not stopped.value.code, error
    if file:
        with Path(file).expanduser().open("a" if append == ">>" else "w", encoding="utf-8") as opened:
            opened.write(out)


@pytest.mark.usefixtures("at_desk")
@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=[pytest.mark.slow] * takes_long(block)) for block in blocks("sh")],
    ids=str,
)
def test_commands_run(block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(block):
        if not any(part in command for part in CANNOT):
            thaw(monkeypatch, capsys, command)


@pytest.mark.usefixtures("at_desk")
@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_runs(block: Block) -> None:
    exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_recipes_are_valid(block: Block) -> None:
    """A part of a recipe counts as laid over the recipe `photos`."""
    values: dict[str, Any] = tomllib.loads(recipe_text("photos"))
    for section, keys in tomllib.loads(block.text).items():
        values[section] = values.get(section, {}) | keys
    values["data"].setdefault("source", os.curdir)
    validate(values, "recipe", Recipe)


def test_there_is_no_other_kind_of_block() -> None:
    """`console` is for what is typed beside a running server, and is not run."""
    assert {block.language for block in blocks("sh", "python", "toml", "console", "")} == {
        match[0] for page in PAGES for match in FENCE.findall(page.read_text(encoding="utf-8"))
    }


def test_what_cannot_run_is_still_there() -> None:
    there = [command for block in blocks("sh") for command in commands(block)]
    assert [part for part in CANNOT if not any(part in command for command in there)] == []
