"""Run the items of a plan one after the other, in this process."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `work` to each item, in order. Each is a function of its item: no other engine gives other results."""
    return [work(item) for item in items]
