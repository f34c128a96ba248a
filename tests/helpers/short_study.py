"""A short study of the embedded drawings, to be broken off: each run is a process forked from one that has imported."""

import json
import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch.optim.optimizer import register_optimizer_step_post_hook

from thaw import study
from thaw.cache.arrays import cached
from thaw.cli.app import main
from thaw.data import pixels
from thaw.run.live import Live
from thaw.training import activations

IMAGES, CHUNK = 72, 12
PIECE = 6
"""Optimiser steps of the largest piece: a search that tries both rates side by side; an epoch has fewer."""
RECIPE = """
name = "short"
[data]
source = "drawings.parquet"
group = "role"
validation = 0.2
test = 0.25
[images]
size = 32
resize = "squash"
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-4, 1e-3]
steps = 3
[train]
batch_size = 16
epochs = 2
precision = "fp32"
[arms.head]
train = "head"
[arms.last-stage]
train = ["features.17", "features.18", "classifier.1"]
"""


@dataclass(frozen=True)
class Short:
    """Where a study is run: its recipe, its cache, its results, what it says, and the work that it begins."""

    recipe: Path
    folder: Path
    cache: Path
    disk: Path | None = None
    """Another folder for the results, which may be a disk of its own."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return (self.disk or self.folder) / "run"

    def said(self) -> str:
        """What all commands so far have printed."""
        return (self.folder / "said.txt").read_text(encoding="utf-8")

    def work(self) -> list[str]:
        """A line for each chunk that was begun, `KIND KEY ROW`, and for each step of an optimiser, `step`."""
        return (self.folder / "work.txt").read_text(encoding="utf-8").splitlines()

    def stages(self) -> list[str]:
        """The stages that began, in order."""
        return (self.folder / "stages.txt").read_text(encoding="utf-8").splitlines()

    def fill(self) -> None:
        """Leave no byte of the disk."""
        assert self.disk
        with (self.disk / "others").open("wb") as others:
            os.posix_fallocate(others.fileno(), 0, shutil.disk_usage(self.disk).free)

    def make_room(self) -> None:
        """Undo `fill`."""
        assert self.disk
        (self.disk / "others").unlink()

    def clean(self, layouts: Path | None = None) -> None:
        """Start from nothing but the memory layouts that a trial on this machine chose."""
        for old in (self.folder, self.cache):
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir(parents=True, exist_ok=True)
        if layouts:
            shutil.copytree(layouts / "layouts", self.cache / "layouts")
        for name in ("said.txt", "work.txt", "stages.txt"):
            (self.folder / name).touch()


def make_table(folder: Path) -> Path:
    """Write some of the embedded drawings and a recipe for them; returns the recipe."""
    assets = resources.files("thaw.recipes") / "assets" / "emoji-people.parquet"
    with resources.as_file(assets) as path:
        table = pq.read_table(path)
    roles = list(dict.fromkeys(table["role"].to_pylist()))[: IMAGES // 12]
    some = [row for role in roles for row in pc.indices_nonzero(pc.equal(table["role"], role)).to_pylist()[:12]]
    pq.write_table(table.take(some), folder / "drawings.parquet")
    (folder / "short.toml").write_text(RECIPE)
    return folder / "short.toml"


def start(short: Short, dies_at: int | None = None, fills_in: str | None = None) -> int:
    """Begin `thaw study` in a process of its own; returns its number.

    It kills itself once it has noted so many pieces of work: at the beginning of a chunk, or after an optimiser step.
    It fills the disk when the stage `fills_in` begins.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, mode in ((1, os.O_APPEND | os.O_WRONLY), (2, os.O_APPEND | os.O_WRONLY)):
            os.dup2(os.open(short.folder / "said.txt", mode), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        os.environ["THAW_CACHE"] = str(short.cache)
        sys.addaudithook(_forbid_pickle)
        sys.argv = ["thaw", "study", "--recipe", str(short.recipe), "--out", str(short.run)]
        _note_work(os.open(short.folder / "work.txt", os.O_APPEND | os.O_WRONLY), dies_at)
        _note_stages(short, fills_in)
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ends(child: int, seconds: float | None = None) -> int | None:
    """The exit code of a process, negative for a signal; None where it still runs after `seconds`."""
    process = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([process], [], [], seconds)
    finally:
        os.close(process)
    if not ended:
        return None
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def results(short: Short) -> dict[str, Any]:
    """Everything in metrics.json but times and the command; and the bytes of the predictions."""
    metrics = json.loads((short.run / "metrics.json").read_text(), object_hook=_timeless)
    return {"metrics": metrics, "predictions": (short.run / "predictions.parquet").read_bytes()}


def _timeless(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in ("seconds", "costs", "command")}


def _forbid_pickle(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        raise RuntimeError(f"{arguments} was unpickled")


def _note_work(log: int, dies_at: int | None) -> None:
    """Note each chunk of pixels and activations as it is begun, and each optimiser step as it is done."""
    pixels.CHUNK = activations.BATCH = CHUNK
    noted = 0

    def note(line: str) -> None:
        nonlocal noted
        os.write(log, f"{line}\n".encode())
        noted += 1
        if noted == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def noting(kind: str, key: str, rows: int, fields: Any, make: Callable[[int], Iterator[Any]]) -> Any:
        def made(first: int) -> Iterator[Any]:
            chunks = make(first)
            for row in range(first, rows, CHUNK):
                note(f"{kind} {key} {row}")
                yield next(chunks)

        return cached(kind, key, rows, fields, made)

    pixels.cached = activations.cached = noting  # type: ignore[attr-defined]
    register_optimizer_step_post_hook(lambda *_: note("step"))


def _note_stages(short: Short, fills_in: str | None) -> None:
    """Note each stage as it begins, and fill the disk at one."""
    begin = Live.begin_stage

    def begun(live: Live, name: str, total: int | None, unit: str, done: int) -> None:
        begin(live, name, total, unit, done)
        with (short.folder / "stages.txt").open("a", encoding="utf-8") as stages:
            stages.write(f"{name}\n")
        if name == fills_in:
            short.fill()

    Live.begin_stage = begun  # type: ignore[assignment]


assert study  # imported for the processes to come
