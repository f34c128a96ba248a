"""Run the items of a plan one after the other, in this process."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `work` to each item, in order.

    Parameters
    ----------
    work
        A function of its item alone, so that no other engine gives other results.
    items
        Such as the trials of a plan.

    Returns
    -------
    list
        The result of each item, in order.
    """
    return [work(item) for item in items]
