"""Progress of everything longer than a second: a bar in a terminal, plain lines elsewhere, both on standard error."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from thaw.text import duration, escape_terminal, time_left

Item = TypeVar("Item")
Result = TypeVar("Result")

console = Console(stderr=True, highlight=False)
PLAIN_SECONDS = 15.0
"""How often a stage reports where the output is no terminal."""


class StageListener(Protocol):
    """Who else is told how far a stage is."""

    def begin_stage(self, name: str, total: int | None, unit: str, done: int) -> None:
        """A stage of `total` units begins, `done` of them before."""

    def advance(self, count: int) -> None:
        """So many more units of the stage are done."""


_listener: ContextVar[StageListener | None] = ContextVar("listener", default=None)
"""Set by `listening` for its block."""
_drawn: ContextVar[bool] = ContextVar("drawn", default=False)
"""Whether the listener draws the stages itself."""


@contextmanager
def listening(listener: StageListener, draws: bool = False) -> Iterator[None]:
    """Tell `listener` of every stage in this block; where it `draws` them itself, no bar is."""
    token, drawn = _listener.set(listener), _drawn.set(draws)
    try:
        yield
    finally:
        _drawn.reset(drawn)
        _listener.reset(token)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{_number(speed)} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")


class _Left(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None else f"{time_left(left)} left", style="progress.remaining")


@contextmanager
def stage(name: str, total: int | None, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A stage of `total` units, None where nobody knows, `done` of them before; yields a function to call with the
    number of units just done."""
    if _drawn.get():
        yield _counted(lambda count: None, name, total, unit, done)
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), _Left())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(name, total=total, completed=done, unit=unit)
            yield _counted(lambda count: progress.advance(task, count), name, total, unit, done)
    else:
        yield from _plain(name, None if total is None else total - done, unit)


@contextmanager
def workers(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads, by default one or so a core; what has not begun when the block fails never begins."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """What `work` makes of each item, in order; `ahead` of them are begun, or done, before the first is taken, so that
    the threads go on while whoever takes one is busy with it."""
    tasks: deque[Future[Result]] = deque()
    for item in items:
        tasks.append(pool.submit(work, item))
        if len(tasks) > ahead:
            yield tasks.popleft().result()
    while tasks:
        yield tasks.popleft().result()


def stopwatch() -> Callable[[], float]:
    """Start to measure time; what is returned says how many seconds ago that was."""
    begun = time.perf_counter()
    return lambda: time.perf_counter() - begun


class Clock:
    """Adds up the wall-clock seconds of named stages; `total` runs from its making."""

    def __init__(self) -> None:
        self._elapsed = stopwatch()
        self._spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        elapsed = stopwatch()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + elapsed()

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, and in total."""
        return {"total": self._elapsed(), **self._spent}


def say(line: str) -> None:
    """One line of what the study does or found."""
    console.print(escape_terminal(line), markup=False, soft_wrap=True)


def _plain(name: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS and (total is None or done < total):
            last = now
            speed = done / (now - start)
            of, left = (f" of {total:,}", f", {time_left((total - done) / speed)} left") if total else ("", "")
            say(f"{name}: {done:,}{of} {unit}, {_number(speed)} {unit}/s{left}")

    yield _counted(advance, name, total, unit, 0)
    spent = time.monotonic() - start
    if spent >= 1:
        say(f"{name}: {done:,} {unit} in {duration(spent)}, {_number(done / spent)} {unit}/s")


def _counted(
    advance: Callable[[int], None], name: str, total: int | None, unit: str, done: int
) -> Callable[[int], None]:
    """`advance` of a stage that begins now, which also tells the listener."""
    listener = _listener.get()
    if listener is None:
        return advance
    listener.begin_stage(name, total, unit, done)

    def both(count: int) -> None:
        advance(count)
        listener.advance(count)

    return both


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"
