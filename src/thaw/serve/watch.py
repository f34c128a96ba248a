"""A run as its folder tells of it, while it goes on and after."""

import json
import time
from pathlib import Path
from typing import Any

from thaw.run.live import FILE

SILENT_SECONDS = 60.0
"""A running study that has not written for so long may have been killed."""


def state_of(run: Path) -> dict[str, Any]:
    """How far the study in `run` is, and the search and the epochs of each arm so far.

    `state` is `waiting` (nothing is known yet), `running`, `silent` (running, but not heard of for a while), `stopped`
    or `finished`. What the folder does not tell is None. A study that was finished before it was stopped anew still
    tells what came of it.
    """
    told, metrics = _read(run / FILE), _read(run / "metrics.json")
    state: str = told.get("state", "finished" if metrics else "waiting")
    age = max(0.0, time.time() - told["updated"]) if "updated" in told else None
    if state == "running" and age is not None and age > SILENT_SECONDS:
        state = "silent"
    ended = state not in ("running", "silent") and bool(metrics)
    arms: dict[str, Any] = {arm: {"runs": runs, "accuracy": None} for arm, runs in told.get("arms", {}).items()}
    if ended:
        arms = {
            arm: {
                "runs": [
                    {**{name: one[name] for name in ("seed", "search", "epochs")}, "seconds": one["seconds"]["total"]}
                    for one in found["runs"]
                ],
                "accuracy": found["over_seeds"]["accuracy"]["mean"],
            }
            for arm, found in metrics["arms"].items()
        }
    names = ("recipe", "arm", "seed", "stage", "unit", "done", "total", "runs", "stage_left", "study_left", "why")
    return {
        "state": state,
        **{name: told.get(name) for name in names},
        "recipe": told.get("recipe", metrics.get("recipe")),
        "seconds": metrics["seconds"]["total"] if ended else told.get("seconds"),
        "heard": age,
        "report": (run / "report.html").is_file(),
        "recommended": metrics.get("recommended") if ended else None,
        "arms": arms,
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there, or is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
