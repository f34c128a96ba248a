"""The learning-rate search: a grid, or successive halving over a range; the same budget for every arm."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thaw.cache.arrays import key_of
from thaw.cache.checkpoint import cached_json
from thaw.compute.batches import Rows, shuffled
from thaw.compute.device import Compute
from thaw.data.splits import Splits
from thaw.errors import DivergedError
from thaw.progress import stage
from thaw.recipe import Recipe
from thaw.run.live import note
from thaw.training.loop import FirstStep, Task, first_step, fit
from thaw.training.network import Network, copy_of, epoch_seed, optimizer_of, restore, score, snapshot, task_of

SIDE_BY_SIDE_BYTES = 2 << 30
"""Rates are tried side by side while their copies of the tail, with gradients and Adam's moments, fit in this."""
WIDENINGS = 2
"""How often a halving goes on beyond an edge of its range."""

Trial = dict[str, Any]
"""`learning_rate`, `steps`, and on validation `accuracy` and `loss`; where it `failed`, why, 0 and None."""


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search."""

    learning_rate: float
    edge: str | None
    """`lowest` or `highest` when the winner is at the edge of what was tried, so that a better rate may lie beyond."""
    search: list[Trial]
    """All trials, in the order in which they ran."""
    seconds: float = field(compare=False)
    """What all of them took, by this run of the study or an earlier one."""


def search(
    network: Network,
    labels: Tensor,
    splits: Splits,
    recipe: Recipe,
    seed: int,
    compute: Compute,
    work: Path | None = None,
) -> SearchResult:
    """Try learning rates on the same batches from the same start; the best validation accuracy wins.

    Of equal accuracies the lower validation loss wins, then the smaller rate. Trials are kept in `work`, where given,
    and found there again. Raises DivergedError when every rate fails.
    """
    task = task_of(network, labels, splits.train, recipe, compute)
    trials: dict[tuple[float, int], Trial] = {}
    seconds: list[float] = []

    def epochs(steps: int) -> list[list[Rows]]:
        return _until(splits.train, recipe, len(labels), seed, steps)

    @cache
    def opening() -> FirstStep:
        """The first step of every trial, up to the optimiser: all have the same batch, start and random numbers."""
        ((rows,),) = epochs(1)
        compute.seed(epoch_seed(seed, 0))
        return first_step(task, network.tail, rows)

    def validate() -> dict[str, float]:
        return score(network, labels, splits.validation, recipe, compute)

    def attempt(rates: list[float], steps: int) -> list[Trial]:
        """A trial for each rate, the best first."""
        new = [rate for rate in rates if (rate, steps) not in trials]
        for lane in _lanes(new, network):

            def run(lane: list[float] = lane) -> dict[str, Any]:
                begun = time.perf_counter()
                tried = _try(network, task, lane, epochs(steps), recipe, seed, opening(), validate)
                return {"trials": tried, "seconds": time.perf_counter() - begun}

            found = cached_json(work, key_of(rates=lane, steps=steps), run) if work else run()
            trials.update({(trial["learning_rate"], steps): trial for trial in found["trials"]})
            seconds.append(found["seconds"])
            note("search", list(trials.values()))
        return sorted((trials[rate, steps] for rate in rates), key=_order)

    settings = recipe.search
    if settings.method == "grid":
        rates = list(settings.learning_rates)
        best = attempt(rates, settings.steps)[0]
    else:
        rates = [float(rate) for rate in np.geomspace(settings.range[0], settings.range[1], settings.trials)]
        best = _halve(rates, settings.steps, attempt)
        for _ in range(WIDENINGS):
            beyond = _beyond(best["learning_rate"], rates)
            if not beyond:
                break
            best = _halve([best["learning_rate"], *beyond], settings.steps, attempt)
            rates = sorted([*rates, *beyond])
    if "failed" in best:
        raise DivergedError(
            f"the loss became infinite at every learning rate from {min(rates):g} to {max(rates):g}; lower them in "
            "[search], or look at the weights that the arm starts from."
        )
    rate = best["learning_rate"]
    edge = {min(rates): "lowest", max(rates): "highest"}.get(rate) if len(rates) > 1 else None
    return SearchResult(rate, edge, list(trials.values()), sum(seconds))


def _halve(rates: list[float], steps: int, attempt: Callable[[list[float], int], list[Trial]]) -> Trial:
    """Successive halving (Jamieson & Talwalkar, 2016): the better half goes on with twice the steps, to the last one.

    Each round starts anew, so that a trial depends on its rate and steps alone.
    """
    while True:
        ranked = attempt(rates, steps)
        if len(ranked) == 1:
            return ranked[0]
        rates = [trial["learning_rate"] for trial in ranked[: (len(ranked) + 1) // 2]]
        steps *= 2


def _beyond(best: float, rates: list[float]) -> list[float]:
    """Half as many rates again, as far apart, beyond the edge at which the best one lies; none inside."""
    ratio, count = rates[1] / rates[0], max(1, len(rates) // 2)
    if best == max(rates):
        return [best * ratio**step for step in range(1, count + 1)]
    if best == min(rates):
        return [best / ratio**step for step in range(1, count + 1)]
    return []


def _order(trial: Trial) -> tuple[bool, float, float, float]:
    return "failed" in trial, -trial["accuracy"], trial["loss"] or 0.0, trial["learning_rate"]


def _lanes(rates: list[float], network: Network) -> list[list[float]]:
    """Rates that are tried side by side: all, where they share a trunk and their copies fit; else one by one."""
    trainable = sum(p.nbytes for p in network.tail.parameters() if p.requires_grad)
    if network.trunk is None or not rates:
        return [[rate] for rate in rates]
    width = max(1, SIDE_BY_SIDE_BYTES // (trainable * 4))
    return [rates[start : start + width] for start in range(0, len(rates), width)]


def _try(
    network: Network,
    task: Task,
    lane: list[float],
    epochs: list[list[Rows]],
    recipe: Recipe,
    seed: int,
    opening: FirstStep,
    validate: Callable[[], dict[str, float]],
) -> list[Trial]:
    """Train from the network's present state at each rate, side by side, and score; the state is as before then."""
    start = snapshot(network.tail)
    tails = [network.tail] if len(lane) == 1 else [copy_of(network.tail) for _ in lane]
    optimizers = [optimizer_of(network, tail, rate, recipe) for tail, rate in zip(tails, lane, strict=True)]
    steps = sum(map(len, epochs))
    diverged = [False] * len(lane)
    with stage("search", steps, "steps") as advance:
        for epoch, batches in enumerate(epochs):
            task.compute.seed(epoch_seed(seed, epoch))
            curves = fit(task, tails, optimizers, batches, advance, opening=None if epoch else opening)
            diverged = [before or curve.diverged() for before, curve in zip(diverged, curves, strict=True)]
    trials = []
    for rate, tail, failed in zip(lane, tails, diverged, strict=True):
        trial: Trial = {"learning_rate": rate, "steps": steps}
        if not failed:
            restore(network.tail, snapshot(tail))
            trial |= validate()
        if failed or not np.isfinite(trial["loss"]):
            trial |= {"accuracy": 0.0, "loss": None, "failed": "the loss became infinite"}
        trials.append(trial)
    restore(network.tail, start)
    return trials


def _until(rows: Rows, recipe: Recipe, images: int, seed: int, steps: int) -> list[list[Rows]]:
    """Epochs of batches, the last one cut short, `steps` batches in all."""
    epochs: list[list[Rows]] = []
    left = steps
    while left > 0:
        batches = shuffled(rows, recipe.train.batch_size, seed, len(epochs), images if recipe.train.flips else 0)
        epochs.append(list(islice(batches, left)))
        left -= len(epochs[-1])
    return epochs
