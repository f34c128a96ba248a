"""How long a study will take, from its arithmetic and a few steps timed on this machine."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from thaw.compute.device import Compute
from thaw.images.preprocessing import Size, sides
from thaw.nets.backbones import build_backbone
from thaw.nets.layout import set_layout
from thaw.nets.prefix.observe import macs, undone
from thaw.plan import Plan
from thaw.progress import stopwatch
from thaw.recipe import Augment
from thaw.record import Record
from thaw.text import listed
from thaw.text import seconds as minutes
from thaw.training.specs import ArmSpec

TIMED = 8
"""Images of the steps that are timed."""
TRIES = 2
"""Of each, of which the fastest counts."""
GAIN = 0.85
"""So many threads to this power are how many times as fast as one."""
STEP = 0.004
"""Seconds that a step takes besides its arithmetic: batches, the optimizer, bookkeeping."""
FITTED = 2.0
"""Seconds of a head that is fitted."""
SHOWN = 2000
"""Images that have a heat map of each arm, at most; one is a forward pass and a short way back."""


class Sizes(NamedTuple):
    """The images of a study's splits."""

    train: int
    validation: int
    test: int


class Speed(NamedTuple):
    """What a network takes on this machine."""

    forward: float
    """Seconds an image, in evaluation mode."""
    training: float
    """Seconds an image of a step that trains everything."""


class Estimate(Record):
    """Seconds that a study should take from here on, where no search has to double its steps."""

    activations: float
    """What is computed once."""
    search: float
    """Of all trials, those of repeats included."""
    training: float
    """Of all trials, those of repeats and rehearsals included."""
    rest: float
    """Tests, features and heat maps."""

    def told(self) -> str:
        """In words, with the parts that take a twentieth of it at least."""
        parts = {
            "what is computed once": self.activations,
            "searches": self.search,
            "training": self.training,
            "tests and heat maps": self.rest,
        }
        total = sum(parts.values())
        each = listed([f"{minutes(taken)} of {part}" for part, taken in parts.items() if taken >= total / 20])
        return f"about {minutes(total)} if nothing else runs: {each}"


def estimate(plan: Plan, sizes: Sizes, augment: Augment, size: Size, compute: Compute) -> Estimate:
    """Estimate what a planned study will take; what a cache holds already is not known.

    One network is timed whole: a pass, and a step that trains all of it. The arms' own passes and steps are the same
    network behind its prefix, so their seconds are taken in proportion to their multiply-adds.

    Parameters
    ----------
    plan
        The study.
    sizes
        Its images.
    augment
        How many views are tested on.
    size
        What the networks see.
    compute
        The device and precision.
    """
    speed, whole = measure_speed((plan.trials + plan.repeated)[0].spec, size, compute)
    rows, done, activations = sum(sizes) + plan.views + plan.repeat_views, 0, 0.0
    for prefix in plan.prefixes:  # each goes on from the one before
        activations += rows * speed.forward * (prefix.cut.macs - done) / whole
        done = prefix.cut.macs
    search = training = 0.0
    rest = (sum(sizes) * speed.forward) * (1 - done / whole)
    for trial in plan.trials + plan.repeated:
        suffix = 1 - plan.networks[trial.spec.name].frontier.fraction_saved
        each, passed = speed.training * suffix, speed.forward * suffix
        own = sizes._replace(train=round(sizes.train * trial.fraction))
        searched, trained = steps_of(trial.spec, own)
        batch = trial.spec.training.batch_size
        validated = sizes.validation * passed
        search += searched * (batch * each + STEP) + _attempts(trial.spec) * (validated + 2 * own.train * passed)
        training += trained * (batch * each + STEP) + (0.0 if searched else FITTED)
        rest += sizes.test * passed * augment.test_views
        rest += 2 * min(sizes.test, SHOWN) * speed.forward if trial.saved else 0.0
    return Estimate(activations=activations, search=search, training=training, rest=rest)


def steps_of(spec: ArmSpec, sizes: Sizes) -> tuple[int, int]:
    """Count the optimizer steps of an arm's search and training, rehearsal included, if neither ends early."""
    if spec.head != "trained" or spec.average:
        return 0, 0
    tried, training = spec.search, spec.training
    if tried.method == "grid":
        searched = len(tried.learning_rates) * tried.steps
    else:  # half as many rates take twice the steps in each round
        searched = tried.candidates * tried.steps * (tried.candidates - 1).bit_length()
    searched += len(tried.weight_decays or ()) * tried.steps
    both = sizes.train + (sizes.validation if training.refit == "train+validation" else 0)
    seen = [both, sizes.train] if training.rehearses else [both]
    return searched, training.epochs * sum(-(-images // training.batch_size) for images in seen)


def measure_speed(spec: ArmSpec, size: Size, compute: Compute) -> tuple[Speed, int]:
    """Time a backbone in the faster of two memory layouts, the best of a few tries; and count its multiply-adds."""
    model, _ = build_backbone(spec.backbone, "random", 2, seed=0)
    model.to(compute.device)
    images = torch.zeros(TIMED, 3, *sides(size), device=compute.device)
    with undone(model, compute.device):
        arithmetic = macs(model.eval(), images)

    def step() -> None:
        model.train()
        with compute.autocast():
            logits = model(images)
        torch.autograd.backward(functional.log_softmax(logits.float(), 1).mean())

    def evaluate() -> None:
        model.eval()
        with torch.inference_mode(), compute.autocast():
            model(images)

    taken = {"training": float("inf"), "forward": float("inf")}
    with torch.random.fork_rng([compute.device] if compute.device.type == "cuda" else []):
        for channels_last in (False, True):
            set_layout(model, channels_last)
            for name, run in (("training", step), ("forward", evaluate)):
                taken[name] = min(taken[name], *(_seconds(run, compute) / len(images) for _ in range(TRIES)))
    return Speed(**taken), arithmetic


def _attempts(spec: ArmSpec) -> int:
    """The attempts of an arm's search."""
    if spec.head != "trained" or spec.average:
        return 0
    tried = spec.search
    rates = len(tried.learning_rates) if tried.method == "grid" else 2 * tried.candidates
    return rates + len(tried.weight_decays or ())


def _seconds(run: Callable[[], None], compute: Compute) -> float:
    """The seconds of a run; on a CPU as if nothing else ran: those of one thread, over what more of them gain."""
    threads = torch.get_num_threads()
    if compute.device.type != "cpu":
        compute.wait()
        elapsed = stopwatch()
        run()
        compute.wait()
        return elapsed()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        run()
        return (time.process_time() - start) / float(threads**GAIN)
    finally:
        torch.set_num_threads(threads)
