"""RUN/progress.json: how far a running study is, for those who watch it."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from thaw.errors import ThawError
from thaw.progress import listening
from thaw.recipe import Recipe
from thaw.record import Record
from thaw.training.results import TrialRecord

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
        self._trials: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}
        self._total = len(recipe.arms) * len(recipe.train.seeds) * len(recipe.sweep.labels)
        self._shown: dict[str, Any] = {"state": "running", "recipe": recipe.name, "arm": None, "seed": None}

    def begin_trial(self, arm: str, seed: int, fraction: float = 1.0) -> None:
        """From now on, what is noted belongs to this arm and seed, on this fraction of the training images."""
        self._arm_start = time.monotonic()
        self._shown |= {"arm": arm, "seed": seed, "fraction": fraction}
        share = {} if fraction == 1 else {"fraction": fraction}
        self._trials[arm].append({"seed": seed, **share, "search": [], "fit": [], "epochs": [], "seconds": None})

    def end_trial(self, record: TrialRecord) -> None:
        """The trial is done, now or by an earlier run of the study."""
        self.note("search", record.search.attempts if record.search else [])
        self.note("fit", record.fit.attempts if record.fit else [])
        self.note("epochs", record.training.epochs)
        self._running()["seconds"] = record.seconds.total
        self._finished.append(record.seconds.total)

    def note(self, kind: str, rows: Sequence[Record]) -> None:
        """The rows of the running trial's `search`, `fit` or `epochs` so far."""
        self._running()[kind] = [row.model_dump() for row in rows]

    def _running(self) -> dict[str, Any]:
        return self._trials[self._shown["arm"]][-1]

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
            self._part.write_text(json.dumps({**self._shown, **self._times(), "arms": self._trials}), encoding="utf-8")
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
            "trials": {"done": len(self._finished), "total": self._total},
            "seconds": now - self._start,
            "stage_left": stage_left,
            "study_left": study_left,
            "updated": time.time(),
        }


@contextlib.contextmanager
def follow(run: Path, recipe: Recipe) -> Iterator[Live]:
    """The study that runs in this block writes how far it is into `run`."""
    live = Live(run, recipe)
    try:
        with listening(live):
            yield live
    except BaseException as error:
        why = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        live.end("stopped", str(error) if isinstance(error, ThawError) else why)
        raise
    else:
        live.end("finished")
