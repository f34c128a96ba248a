"""RUN/progress.json: how far a running study is, for those who watch it."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from statistics import fmean
from typing import Any

from thaw.errors import ThawError
from thaw.recipe import Recipe

FILE = "progress.json"
SECONDS = 1.0
"""The file is written at most so often."""


class Live:
    """The progress of one study, and the file that shows it to others."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._path, self._part = run / FILE, run / f".{FILE}.part"
        self._start = self._stage_start = time.monotonic()
        self._written = 0.0
        self._finished: list[float] = []
        self._arm_start = self._start
        self._runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}
        self._total = len(recipe.arms) * len(recipe.train.seeds)
        self._shown: dict[str, Any] = {"state": "running", "recipe": recipe.name, "arm": None, "seed": None}

    def begin_arm(self, arm: str, seed: int) -> None:
        """From now on, what is noted belongs to this arm and seed."""
        self._arm_start = time.monotonic()
        self._shown |= {"arm": arm, "seed": seed}
        self._runs[arm].append({"seed": seed, "search": [], "epochs": [], "seconds": None})

    def end_arm(self, result: dict[str, Any]) -> None:
        """The arm is trained and tested, now or by an earlier run of the study."""
        spent = result["seconds"]["total"]
        self._finished.append(spent)
        self._running().update(search=result["search"], epochs=result["epochs"], seconds=spent)

    def note(self, kind: str, rows: list[dict[str, Any]]) -> None:
        """The rows of the running arm's `search` or `epochs` so far."""
        self._running()[kind] = list(rows)

    def _running(self) -> dict[str, Any]:
        return self._runs[self._shown["arm"]][-1]

    def begin_stage(self, name: str, total: int | None, unit: str, done: int) -> None:
        """From now on, what is done counts towards this stage."""
        self._stage_start = time.monotonic()
        self._shown |= {"stage": name, "done": done, "total": total, "unit": unit}
        self._write_soon()

    def advance(self, count: int) -> None:
        """So many more units of the stage are done."""
        self._shown["done"] += count
        self._write_soon()

    def end(self, state: str, why: str = "") -> None:
        """Write for the last time: the study is `finished`, or `stopped` and why."""
        self._shown |= {"state": state, "why": why}
        self._write()

    def _write_soon(self) -> None:
        if time.monotonic() - self._written >= SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        # a study goes on when those who watch it cannot
        with contextlib.suppress(OSError):
            self._part.write_text(json.dumps({**self._shown, **self._times(), "arms": self._runs}), encoding="utf-8")
            self._part.replace(self._path)

    def _times(self) -> dict[str, Any]:
        """Seconds spent and left, of the stage and, once an arm is done, of the study; and when this was."""
        now = time.monotonic()
        done, total = self._shown.get("done", 0), self._shown.get("total")
        stage_left = (now - self._stage_start) / done * (total - done) if done and total else None
        study_left = None
        if self._finished:
            mean, waiting = fmean(self._finished), self._total - len(self._finished)
            spent = now - self._arm_start if self._running()["seconds"] is None else 0.0
            study_left = max(0.0, waiting * mean - min(spent, mean))
        return {
            "runs": {"done": len(self._finished), "total": self._total},
            "seconds": now - self._start,
            "stage_left": stage_left,
            "study_left": study_left,
            "updated": time.time(),
        }


_followed: ContextVar[Live | None] = ContextVar("followed", default=None)


@contextlib.contextmanager
def follow(run: Path, recipe: Recipe) -> Iterator[None]:
    """The study that runs in this block writes how far it is into `run`."""
    live = Live(run, recipe)
    token = _followed.set(live)
    try:
        yield
    except BaseException as error:
        why = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        live.end("stopped", str(error) if isinstance(error, ThawError) else why)
        raise
    else:
        live.end("finished")
    finally:
        _followed.reset(token)


def begin_arm(arm: str, seed: int) -> None:
    """Tell those who watch that this arm and seed begin; nothing where no study is followed."""
    if live := _followed.get():
        live.begin_arm(arm, seed)


def end_arm(result: dict[str, Any]) -> None:
    """Tell those who watch what came of the arm that began last."""
    if live := _followed.get():
        live.end_arm(result)


def note(kind: str, rows: list[Any]) -> None:
    """Tell those who watch the rows of the running arm's `search` or `epochs` so far."""
    if live := _followed.get():
        live.note(kind, rows)


def counted(
    advance: Callable[[int], None], name: str, total: int | None, unit: str, done: int = 0
) -> Callable[[int], None]:
    """`advance` of a stage that begins now, `done` units being there, which also tells those who watch."""
    live = _followed.get()
    if live is None:
        return advance
    live.begin_stage(name, total, unit, done)

    def both(count: int) -> None:
        advance(count)
        live.advance(count)

    return both
