"""Weight averages between the start of a training and its end (WiSE-FT: Wortsman et al., 2022, arXiv:2109.01903)."""

import torch
from torch import Tensor

from thaw.cache.checkpoint import load_state, save_state
from thaw.training.network import Setup, restore, snapshot
from thaw.training.results import TrainResult
from thaw.training.train import final_rows, train


def average(setup: Setup, start: list[Tensor], alpha: float) -> None:
    """Average a trained network with what it started from: (1 - alpha) of the start and alpha of the end.

    At 0 and 1 it is one of the two, to the bit. Between them the running statistics of batch normalisation are
    estimated anew on the training images: those of the ends, and their mean, do not fit averaged weights.

    Parameters
    ----------
    setup
        The network at the end of its training; its trainable part is changed in place.
    start
        The `snapshot` of that part before training.
    alpha
        From 0 to 1.
    """
    trained = setup.network.trainable
    pairs = zip(start, snapshot(trained), strict=True)
    restore(trained, [torch.lerp(old, new, alpha) if new.is_floating_point() else new for old, new in pairs])
    if 0 < alpha < 1:
        setup.estimate_statistics(trained, final_rows(setup))


def train_once(setup: Setup, learning_rate: float, weight_decay: float) -> TrainResult:
    """Train, as `train` does, once for all trials that share `setup.work`; the others find what it came to there.

    Raises what `train` raises.
    """
    kept = None if setup.work is None else setup.work / "trained.safetensors"
    given, trainable = [learning_rate, weight_decay], setup.network.trainable
    state = None if kept is None else load_state(kept)
    if state is not None and state[1]["given"] == given:
        restore(trainable, [state[0][str(index)] for index in range(len(state[0]))])
        taught = TrainResult.model_validate(state[1]["training"])
        setup.tell("epochs", taught.epochs)
        return taught
    taught = train(setup, learning_rate, weight_decay)
    if kept:
        tensors = {str(index): tensor for index, tensor in enumerate(snapshot(trainable))}
        save_state(kept, tensors, {"given": given, "training": taught.model_dump()})
    return taught
