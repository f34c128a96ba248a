"""The state of a run, while it goes on and after, read from its folder."""

import json
import time
from pathlib import Path
from typing import Any

from thaw.run.live import FILE
from thaw.run.metrics import FILE as METRICS
from thaw.run.metrics import read_metrics

SILENT_SECONDS = 60.0
"""A running study that has not written for so long may have been killed."""


def state_of(run: Path) -> dict[str, Any]:
    """Return how far the study in `run` is, and the search and the epochs of each arm so far.

    `state` is `waiting` (nothing is known yet), `running`, `silent` (running, but not heard of for a while), `stopped`
    or `finished`. What the folder does not tell is None. A study that was finished, and then started and stopped again,
    still tells its results. Raises StorageError where its `metrics.json` has another format.
    """
    told = _read(run / FILE)
    metrics = read_metrics(run) if (run / METRICS).is_file() else None
    state: str = told.get("state", "finished" if metrics else "waiting")
    age = max(0.0, time.time() - told["updated"]) if "updated" in told else None
    if state == "running" and age is not None and age > SILENT_SECONDS:
        state = "silent"
    ended = metrics if state not in ("running", "silent") else None
    arms: dict[str, Any] = {arm: {"trials": trials, "accuracy": None} for arm, trials in told.get("arms", {}).items()}
    if ended:
        arms = {
            arm: {
                "trials": [
                    {
                        **trial.model_dump(mode="json", include={"seed", "search", "epochs"}),
                        "fit": [row.model_dump() for row in trial.fit.attempts] if trial.fit else [],
                        "seconds": trial.seconds.total,
                    }
                    for trial in it.trials
                ],
                "accuracy": it.over_seeds.accuracy.mean,
            }
            for arm, it in ended.arms.items()
        }
    names = (
        *("recipe", "arm", "seed", "fraction", "stage", "unit", "done", "total", "trials"),
        *("stage_left", "study_left", "why"),
    )
    return {
        "state": state,
        **{name: told.get(name) for name in names},
        "recipe": told.get("recipe", metrics.recipe if metrics else None),
        "seconds": ended.seconds.total if ended else told.get("seconds"),
        "heard": age,
        "report": (run / "report.html").is_file(),
        "recommended": ended.recommended if ended else None,
        "arms": arms,
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there, or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
