"""What the draw of the split does: sentences and rows from the repeats in `metrics.json`."""

import math
from typing import NamedTuple

from thaw.report.ranking import amount, apart, spanned
from thaw.run.metrics import METRICS, Metrics
from thaw.scoring.comparison import ALPHA
from thaw.text import count, listed, named, percent

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Row(NamedTuple):
    """An arm over the draws, formatted; standard deviations of a score and of the difference from the best arm."""

    arm: str
    mean: str
    total: str
    images: str
    seeds: str
    splits: str
    behind: str
    """How far behind the best arm, on average; empty for that arm."""
    interval: str
    ahead: str
    """In how many draws the best arm was ahead."""


def repeating(metrics: Metrics) -> str:
    """Say how much of the differences between arms the draw of the split makes; empty without repeats."""
    found = metrics.repeats
    if found is None:
        return ""
    if not found.drawn:
        return (
            "Validation and test are both splits that the source brings, so there is nothing to repeat: "
            "another draw of the split would be the same."
        )
    draws = f"{_number(len(found.draws))} draws of the split"
    told = "Test images are the same in each, so this is of what is chosen by and trained on, not of new test images. "
    same = "" if "test" in found.drawn else told
    if not found.pairs:
        (it,) = found.arms.values()
        return f"{same}Over {draws}, {_scored(metrics, metrics.best)} ({_deviation(metrics, it.variances.total)})."
    rival = min(found.pairs, key=lambda arm: abs(sum(found.pairs[arm].differences)))
    pair = found.pairs[rival]
    mean, total = sum(pair.differences) / len(found.draws), pair.variances.total
    one, other = (metrics.best, rival) if mean >= 0 else (rival, metrics.best)
    ahead = sum(gap > 0 if mean >= 0 else gap < 0 for gap in pair.differences)
    lead = (
        f"{same}Over {draws}, {named(one)} leads {named(other)} by {apart(metrics, mean)} on average and in "
        f"{ahead} of {len(found.draws)}, and one draw moves that difference by {_deviation(metrics, total)}"
    )
    parts = {"the choice of test images": pair.variances.images if same == "" else 0.0}
    if pair.variances.seeds is not None:
        parts["the seeds"] = pair.variances.seeds
    rest = "the draw of what is trained on" + ("" if pair.variances.seeds is not None else ", and the seed")
    parts[rest] = pair.variances.splits
    whole = sum(parts.values())
    shares = [f"{percent(part / whole, 0)} to {name}" for name, part in parts.items() if part > 0] if whole else []
    lead += f": of its variance about {listed(shares)}." if shares else "."
    if pair.test is None:
        return lead
    low, high = pair.test.interval if mean >= 0 else (-pair.test.interval[1], -pair.test.interval[0])
    shown = "shows" if pair.test.p < ALPHA else "does not show"
    return f"{lead} The corrected resampled test {shown} that they differ ({spanned(metrics, (low, high))})."


def repeat_rows(metrics: Metrics) -> list[Row]:
    """Return a row for each arm; none without repeats."""
    found, rows = metrics.repeats, []
    if found is None or not found.drawn:
        return []
    for arm, it in found.arms.items():
        pair, parts = found.pairs.get(arm), it.variances
        rows.append(
            Row(
                arm=arm,
                mean=amount(metrics, it.mean),
                total=_deviation(metrics, parts.total),
                images=_deviation(metrics, parts.images),
                seeds="–" if parts.seeds is None else _deviation(metrics, parts.seeds),
                splits=_deviation(metrics, parts.splits),
                behind="" if pair is None else _signed(metrics, it.mean - found.arms[metrics.best].mean),
                interval=""
                if pair is None or pair.test is None
                else " to ".join(_signed(metrics, -end) for end in reversed(pair.test.interval)),
                ahead="" if pair is None else f"{sum(gap > 0 for gap in pair.differences)} of {len(found.draws)}",
            )
        )
    return rows


def _scored(metrics: Metrics, arm: str) -> str:
    assert metrics.repeats is not None
    return f"{named(arm)} has {METRICS[metrics.verdict.metric]} {amount(metrics, metrics.repeats.arms[arm].mean)}"


def _deviation(metrics: Metrics, variance: float) -> str:
    return f"±{apart(metrics, math.sqrt(variance))}"


def _signed(metrics: Metrics, difference: float) -> str:
    scale, decimals = (100, 1) if metrics.verdict.metric == "accuracy" else (1, 3)
    return f"{difference * scale:+.{decimals}f}".replace("-", "−")


def _number(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else count(number)
