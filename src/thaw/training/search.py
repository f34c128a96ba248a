"""The learning-rate search: a grid, or successive halving over a range; the same budget for every arm."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from thaw.cache.arrays import key_of
from thaw.cache.checkpoint import load_state, save_state
from thaw.compute.batches import Rows
from thaw.errors import DivergedError
from thaw.progress import stage, stopwatch
from thaw.scoring.measure import gap_error, measure
from thaw.training.loop import FirstStep, Task, first_step, fit, schedule
from thaw.training.network import Setup, Validated, copy_of, epoch_seed, restore, snapshot
from thaw.training.results import Attempt, SearchResult

SIDE_BY_SIDE_BYTES = 2 << 30
"""Learning rates are tried side by side while the copies of what trains, with gradients and Adam's moments, fit."""
ONE_ERROR = 1.001
"""Standard errors by which one attempt has to beat another; more than one, which is what a single image is worth."""
BEYOND_CHANCE = 1.645
"""Standard errors by which an attempt has to beat the class frequencies to have learned anything: 5%, one-sided."""
WIDENINGS = 2
"""How often a halving goes on beyond an edge of its range."""


class Candidate(NamedTuple):
    """What an attempt tries."""

    learning_rate: float
    weight_decay: float


class Tried(NamedTuple):
    """An attempt, and what its network answered on the validation images."""

    attempt: Attempt
    logits: NDArray[np.float32]
    """(validation images, classes); none where the attempt failed."""


Try = Callable[[list[Candidate], int], list[Tried]]
"""Tries candidates for a number of steps."""


def search(setup: Setup) -> SearchResult:
    """Try learning rates on the same batches from the same start; the best on the validation images wins.

    Of attempts that count as equally good (`search.ties`) the lowest validation loss wins. Where no attempt learns
    anything, the search begins again with twice the steps, up to `search.max_steps`, or to as many as training takes.

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
    settings, decay = setup.spec.search, setup.spec.training.weight_decay
    tried: dict[tuple[Candidate, int], Tried] = {}
    seconds: list[float] = []
    attempt = _attempts(setup, tried, seconds)
    halving = settings.method == "halving"
    rates = [float(rate) for rate in np.geomspace(settings.range[0], settings.range[1], settings.candidates)]
    candidates = [Candidate(rate, decay) for rate in (rates if halving else settings.learning_rates)]
    steps = settings.steps
    longest = _longest(setup)
    while steps < longest and not _any_learned(attempt(candidates, steps)):
        steps = min(2 * steps, longest)
    ranked = _rank(attempt(candidates, steps), setup)
    if halving:
        ranked = _halve(candidates, steps, attempt, setup)
        for _ in range(WIDENINGS):
            beyond = _beyond(ranked[0], [one.learning_rate for one in candidates])
            tied = settings.ties == "noise" and len(ranked) > 2 and not _better(ranked[1], ranked[2], setup)
            if not beyond or tied:
                break
            ranked = _halve([_candidate(ranked[0]), *beyond], steps, attempt, setup)
            candidates = sorted({*candidates, *beyond})
    best = ranked[0].attempt
    if settings.weight_decays and not best.failed:
        decays = [Candidate(best.learning_rate, one) for one in settings.weight_decays]
        best = _rank(attempt(decays, best.steps), setup)[0].attempt
    if best.failed:
        rates = [one.learning_rate for one in candidates]
        raise DivergedError(
            f"the loss became infinite at every learning rate from {min(rates):g} to {max(rates):g}; lower them in "
            "[search], or look at the weights that the arm starts from."
        )
    same = [one for (_, taken), one in tried.items() if taken == best.steps and one.attempt.weight_decay == decay]
    return _result(best, same, [one.attempt for one in tried.values()], sum(seconds), setup)


def _attempts(setup: Setup, tried: dict[tuple[Candidate, int], Tried], seconds: list[float]) -> Try:
    """A function that tries candidates, each once, and notes them in `tried` and their seconds."""
    task = setup.task(setup.splits.train)

    @cache
    def opening() -> FirstStep:
        """The first step of every attempt, up to the optimizer: all have the same batch, start and random numbers."""
        ((batch,),) = _epochs(setup, 1)
        setup.compute.seed(epoch_seed(setup.seed, 0))
        return first_step(task, setup.network.trainable, batch)

    def attempt(candidates: list[Candidate], steps: int) -> list[Tried]:
        new = [one for one in candidates if (one, steps) not in tried]
        for lane in _lanes(new, setup):
            path = setup.work and setup.work / f"{key_of(lane=lane, steps=steps)}.safetensors"
            found = _load(path)
            if found is None:
                elapsed = stopwatch()
                found = _try(setup, task, lane, _epochs(setup, steps), opening()), elapsed()
                _save(path, *found)
            tried.update({(_candidate(one), steps): one for one in found[0]})
            seconds.append(found[1])
            setup.tell("search", [one.attempt for one in tried.values()])
        return [tried[one, steps] for one in candidates]

    return attempt


def _result(best: Attempt, same: list[Tried], attempts: list[Attempt], seconds: float, setup: Setup) -> SearchResult:
    """The outcome; `same` are the attempts with as many steps and the recipe's weight decay."""
    rate, rates = best.learning_rate, sorted({one.learning_rate for one in attempts})
    winner = next(one for one in same if one.attempt.learning_rate == rate)
    good = [one for one in same if one.attempt.failed is None and one.attempt.learning_rate != rate]
    tied = [one.attempt.learning_rate for one in good if not _better(winner, one, setup)]
    next_to = sorted(good, key=lambda one: abs(np.log(one.attempt.learning_rate / rate)))[:1]
    told = all(one.attempt.learning_rate not in tied for one in next_to)
    edge = {rates[0]: "lowest", rates[-1]: "highest"}.get(rate) if len(rates) > 1 and told else None
    return SearchResult.model_validate(
        {
            "learning_rate": rate,
            "weight_decay": best.weight_decay,
            "edge": edge,
            "tied": sorted(tied),
            "learned": any(one.learned for one in attempts),
            "attempts": attempts,
            "seconds": seconds,
        }
    )


def _longest(setup: Setup) -> int:
    """The most steps of an attempt that learns nothing: `search.max_steps`, or those of the training it stands for."""
    tried, training = setup.spec.search, setup.spec.training
    if tried.max_steps is None:
        return tried.steps
    if tried.schedule == "constant":
        return tried.max_steps
    whole = training.epochs * -(-len(setup.splits.train) // training.batch_size)
    return min(tried.max_steps, max(tried.steps, whole))


def _candidate(tried: Tried) -> Candidate:
    return Candidate(tried.attempt.learning_rate, tried.attempt.weight_decay)


def _any_learned(tried: list[Tried]) -> bool:
    return any(one.attempt.learned for one in tried)


def _halve(candidates: list[Candidate], steps: int, attempt: Try, setup: Setup) -> list[Tried]:
    """Successive halving (Jamieson & Talwalkar, 2016): the better half goes on with twice the steps, to the last one.

    Each round starts anew, so that an attempt depends on its rate and steps alone. Returns the last one, then those of
    the round before it.
    """
    before: list[Tried] = []
    while True:
        ranked = _rank(attempt(candidates, steps), setup)
        if len(ranked) == 1:
            return [*ranked, *before]
        before, candidates = ranked, [_candidate(one) for one in ranked[: (len(ranked) + 1) // 2]]
        steps *= 2


def _beyond(best: Tried, rates: list[float]) -> list[Candidate]:
    """Half as many rates again, as far apart, beyond the edge at which the best one lies; none inside."""
    ratio, count, rate = rates[1] / rates[0], max(1, len(rates) // 2), best.attempt.learning_rate
    factor = {max(rates): ratio, min(rates): 1 / ratio}.get(rate)
    powers = range(1, count + 1) if factor else ()
    return [Candidate(rate * (factor or 1) ** power, best.attempt.weight_decay) for power in powers]


def _rank(tried: list[Tried], setup: Setup) -> list[Tried]:
    """From the best to the worst; see `search.ties`."""
    ranked = sorted(tried, key=_order)
    if setup.spec.search.ties == "exact" or ranked[0].attempt.failed:
        return ranked
    labels = setup.validation_labels
    good = [one for one in ranked if one.attempt.failed is None]
    level = [one for one in good if not _better(good[0], one, setup)]
    lowest = min(level, key=lambda one: one.attempt.loss or 0.0)
    alike = [
        one
        for one in level
        if (one.attempt.loss or 0) - (lowest.attempt.loss or 0)
        <= ONE_ERROR * gap_error("log_loss", labels, lowest.logits, one.logits)
    ]
    middle = sorted(alike, key=lambda one: one.attempt.learning_rate)[(len(alike) - 1) // 2]
    return [middle, *(one for one in ranked if one is not middle)]


def _better(one: Tried, other: Tried, setup: Setup) -> bool:
    """Whether the validation images tell one attempt's score from another's: by more than one standard error."""
    labels = setup.validation_labels
    gap = (one.attempt.score or 0.0) - (other.attempt.score or 0.0)
    return gap > ONE_ERROR * gap_error(setup.spec.search.metric, labels, one.logits, other.logits)


def _order(tried: Tried) -> tuple[bool, float, float, float]:
    attempt = tried.attempt
    return bool(attempt.failed), -(attempt.score or 0.0), attempt.loss or 0.0, attempt.learning_rate


def _learned(validated: Validated, setup: Setup) -> bool:
    """Whether answers beat those of the training images' class frequencies, by metric or loss, beyond chance (5%)."""
    labels = setup.labels.cpu().numpy()
    counts = np.bincount(labels[setup.splits.train], minlength=validated.logits.shape[1])
    constant = np.log(np.maximum(counts, 0.5) / counts.sum()).astype(np.float32)
    held, always = setup.validation_labels, np.tile(constant, (len(validated.logits), 1))
    return any(
        measure(metric, held, validated.logits) - measure(metric, held, always)
        > BEYOND_CHANCE * gap_error(metric, held, validated.logits, always)
        for metric in ("log_loss", setup.spec.search.metric)
    )


def _lanes(candidates: list[Candidate], setup: Setup) -> list[list[Candidate]]:
    """Those that are tried side by side: all, where they share a middle and their copies fit; else one by one."""
    network = setup.network
    trained = sum(p.nbytes for p in network.trainable.parameters() if p.requires_grad)
    if network.middle is None or not candidates:
        return [[one] for one in candidates]
    width = max(1, SIDE_BY_SIDE_BYTES // (trained * 4))
    return [candidates[start : start + width] for start in range(0, len(candidates), width)]


def _try(setup: Setup, task: Task, lane: list[Candidate], epochs: list[list[Rows]], opening: FirstStep) -> list[Tried]:
    """Train from the network's present state at each rate, side by side, and score; the state is as before then."""
    trainable, steps = setup.network.trainable, sum(map(len, epochs))
    start = snapshot(trainable)
    copies = [trainable] if len(lane) == 1 else [copy_of(trainable) for _ in lane]
    learners = [setup.learner(part, *one) for part, one in zip(copies, lane, strict=True)]
    lengths = [len(batches) for batches in epochs]
    factors: list[NDArray[np.float64] | None] = [None] * len(epochs)
    if setup.spec.search.schedule == "train":
        factors = [*np.split(schedule(setup.spec.training, steps), np.cumsum(lengths)[:-1])]
    diverged = [False] * len(lane)
    with stage("search", steps, "steps") as advance:
        for epoch, batches in enumerate(epochs):
            task.compute.seed(epoch_seed(setup.seed, epoch))
            histories = fit(task, learners, batches, advance, factors[epoch], None if epoch else opening)
            diverged = [before or history.diverged() for before, history in zip(diverged, histories, strict=True)]
    tried = []
    for one, part, failed in zip(lane, copies, diverged, strict=True):
        validated = None
        if not failed:
            restore(trainable, snapshot(part))
            setup.estimate_statistics(trainable, setup.splits.train)
            validated = setup.validate()
        tried.append(_tried(one, steps, validated, setup))
    restore(trainable, start)
    return tried


def _tried(one: Candidate, steps: int, validated: Validated | None, setup: Setup) -> Tried:
    """Write an attempt down; nothing was validated where it failed."""
    found: dict[str, Any] = {"accuracy": 0.0, "loss": None, "score": None, "learned": False}
    if validated is None:
        found["failed"] = "the loss became infinite"
    else:
        found = {**validated._asdict(), "learned": _learned(validated, setup)}
    logits = found.pop("logits", np.empty((0, 0), np.float32))
    return Tried(Attempt.model_validate({**one._asdict(), "steps": steps, **found}), logits)


def _save(path: Path | None, tried: list[Tried], seconds: float) -> None:
    """Write down what a lane found, for a study that goes on."""
    if path is not None:
        logits = {str(place): torch.from_numpy(one.logits) for place, one in enumerate(tried)}
        save_state(path, logits, {"attempts": [one.attempt.model_dump() for one in tried], "seconds": seconds})


def _load(path: Path | None) -> tuple[list[Tried], float] | None:
    """What `_save` wrote; None where there is none."""
    state = None if path is None else load_state(path)
    if state is None:
        return None
    logits, notes = state
    attempts = [Attempt.model_validate(one) for one in notes["attempts"]]
    return [Tried(one, logits[str(place)].numpy()) for place, one in enumerate(attempts)], notes["seconds"]


def _epochs(setup: Setup, steps: int) -> list[list[Rows]]:
    """Epochs of batches of training images, the last one cut short, `steps` batches in all."""
    epochs: list[list[Rows]] = []
    left = steps
    while left > 0:
        epochs.append(setup.batches(setup.splits.train, len(epochs))[:left])
        left -= len(epochs[-1])
    return epochs
