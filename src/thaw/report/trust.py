"""What undermines trust in a result, the gravest first: short sentences for the first screen of the report."""

from collections.abc import Iterator
from typing import NamedTuple

from thaw.report.analysis import edges, rising
from thaw.run.metrics import Metrics
from thaw.text import count, listed, named, points, signed

SHOWN = 3
"""Arms that a sentence names; of more it says how many there are."""


class Doubt(NamedTuple):
    """A reason to trust a result less."""

    grave: bool
    """Whether the numbers themselves may be wrong, or the arms could only be better than they are."""
    what: str
    """A sentence or two. Names of arms are in backticks."""
    where: str
    """The id of the part of the report that says more."""


def doubts(metrics: Metrics) -> list[Doubt]:
    """Return what undermines trust: leaks, labels that contradict each other, a search or training that was cut short.

    Empty where nothing was found.
    """
    return [*_leaks(metrics), *_labels(metrics), *_edges(metrics), *_improving(metrics)]


def _leaks(metrics: Metrics) -> Iterator[Doubt]:
    leaked, found = metrics.audit.leaked, metrics.audit.leak
    if not leaked:
        return
    told = f"{count(leaked)} of {count(metrics.splits['test'], 'test image')} {_have(leaked)} a copy in another split."
    if found is None:
        told += " How much that flatters the scores is not known."
    else:
        low, high = found.interval
        chance = ", which may be chance" if low <= 0 <= high else ""
        told += (
            f" The copies change accuracy by {signed(found.effect)} points ({signed(low)} to {signed(high)}){chance}."
        )
    yield Doubt(True, told, "audit")


def _labels(metrics: Metrics) -> Iterator[Doubt]:
    found, suspect = metrics.audit.conflicting, metrics.label_errors.count
    told = []
    if found.exact:
        told.append(f"{count(found.exact, 'group')} of identical images {_have(found.exact)} different labels.")
    if found.near:
        told.append(
            f"{count(found.near, 'pair')} of images that look almost the same {_have(found.near)} different labels."
        )
    if told:
        yield Doubt(bool(found.exact), " ".join(told), "audit")
    if suspect:
        look = "looks" if suspect == 1 else "look"
        yield Doubt(
            False, f"{count(suspect)} of {count(metrics.label_errors.checked, 'label')} {look} wrong.", "label-errors"
        )


def _edges(metrics: Metrics) -> Iterator[Doubt]:
    found = edges(metrics)
    arms = list(dict.fromkeys(arm for of_edge in found.values() for arm in of_edge))
    if not arms:
        return
    which = " or ".join(found)
    beyond = {"highest": "a higher one", "lowest": "a lower one"}.get(which, "one outside of these")
    yield Doubt(
        False,
        f"The search ended at the {which} learning rate that it tried for {_arms(arms)}; {beyond} may do better.",
        "training",
    )


def _improving(metrics: Metrics) -> Iterator[Doubt]:
    found = rising(metrics)
    if not found:
        return
    most = max(found.values())
    verb = "was" if len(found) == 1 else "were"
    upto = "" if len(found) == 1 else "up to "
    yield Doubt(
        False,
        f"{_arms(list(found))} {verb} still improving in the last epoch (training accuracy: by {upto}{points(most)}); "
        "more epochs may help.",
        "training",
    )


def _arms(arms: list[str]) -> str:
    if len(arms) > SHOWN:
        return f"{len(arms)} arms"
    return listed([named(arm) for arm in arms])


def _have(number: int) -> str:
    return "has" if number == 1 else "have"
