"""Published results beside a study's own: whether they agree, as far as the test images of both can tell."""

from typing import NamedTuple

from thaw.recipe import Published
from thaw.run.metrics import Metrics
from thaw.scoring.shift import Own, change_between
from thaw.scoring.statistics import Interval, wilson
from thaw.text import listed, named, percent, signed

SCORES = ("accuracy", "precision", "recall", "f1")
"""What a recipe may give of a published result."""


class Compared(NamedTuple):
    """A published score beside that of the study."""

    arm: str
    """The arm."""
    score: str
    """Its score: one of `SCORES`."""
    published: float
    """What was published."""
    within: Interval
    """95% interval of that: Wilson's, of the published number of test images. It is exact for accuracy and near for the
    others."""
    own: float
    """What the study found, the mean over its seeds."""
    own_within: Interval
    """95% interval of that."""
    change: Interval
    """95% interval of what the study found less what was published, of two samples of test images."""

    @property
    def agree(self) -> bool:
        """Whether the difference may be chance."""
        return self.change[0] <= 0 <= self.change[1]


def compared(metrics: Metrics, published: dict[str, Published]) -> list[Compared]:
    """Set the published scores of the study's arms beside its own, in the order of the arms."""
    found = []
    for arm, it in metrics.arms.items():
        for score in SCORES if arm in published else ():
            value = getattr(published[arm], score)
            if value is None:
                continue
            within, own_within = wilson(value, published[arm].images), getattr(it.intervals, score)
            own = getattr(it.over_seeds, score).mean
            change = change_between(Own(value=own, interval=own_within), Own(value=value, interval=within))
            assert change is not None  # as both intervals are known
            found.append(Compared(arm, score, value, within, own, own_within, change))
    return found


def agreement(found: list[Compared]) -> str:
    """Say which published scores the study agrees with. Names of arms are in backticks."""
    apart = [it for it in found if not it.agree]
    if not found:
        return ""
    if not apart:
        scores = "The published score agrees" if len(found) == 1 else f"All {len(found)} published scores agree"
        return f"{scores} with this study: {'its' if len(found) == 1 else 'each'} difference may be chance."
    told = [
        f"{'F1' if it.score == 'f1' else it.score} of {named(it.arm)} ({percent(it.own)} here, {percent(it.published)} "
        f"published; difference {signed(it.own - it.published)}, 95% interval {signed(it.change[0])} to "
        f"{signed(it.change[1])} points)"
        for it in apart
    ]
    return (
        f"{len(found) - len(apart)} of {len(found)} published scores agree with this study. More than chance is the "
        f"difference in {listed(told)}."
    )
