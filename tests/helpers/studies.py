"""Small studies through the command line, and what they leave."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.cli import thaw
from thaw.training.loop import fit

SETTLED = ("images.resize=squash", "train.class_weights=none", "train.batch_size=32", "train.epochs=12")
"""What the recipe `photos` leaves to the images, for those who do not look at any."""

QUICK = (
    *SETTLED,
    "images.size=32",
    "search.steps=2",
    "search.max_steps=",
    "search.learning_rates=[1e-3,1e-2]",
    "train.epochs=2",
    "train.batch_size=8",
    "train.precision=fp32",
)
"""Settings of a study of seconds."""

PLAIN = (
    *SETTLED,
    *("search.learning_rates=[1e-4,1e-3,1e-2]", "search.steps=15", "search.max_steps=", "search.schedule=constant"),
    *("search.ties=exact", "train.optimizer=adam", "train.weight_decay=0.0", "train.schedule=constant"),
    *("train.warmup=0.0", "train.epochs=8", "train.refit=train", "augment.policy=none", "augment.views=1"),
    *("augment.test_views=1", "arms.head.head=trained"),
)
"""What makes the recipe `photos` train as a plain loop does."""


def study(monkeypatch: pytest.MonkeyPatch, *arguments: object, settings: tuple[str, ...] = QUICK) -> int:
    """Run `thaw study`; return its exit code."""
    return thaw(monkeypatch, "study", *arguments, settings=settings)


def metrics_of(run: Path) -> dict[str, Any]:
    """Return what `metrics.json` holds."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics without seconds, and without what names the source."""
    named = ("seconds", "command", "data", "audit", "costs")
    text = json.dumps({name: value for name, value in metrics.items() if name not in named})
    plain: dict[str, Any] = json.loads(text, object_hook=lambda part: {k: v for k, v in part.items() if k != "seconds"})
    return plain


def break_off(monkeypatch: pytest.MonkeyPatch, at: int) -> list[None]:
    """Have Ctrl-C come when the epoch `at` of all final trainings begins; the list grows by one with each epoch."""
    begun = list[None]()

    def interrupted(*arguments: Any) -> Any:
        begun.append(None)
        if len(begun) == at:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr("thaw.training.train.fit", interrupted)
    return begun
