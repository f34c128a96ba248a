"""The learning-rate search: a grid, or successive halving over a range; the same budget for every arm."""

from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from thaw.cache.arrays import key_of
from thaw.cache.checkpoint import cached_json
from thaw.compute.batches import Rows, shuffled
from thaw.errors import DivergedError
from thaw.progress import stage, stopwatch
from thaw.training.loop import FirstStep, Task, first_step, fit
from thaw.training.network import Setup, copy_of, epoch_seed, restore, snapshot
from thaw.training.results import Attempt, SearchResult

SIDE_BY_SIDE_BYTES = 2 << 30
"""Learning rates are tried side by side while the copies of what trains, with gradients and Adam's moments, fit."""
WIDENINGS = 2
"""How often a halving goes on beyond an edge of its range."""


def search(setup: Setup) -> SearchResult:
    """Try learning rates on the same batches from the same start; the best validation accuracy wins.

    Of equal accuracies the lower validation loss wins, then the lower learning rate.

    Parameters
    ----------
    setup
        The network, which is left as it was, and what its training depends on. Attempts are cached in its `work`
        folder, where it has one.

    Returns
    -------
    SearchResult
        The winner, and every attempt.

    Raises
    ------
    DivergedError
        The loss became infinite or NaN at every learning rate.
    """
    settings, rows = setup.spec.search, setup.splits.train
    task = setup.task(rows)
    attempts: dict[tuple[float, int], Attempt] = {}
    seconds: list[float] = []

    @cache
    def opening() -> FirstStep:
        """The first step of every attempt, up to the optimizer: all have the same batch, start and random numbers."""
        ((batch,),) = _epochs(setup, 1)
        setup.compute.seed(epoch_seed(setup.seed, 0))
        return first_step(task, setup.network.trainable, batch)

    def attempt(rates: list[float], steps: int) -> list[Attempt]:
        """Try each rate; the best comes first."""
        new = [rate for rate in rates if (rate, steps) not in attempts]
        for lane in _lanes(new, setup):

            def run(lane: list[float] = lane) -> dict[str, Any]:
                elapsed = stopwatch()
                tried = _try(setup, task, lane, _epochs(setup, steps), opening())
                return {"attempts": [one.model_dump() for one in tried], "seconds": elapsed()}

            found = cached_json(setup.work, key_of(rates=lane, steps=steps), run) if setup.work else run()
            tried = map(Attempt.model_validate, found["attempts"])
            attempts.update({(one.learning_rate, steps): one for one in tried})
            seconds.append(found["seconds"])
            setup.tell("search", list(attempts.values()))
        return sorted((attempts[rate, steps] for rate in rates), key=_order)

    if settings.method == "grid":
        rates = list(settings.learning_rates)
        best = attempt(rates, settings.steps)[0]
    else:
        rates = [float(rate) for rate in np.geomspace(settings.range[0], settings.range[1], settings.candidates)]
        best = _halve(rates, settings.steps, attempt)
        for _ in range(WIDENINGS):
            beyond = _beyond(best.learning_rate, rates)
            if not beyond:
                break
            best = _halve([best.learning_rate, *beyond], settings.steps, attempt)
            rates = sorted([*rates, *beyond])
    if best.failed:
        raise DivergedError(
            f"the loss became infinite at every learning rate from {min(rates):g} to {max(rates):g}; lower them in "
            "[search], or look at the weights that the arm starts from."
        )
    rate = best.learning_rate
    edges = {min(rates): "lowest", max(rates): "highest"} if len(rates) > 1 else {}
    return SearchResult.model_validate(
        {"learning_rate": rate, "edge": edges.get(rate), "attempts": [*attempts.values()], "seconds": sum(seconds)}
    )


def _halve(rates: list[float], steps: int, attempt: Callable[[list[float], int], list[Attempt]]) -> Attempt:
    """Successive halving (Jamieson & Talwalkar, 2016): the better half goes on with twice the steps, to the last one.

    Each round starts anew, so that an attempt depends on its rate and steps alone.
    """
    while True:
        ranked = attempt(rates, steps)
        if len(ranked) == 1:
            return ranked[0]
        rates = [one.learning_rate for one in ranked[: (len(ranked) + 1) // 2]]
        steps *= 2


def _beyond(best: float, rates: list[float]) -> list[float]:
    """Half as many rates again, as far apart, beyond the edge at which the best one lies; none inside."""
    ratio, count = rates[1] / rates[0], max(1, len(rates) // 2)
    if best == max(rates):
        return [best * ratio**step for step in range(1, count + 1)]
    if best == min(rates):
        return [best / ratio**step for step in range(1, count + 1)]
    return []


def _order(attempt: Attempt) -> tuple[bool, float, float, float]:
    return bool(attempt.failed), -attempt.accuracy, attempt.loss or 0.0, attempt.learning_rate


def _lanes(rates: list[float], setup: Setup) -> list[list[float]]:
    """Rates that are tried side by side: all, where they share a middle and their copies fit; else one by one."""
    network = setup.network
    trained = sum(p.nbytes for p in network.trainable.parameters() if p.requires_grad)
    if network.middle is None or not rates:
        return [[rate] for rate in rates]
    width = max(1, SIDE_BY_SIDE_BYTES // (trained * 4))
    return [rates[start : start + width] for start in range(0, len(rates), width)]


def _try(setup: Setup, task: Task, lane: list[float], epochs: list[list[Rows]], opening: FirstStep) -> list[Attempt]:
    """Train from the network's present state at each rate, side by side, and score; the state is as before then."""
    trainable = setup.network.trainable
    start = snapshot(trainable)
    copies = [trainable] if len(lane) == 1 else [copy_of(trainable) for _ in lane]
    learners = [setup.learner(part, rate) for part, rate in zip(copies, lane, strict=True)]
    steps = sum(map(len, epochs))
    diverged = [False] * len(lane)
    with stage("search", steps, "steps") as advance:
        for epoch, batches in enumerate(epochs):
            task.compute.seed(epoch_seed(setup.seed, epoch))
            histories = fit(task, learners, batches, advance, opening=None if epoch else opening)
            diverged = [before or history.diverged() for before, history in zip(diverged, histories, strict=True)]
    attempts = []
    for rate, part, failed in zip(lane, copies, diverged, strict=True):
        accuracy, loss = 0.0, np.inf
        if not failed:
            restore(trainable, snapshot(part))
            accuracy, loss = setup.validate()
        if np.isfinite(loss):
            attempts.append(Attempt(learning_rate=rate, steps=steps, accuracy=accuracy, loss=loss))
        else:
            why = "the loss became infinite"
            attempts.append(Attempt(learning_rate=rate, steps=steps, accuracy=0.0, loss=None, failed=why))
    restore(trainable, start)
    return attempts


def _epochs(setup: Setup, steps: int) -> list[list[Rows]]:
    """Epochs of batches of training images, the last one cut short, `steps` batches in all."""
    epochs: list[list[Rows]] = []
    left = steps
    while left > 0:
        batches = shuffled(setup.splits.train, setup.spec.training.batch_size, setup.seed, len(epochs), setup.mirrored)
        epochs.append(list(islice(batches, left)))
        left -= len(epochs[-1])
    return epochs
