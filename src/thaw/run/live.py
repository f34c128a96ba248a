"""How far a running study is: RUN/progress.json for those who watch it, a table in a terminal, else plain lines."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.live import Live as Display

from thaw.errors import ThawError
from thaw.progress import console, listening, say
from thaw.recipe import Recipe, training_of
from thaw.record import Record
from thaw.run.screen import screen, trial_line
from thaw.training.results import SearchResult, TrialRecord

FILE = "progress.json"
SECONDS = 1.0
"""The file is written at most so often."""
LEAST = 0.02
"""What an image of an arm costs at least, of a pass through the whole network, when the time left is estimated."""
REFRESHES = 4
"""Times a second that the table in a terminal is drawn."""


class Live:
    """The progress of one study, and the file that shows it to others."""

    def __init__(self, run: Path, recipe: Recipe, drawn: bool = False) -> None:
        self.recipe = recipe
        self._drawn = drawn
        self._path, self._part = run / FILE, run / f".{FILE}.part"
        self._start = self._stage_start = time.monotonic()
        self._written = 0.0
        self._work = dict.fromkeys(recipe.arms, 1.0)
        self._finished: list[tuple[str, float]] = []
        self._arm_start = self._start
        self._trainings = self._stage_done = 0
        self._trials: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}
        self._each = len(recipe.train.seeds) * len(recipe.sweep.labels)
        self._total = len(recipe.arms) * self._each
        self._shown: dict[str, Any] = {"state": "running", "recipe": recipe.name, "arm": None, "seed": None}

    def expect(self, work: Mapping[str, float]) -> None:
        """From now on, the time that is left goes by what an image costs each arm.

        Parameters
        ----------
        work
            For each arm, as a fraction of a pass through the whole network; the epochs of each are the recipe's.
        """
        epochs = {arm: training_of(it, self.recipe.train).epochs for arm, it in self.recipe.arms.items()}
        self._work = {arm: max(of_arm, LEAST) * epochs[arm] for arm, of_arm in work.items()}

    def begin_trial(self, arm: str, seed: int, fraction: float = 1.0) -> None:
        """From now on, what is noted belongs to this arm and seed, on this fraction of the training images."""
        self._arm_start, self._trainings = time.monotonic(), 0
        self._trials[arm].append(
            {
                **({"seed": seed} if fraction == 1 else {"seed": seed, "fraction": fraction}),
                "search": [],
                "fit": [],
                "learning_rate": None,
                "epochs": [],
                "seconds": None,
            }
        )
        self._shown |= {
            "arm": arm,
            "seed": seed,
            "fraction": fraction,
            "stage": "preparing",
            "done": 0,
            "total": None,
            "unit": "",
        }
        if not self._drawn:
            share = "" if fraction == 1 else f", {fraction:g} of the labels"
            say(f"arm {arm}, seed {seed}{share}: trial {len(self._finished) + 1} of {self._total}")

    def end_trial(self, record: TrialRecord) -> None:
        """The trial is done, now or by an earlier run of the study."""
        self.note("search", record.search.attempts if record.search else [])
        self.note("chosen", [record.search] if record.search else [])
        self.note("fit", record.fit.attempts if record.fit else [])
        self.note("epochs", record.training.epochs)
        self._running()["seconds"] = record.seconds.total
        self._finished.append((record.arm, record.seconds.total))
        if not self._drawn:
            say(trial_line(self.told(), self.recipe))

    def note(self, kind: str, rows: Sequence[Record]) -> None:
        """The rows of the running trial's `search`, `fit` or `epochs` so far; or what its search has `chosen`."""
        if kind != "chosen":
            self._running()[kind] = [row.model_dump() for row in rows]
        for row in rows:
            if isinstance(row, SearchResult):
                self._running()["learning_rate"] = row.learning_rate

    def _running(self) -> dict[str, Any]:
        return self._trials[self._shown["arm"]][-1]

    def begin_stage(self, name: str, total: int | None, unit: str, done: int) -> None:
        """From now on, what is done counts towards this stage."""
        self._stage_start, self._stage_done = time.monotonic(), done
        self._trainings += name == "training"
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

    def told(self) -> dict[str, Any]:
        """Return what `progress.json` holds."""
        return {**self._shown, **self._times(), "arms": self._trials}

    def _write_soon(self) -> None:
        if time.monotonic() - self._written >= SECONDS:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        # a study goes on when those who watch it cannot
        with contextlib.suppress(OSError):
            self._part.write_text(json.dumps(self.told()), encoding="utf-8")
            self._part.replace(self._path)

    def _times(self) -> dict[str, Any]:
        """Seconds spent and left, of the stage and, once steps of a training are measured, of the study; and when."""
        now, total, done = time.monotonic(), self._shown.get("total"), self._shown.get("done", 0)
        new = done - self._stage_done
        stage_left = (now - self._stage_start) / new * (total - done) if new > 0 and total else None
        return {
            "trials": {"done": len(self._finished), "total": self._total},
            "seconds": now - self._start,
            "stage_left": stage_left,
            "study_left": self._study_left(now, stage_left),
            "updated": time.time(),
        }

    def _study_left(self, now: float, stage_left: float | None) -> float | None:
        """Seconds that the trials still take: measured ones, scaled by what each arm costs; None before any is."""
        arm, measured = self._shown["arm"], list(self._finished)
        if arm is None:
            return None
        is_running = self._running()["seconds"] is None
        spent, left = now - self._arm_start, None
        if is_running and self._shown.get("stage") == "training" and stage_left is not None:
            again = training_of(self.recipe.arms[arm], self.recipe.train).rehearses and self._trainings == 1
            left = stage_left + (now - self._stage_start + stage_left if again else 0.0)
            measured.append((arm, spent + left))
        if not measured:
            return None
        scale = sum(of for _, of in measured) / sum(self._work[one] for one, _ in measured)

        def expected(of_arm: str) -> float:
            own = [of for one, of in measured if one == of_arm]
            return fmean(own) if own else scale * self._work[of_arm]

        begun = {one: len(trials) for one, trials in self._trials.items()}
        waiting = sum(max(0, self._each - begun[one]) * expected(one) for one in self._trials)
        if not is_running:
            return waiting
        return waiting + (max(0.0, expected(arm) - spent) if left is None else left)


@contextlib.contextmanager
def follow(run: Path, recipe: Recipe) -> Iterator[Live]:
    """The study that runs in this block writes how far it is into `run`, and shows it in a terminal."""
    live = Live(run, recipe, drawn=console.is_terminal)
    try:
        with listening(live, draws=console.is_terminal), _display(live):
            yield live
    except BaseException as error:
        why = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        live.end("stopped", str(error) if isinstance(error, ThawError) else why)
        raise
    else:
        live.end("finished")


def _display(live: Live) -> contextlib.AbstractContextManager[object]:
    """The table, drawn as long as the block lasts, where there is a terminal to draw it in."""
    if not console.is_terminal:
        return contextlib.nullcontext()
    return Display(
        get_renderable=lambda: screen(live.told(), live.recipe, console.size.height),
        console=console,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
