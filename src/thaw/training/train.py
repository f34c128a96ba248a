"""The final training of an arm, at the learning rate that its search found."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thaw.cache.checkpoint import load_state, optimizer_tensors, restore_optimizer, save_state
from thaw.compute.batches import Rows
from thaw.errors import DivergedError
from thaw.progress import say, stage, stopwatch
from thaw.recipe import Training
from thaw.training.loop import Learner, fit, schedule
from thaw.training.network import Setup, epoch_seed, is_finite, restore, snapshot
from thaw.training.results import Epoch, TrainResult

AVERAGED = 4
"""`keep = "average"` takes the mean over the last epochs, one of so many."""


def train(setup: Setup, learning_rate: float, weight_decay: float) -> TrainResult:
    """Train finally, from the same start as every attempt; goes on from the last epoch kept in `setup.work`.

    Loss and accuracy are means over an epoch's images as they were trained on. Without refit on validation, each epoch
    is also scored there. The network is left with the weights that `train.keep` says. In fp32 a loss, or a weight after
    an epoch's last step, that is infinite or NaN ends training with the last good epoch.

    Parameters
    ----------
    setup
        The network, which is trained in place, and what its training depends on.
    learning_rate
        The highest of the schedule; layer decay lowers that of the blocks before the head.
    weight_decay
        Of weight matrices and kernels.

    Returns
    -------
    TrainResult
        The epochs, those of an earlier run included, and why training ended early, if it did.

    Raises
    ------
    DivergedError
        A loss or a weight became infinite or NaN in bf16, since fp32 may not diverge; or, in either, a logit of the
        trained network on validation images that it trained on.
    """
    settings, trainable = setup.spec.training, setup.network.trainable
    rows = final_rows(setup)
    batches = [setup.batches(rows, epoch) for epoch in range(settings.epochs)]
    lengths = [len(of_epoch) for of_epoch in batches]
    factors = np.split(schedule(settings, sum(lengths)), np.cumsum(lengths)[:-1])
    learner, task = setup.learner(trainable, learning_rate, weight_decay), setup.task(rows)
    checkpoint = None if setup.work is None else setup.work / "epoch.safetensors"
    elapsed = stopwatch()
    epochs, kept, before = _load(checkpoint, learner, learning_rate)
    setup.tell("epochs", epochs)
    stopped = None
    with stage("training", sum(lengths), "steps", sum(lengths[: len(epochs)])) as advance:
        for number in range(len(epochs), settings.epochs):
            start = snapshot(trainable)
            setup.compute.seed(epoch_seed(setup.seed, number))
            (history,) = fit(task, [learner], batches[number], advance, factors[number])
            epoch = _epoch(setup, *history.means())
            if epoch is None or not is_finite(trainable):
                if setup.compute.precision == "bf16":
                    raise DivergedError("the loss became infinite in bf16; set train.precision to fp32.")
                restore(trainable, start)
                stands = "the weights of the epoch before it stand" if number else "it stays as it was, untrained"
                stopped = f"the loss became infinite in epoch {number + 1}, so {stands}"
                say(stopped)
                break
            epochs.append(epoch)
            setup.tell("epochs", epochs)
            kept = _keep(kept, snapshot(trainable), epochs, settings)
            if settings.patience and number - _best(epochs) >= settings.patience:
                stopped = f"{settings.patience} epochs brought nothing better than epoch {_best(epochs) + 1}"
                break
            if checkpoint and number + 1 < settings.epochs:
                spent = TrainResult(epochs=epochs, stopped=None, seconds=before + elapsed())
                _save(checkpoint, learner, learning_rate, spent, kept)
    if kept:
        restore(trainable, kept)
    if settings.keep == "average":
        setup.estimate_statistics(trainable, rows)
    if settings.refit == "train+validation" and not torch.isfinite(setup.evaluate(setup.splits.validation)).all():
        raise DivergedError("the trained network answers with infinite numbers; lower the rates in [search].")
    return TrainResult(epochs=epochs, stopped=stopped, seconds=before + elapsed())


def _keep(kept: list[Tensor], now: list[Tensor], epochs: list[Epoch], settings: Training) -> list[Tensor]:
    """What is kept after an epoch, to end with: the best state, or the mean of the last ones; nothing for the last."""
    number = len(epochs) - 1
    if settings.keep == "best" or settings.patience:
        return now if _best(epochs) == number else kept
    if settings.keep == "last" or number < (first := settings.epochs - -(-settings.epochs // AVERAGED)):
        return []
    share = 1 / (number - first + 1)
    pairs = zip(kept or now, now, strict=True)
    return [torch.lerp(mean, new, share) if new.is_floating_point() else new for mean, new in pairs]


def final_rows(setup: Setup) -> Rows:
    """The images that the final training sees."""
    splits = setup.splits
    refit = setup.spec.training.refit == "train+validation"
    return np.union1d(splits.train, splits.validation) if refit else splits.train


def _epoch(setup: Setup, loss: float, accuracy: float) -> Epoch | None:
    """An epoch's row, scored on validation where it is held out; None where a loss is infinite or NaN."""
    if setup.spec.training.refit == "train+validation":
        return Epoch(loss=loss, accuracy=accuracy) if np.isfinite(loss) else None
    validated = setup.validate()
    if validated is None or not np.isfinite([loss, validated.loss]).all():
        return None
    return Epoch(
        loss=loss,
        accuracy=accuracy,
        validation_accuracy=validated.accuracy,
        validation_loss=validated.loss,
        validation_score=validated.score,
    )


def _best(epochs: list[Epoch]) -> int:
    """The epoch with the best validation score, of equal ones with the lowest loss, of equal ones the first."""
    return min(range(len(epochs)), key=lambda i: (-(epochs[i].validation_score or 0), epochs[i].validation_loss))


def _save(path: Path, learner: Learner, learning_rate: float, so_far: TrainResult, kept: list[Tensor]) -> None:
    """Write down everything that the next epoch starts from."""
    tensors = {f"now.{index}": tensor for index, tensor in enumerate(snapshot(learner.trainable))}
    tensors |= {f"kept.{index}": tensor for index, tensor in enumerate(kept)}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(learner.optimizer).items()}
    save_state(path, tensors, {"learning_rate": learning_rate, "so_far": so_far.model_dump()})


def _load(path: Path | None, learner: Learner, learning_rate: float) -> tuple[list[Epoch], list[Tensor], float]:
    """Bring back what `_save` wrote: the epochs so far, the state kept, the seconds; nothing where there is none."""
    state = None if path is None else load_state(path)
    if state is None or state[1]["learning_rate"] != learning_rate:
        return [], [], 0.0
    tensors, notes = state

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

    restore(learner.trainable, _in_order(part("now")))
    restore_optimizer(learner.optimizer, part("optimizer"))
    so_far = TrainResult.model_validate(notes["so_far"])
    return so_far.epochs, _in_order(part("kept")), so_far.seconds


def _in_order(numbered: dict[str, Tensor]) -> list[Tensor]:
    return [numbered[str(index)] for index in range(len(numbered))]
