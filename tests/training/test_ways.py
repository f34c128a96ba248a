"""The recipe's ways of training, each against torch's, scikit-learn's or a hand-written counterpart."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from helpers.records import FACTS
from helpers.studies import PLAIN, SETTLED
from thaw.cache.checkpoint import load_state, save_state
from thaw.compute.batches import Inputs, _upload, balanced, consecutive, shuffled
from thaw.compute.device import Compute
from thaw.data.splits import Splits
from thaw.errors import DivergedError, RecipeError
from thaw.nets.prefix.trace import twin
from thaw.recipe import Train, load_recipe
from thaw.training import loop
from thaw.training.loop import Learner, Task, fit, logits_of, make_criterion, make_optimizer, schedule
from thaw.training.network import Network, Setup, epoch_seed
from thaw.training.results import Attempt
from thaw.training.search import Candidate, Tried, _beyond, _halve, _rank, search
from thaw.training.specs import resolve_arm
from thaw.training.train import train

CPU = Compute(torch.device("cpu"), "fp32")
IMAGES = 60


class Toy(nn.Module):
    """uint8 pixels (n, 4, 4, 3) to two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layers(pixels.float() / 255)
        return logits


class ToFloat(nn.Module):
    """uint8 to float32 from 0 to 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float() / 255


class Handed(nn.Module):
    """What is given, as a middle hands it to what trains."""

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return values


@pytest.fixture
def pixels() -> np.ndarray:
    random = np.random.default_rng(0)
    images = random.integers(0, 128, (IMAGES, 4, 4, 3), dtype=np.uint8)
    images[::2, :, :2] += 100
    return images


@pytest.fixture
def labels() -> Tensor:
    return (torch.arange(IMAGES) % 2 == 0).long()


def toy_network(pixels: np.ndarray, middle: nn.Module | None = None, model: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    model = model or Toy()
    evaluation = twin(model).eval() if middle else model
    return Network(model, middle, model, evaluation, Inputs((pixels,), CPU.device), "toy", (), (), FACTS)


@dataclass(frozen=True)
class Toys:
    """Images to train toy networks on."""

    pixels: np.ndarray
    labels: Tensor
    splits: Splits

    def setup(self, *settings: str, work: Path | None = None, network: Network | None = None) -> Setup:
        """A toy network, or the given one, ready to train as the recipe with these settings says."""
        recipe = load_recipe("photos", "pictures", (*PLAIN, "train.batch_size=8", *settings))
        spec = resolve_arm("head", recipe.arms["head"], recipe)
        return Setup(network or toy_network(self.pixels), spec, 0, self.labels, self.splits, CPU, work)


@pytest.fixture
def toys(pixels: np.ndarray, labels: Tensor) -> Toys:
    rows = np.arange(IMAGES)
    return Toys(pixels, labels, Splits(rows[:40], rows[40:50], rows[50:], {}))


def test_schedule_is_torchs_warm_up_and_cosine() -> None:
    settings, steps, warm = Train(schedule="cosine", warmup=0.25), 40, 10
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / (warm + 1))
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warm)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warm])
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    np.testing.assert_allclose(schedule(settings, steps), expected, rtol=1e-6)
    assert (schedule(Train(), 5) == 1).all()


def test_balanced_weights_are_scikit_learns() -> None:
    labels = torch.tensor([0] * 30 + [1] * 6 + [2] * 4)
    criterion = make_criterion(Train(class_weights="balanced"), labels, np.arange(40))
    assert criterion.weight is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(criterion.weight, expected, rtol=1e-6)


def test_weight_decay_and_scales_are_for_their_parameters() -> None:
    layer = nn.Linear(3, 2)
    settings, parameters = Train(optimizer="sgd", weight_decay=0.1), [layer.weight, layer.bias]
    optimizer = make_optimizer(settings, parameters, 0.5, (0.1, 1.0), (True, False))
    weight = layer.weight.detach().clone()
    bias = layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), weight * (1 - 0.5 * 0.1 * 0.1))
    assert torch.equal(layer.bias.detach(), bias)


def test_a_step_in_pieces_is_the_step_of_the_whole_batch(
    pixels: np.ndarray, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds no more than ten images at a time, and weights that differ from class to class."""
    ends = []
    whole = loop._add_gradients

    def small(task: Task, parts: Any, tensors: Any, target: Tensor, pieces: int) -> Any:
        if -(-len(target) // pieces) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(task, parts, tensors, target, pieces)

    for limited in (False, True):
        network = toy_network(pixels)
        if limited:
            monkeypatch.setattr(loop, "_add_gradients", small)
        optimizer = make_optimizer(Train(), list(network.trainable.parameters()), 1e-2)
        criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]), label_smoothing=0.1)
        batches = shuffled(np.arange(IMAGES), 25, 0, 0)
        task = Task(None, network.inputs, labels, criterion, CPU)
        (history,) = fit(task, [Learner(network.trainable, optimizer)], batches, lambda _: None)
        ends.append((history.losses, history.correct, [p.detach().clone() for p in network.trainable.parameters()]))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-5)
    assert (ends[0][1] == ends[1][1]).all()
    for one, other in zip(ends[0][2], ends[1][2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def tried(rate: float, steps: int = 1) -> Tried:
    score = -abs(np.log10(rate) + 3)
    return Tried(Attempt(learning_rate=rate, steps=steps, accuracy=0, loss=None, score=score), np.empty((0, 0)))


def test_halving_spends_its_budget_on_the_better_half(toys: Toys) -> None:
    asked: list[tuple[int, int]] = []

    def attempt(candidates: list[Candidate], steps: int) -> list[Tried]:
        asked.append((len(candidates), steps))
        return [tried(one.learning_rate, steps) for one in candidates]

    candidates = [Candidate(rate, 0.0) for rate in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]
    assert _halve(candidates, 10, attempt, toys.setup())[0].attempt.learning_rate == 1e-3
    assert asked == [(5, 10), (3, 20), (2, 40), (1, 80)]
    assert [one.learning_rate for one in _beyond(tried(1e-1), [1e-3, 1e-2, 1e-1])] == pytest.approx([1.0])
    assert [one.learning_rate for one in _beyond(tried(1e-3), [1e-3, 1e-2, 1e-1])] == pytest.approx([1e-4])
    assert _beyond(tried(1e-2), [1e-3, 1e-2, 1e-1]) == []


def test_a_range_that_is_too_low_is_widened(toys: Toys) -> None:
    found = search(
        toys.setup("search.method=halving", "search.range=[1e-7, 1e-5]", "search.candidates=3", "search.steps=4")
    )
    assert found.learning_rate > 1e-5
    assert max(one.learning_rate for one in found.attempts) > 1e-5
    assert {one.steps for one in found.attempts} == {4, 8, 16}


@pytest.mark.parametrize("width", [1, 3])
def test_trials_share_their_first_step_and_end_as_each_alone_would(toys: Toys, width: int) -> None:
    """Against a plain loop; with batch normalisation and dropout, a step leaves more behind than gradients."""
    layers = nn.Sequential(nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), ToFloat(), layers)
    pixels, labels, splits = toys.pixels, toys.labels, toys.splits
    middle = Handed() if width > 1 else None  # what makes rates run side by side
    network = replace(toy_network(pixels, middle, model), evaluation=twin(model).eval())
    rates, steps = [1e-3, 1e-2, 1e-1], 7
    settings = (f"search.learning_rates={rates}", f"search.steps={steps}")
    found = search(toys.setup(*settings, network=network)).attempts
    for rate, trial in zip(rates, found, strict=True):
        plain = copy.deepcopy(model).train()
        optimizer = torch.optim.Adam(plain.parameters(), rate, fused=True)
        done = 0
        for epoch in range(2):
            torch.manual_seed(epoch_seed(0, epoch))
            for rows in shuffled(splits.train, 8, 0, epoch)[: steps - done]:
                optimizer.zero_grad()
                nn.functional.cross_entropy(plain(torch.from_numpy(pixels[rows])), labels[rows]).backward()
                optimizer.step()
                done += 1
        update_bn([torch.from_numpy(pixels[rows]) for rows in shuffled(splits.train, 8, 0, 0)], plain)
        with torch.no_grad():
            logits = plain.eval()(torch.from_numpy(pixels[splits.validation]))
        expected = nn.functional.cross_entropy(logits, labels[splits.validation])
        assert trial.loss == pytest.approx(float(expected), rel=1e-4)


def test_a_rate_that_diverges_fails_alone(toys: Toys, tmp_path: Path) -> None:
    settings = ("search.learning_rates=[1e-3, 1e30]", "train.optimizer=sgd")
    setup = toys.setup(*settings, work=tmp_path)
    before = [p.detach().clone() for p in setup.network.trainable.parameters()]
    found = search(setup)
    assert found.learning_rate == 1e-3
    why = "the loss became infinite"
    assert found.attempts[1] == Attempt(
        learning_rate=1e30, steps=15, accuracy=0.0, loss=None, learned=False, failed=why
    )
    assert all(torch.equal(one, other) for one, other in zip(before, setup.network.trainable.parameters(), strict=True))
    assert search(toys.setup(*settings, work=tmp_path)) == found
    with pytest.raises(DivergedError, match=r"^the loss became infinite at every learning rate from 1e\+30"):
        search(toys.setup("search.learning_rates=[1e30]", "train.optimizer=sgd"))


def test_training_that_diverges_keeps_the_last_good_epoch(toys: Toys) -> None:
    bad = toys.pixels.astype(np.float32)
    network = toy_network(bad)
    setup = toys.setup("train.epochs=4", network=network)
    steps = 0

    def spoil(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 2 * (5 + 2) + 3:  # five batches of an epoch, two of validation
            bad[:] = np.inf

    network.trainable.register_forward_hook(spoil)
    trained = train(setup, 1e-3, 0.0)
    assert trained.stopped == "the loss became infinite in epoch 3, so the weights of the epoch before it stand"
    assert len(trained.epochs) == 2
    assert all(torch.isfinite(p).all() for p in network.trainable.parameters())
    with pytest.raises(DivergedError, match="fp32"):
        train(replace(setup, compute=Compute(CPU.device, "bf16")), 1e-3, 0.0)


@pytest.mark.parametrize(("refit", "rate"), [("train", 1e38), ("train+validation", 1e45)])
def test_a_last_step_that_diverges_is_noticed(toys: Toys, refit: str, rate: float) -> None:
    """The losses of an epoch are those before its steps: the only one here is finite."""
    settings = ("train.batch_size=64", "train.optimizer=sgd", "train.epochs=2", f"train.refit={refit}")
    setup = toys.setup(*settings)
    before = [p.detach().clone() for p in setup.network.trainable.parameters()]
    trained = train(setup, rate, 0.0)
    assert trained.stopped == "the loss became infinite in epoch 1, so it stays as it was, untrained"
    assert trained.epochs == []
    assert all(torch.equal(one, other) for one, other in zip(before, setup.network.trainable.parameters(), strict=True))


def test_an_infinite_mask_is_no_divergence(toys: Toys) -> None:
    network = toy_network(toys.pixels)
    network.trainable.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    trained = train(toys.setup("train.epochs=2", network=network), 1e-3, 0.0)
    assert trained.stopped is None
    assert len(trained.epochs) == 2


def test_seconds_of_what_an_earlier_run_did_are_counted(toys: Toys, tmp_path: Path) -> None:
    settings = ("train.epochs=3", "search.learning_rates=[1e-3]")
    first, again = (search(toys.setup(*settings, work=tmp_path)) for _ in range(2))
    assert again.seconds == first.seconds > 0
    train(toys.setup(*settings, work=tmp_path), 1e-3, 0.0)
    tensors, notes = load_state(tmp_path / "epoch.safetensors") or ({}, {})
    assert len(notes["so_far"]["epochs"]) == 2
    save_state(tmp_path / "epoch.safetensors", tensors, notes | {"so_far": notes["so_far"] | {"seconds": 1000.0}})
    assert train(toys.setup(*settings, work=tmp_path), 1e-3, 0.0).seconds > 1000


def test_no_batches_are_none(pixels: np.ndarray) -> None:
    """As where a study was killed after its last chunk was made and before that was noted."""
    assert list(Inputs((pixels,), CPU.device).batches([])) == []


@pytest.mark.parametrize("settings", [(), ("train.patience=3", "train.schedule=cosine")])
def test_training_goes_on_from_the_last_epoch_kept(toys: Toys, tmp_path: Path, settings: tuple[str, ...]) -> None:
    settings = ("train.epochs=5", "train.label_smoothing=0.1", *settings)
    unbroken = toy_network(toys.pixels)
    expected = train(toys.setup(*settings, network=unbroken), 1e-2, 0.0)

    broken = toy_network(toys.pixels)
    steps = 0

    def kill(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 19:
            raise KeyboardInterrupt

    broken.trainable.register_forward_hook(kill)
    with pytest.raises(KeyboardInterrupt):
        train(toys.setup(*settings, work=tmp_path, network=broken), 1e-2, 0.0)
    resumed = toy_network(toys.pixels)
    again = train(toys.setup(*settings, work=tmp_path, network=resumed), 1e-2, 0.0)
    assert (again.epochs, again.stopped) == (expected.epochs, expected.stopped)
    for one, other in zip(unbroken.trainable.parameters(), resumed.trainable.parameters(), strict=True):
        assert torch.equal(one, other)


def test_patience_keeps_the_best_epoch(toys: Toys) -> None:
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 2, IMAGES))
    setup = replace(toys.setup("train.epochs=30", "train.patience=2"), labels=labels)
    trained = train(setup, 3e-2, 0.0)
    assert trained.stopped is not None
    scores = [(-(row.validation_accuracy or 0), row.validation_loss) for row in trained.epochs]
    best = scores.index(min(scores))
    assert len(trained.epochs) == best + 3
    with torch.inference_mode():
        rows = toys.splits.validation
        logits = setup.network.trainable(torch.from_numpy(toys.pixels[rows]))
        loss = nn.functional.cross_entropy(logits, labels[rows])
    assert float(loss) == pytest.approx(trained.epochs[best].validation_loss, abs=1e-5)


def test_patience_without_held_out_images_is_refused() -> None:
    with pytest.raises(RecipeError, match=r'set train.refit = "train"'):
        load_recipe("photos", "pictures", (*SETTLED, "train.patience=2", "train.refit=train+validation"))


def test_arrays_on_the_device_give_the_batches_of_mapped_ones(pixels: np.ndarray) -> None:
    index = np.random.default_rng(0).permutation(IMAGES)[: IMAGES - 3]
    batches = shuffled(np.arange(2 * len(index)), 7, 0, 0)
    mirror = pixels[:, :, ::-1]
    mapped = Inputs((pixels,), CPU.device, index, views=(Inputs((mirror,), CPU.device, index),))
    held = Inputs((mirror,), CPU.device, index, (_upload(mirror, CPU.device, chunk=11),))
    resident = Inputs((pixels,), CPU.device, index, (_upload(pixels, CPU.device, chunk=11),), (held,))
    for rows, one, other in zip(batches, mapped.batches(batches), resident.batches(batches), strict=True):
        both = np.concatenate([pixels[index], mirror[index]])
        assert torch.equal(one[0], other[0])
        np.testing.assert_array_equal(one[0], both[rows])
    assert list(resident.batches([])) == []


def test_half_precision_is_uploaded_as_it_is() -> None:
    values = torch.randn(10, 3).bfloat16()
    assert torch.equal(_upload(values.view(torch.uint16).numpy(), CPU.device, chunk=4), values)


def test_logits_are_computed_in_halves_where_memory_runs_out(pixels: np.ndarray) -> None:
    network = toy_network(pixels)
    sizes = []

    class Small(nn.Module):
        """A device that holds no more than ten images at a time."""

        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            if len(images) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return network.evaluation(images)

    batches = consecutive(np.arange(IMAGES), 25)
    whole = logits_of(network.evaluation, network.inputs, batches, CPU)
    torch.testing.assert_close(logits_of(Small(), network.inputs, batches, CPU), whole)
    assert max(size for size in sizes if size <= 10) > 5
    with pytest.raises(torch.OutOfMemoryError):
        logits_of(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")), network.inputs, batches, CPU)


def answered(rate: float, right: int, loss: float) -> Tried:
    """An attempt that names `right` of the ten validation images, whose labels are 1 and 0 in turn, rightly."""
    labels = (np.arange(10) % 2 == 0).astype(int)
    sure = np.where(np.arange(10) < right, 1, -1) * np.log(np.expm1(loss) ** -1)
    logits = np.zeros((10, 2), np.float32)
    logits[np.arange(10), labels] = sure
    attempt = Attempt(learning_rate=rate, steps=1, accuracy=right / 10, score=right / 10, loss=loss)
    return Tried(attempt, logits)


def test_what_validation_cannot_tell_apart_goes_by_loss_then_to_the_middle(toys: Toys) -> None:
    noise, exact = toys.setup("search.ties=noise"), toys.setup()
    # one image of ten is no evidence, and equal losses are none either
    level = [answered(1e-4, 9, 0.4), answered(1e-3, 8, 0.4), answered(1e-2, 9, 0.4)]
    assert _rank(level, noise)[0].attempt.learning_rate == 1e-3
    assert _rank(level, exact)[0].attempt.learning_rate == 1e-4
    # five are
    assert _rank([answered(1e-4, 4, 0.4), answered(1e-2, 9, 0.4)], noise)[0].attempt.learning_rate == 1e-2
    # a loss that is lower at every image is
    assert _rank([answered(1e-4, 10, 0.1), answered(1e-3, 10, 0.4)], noise)[0].attempt.learning_rate == 1e-4


def test_where_nothing_is_learned_the_steps_double_and_it_is_said(toys: Toys) -> None:
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, toys.pixels.shape, dtype=np.uint8)
    settings = ("search.learning_rates=[1e-6, 1e-5]", "search.steps=2", "search.max_steps=10")
    blind = search(toys.setup(*settings, network=toy_network(noise)))
    assert not blind.learned
    assert [one.steps for one in blind.attempts] == [2, 2, 4, 4, 8, 8, 10, 10]
    short = ("search.schedule=train", "train.epochs=1", "train.batch_size=8")  # five steps
    blind = search(toys.setup(*settings, *short, network=toy_network(noise)))
    assert [one.steps for one in blind.attempts] == [2, 2, 4, 4, 5, 5]
    seen = search(toys.setup("search.learning_rates=[1e-2]", "search.steps=2", "search.max_steps=100"))
    assert seen.learned
    assert seen.attempts[-1].learned
    assert not any(one.learned for one in seen.attempts[:-1])


def test_an_attempt_may_follow_the_schedule_of_training(toys: Toys) -> None:
    """Five epochs of five batches each, all tried: the same loss as after training as long."""
    settings = ("train.schedule=cosine", "train.warmup=0.2", "train.epochs=5", "search.learning_rates=[1e-2]")
    (attempt,) = search(toys.setup(*settings, "search.steps=25", "search.schedule=train")).attempts
    trained = train(toys.setup(*settings), 1e-2, 0.0)
    assert attempt.loss == pytest.approx(trained.epochs[-1].validation_loss, rel=1e-6)


def test_weight_decays_are_tried_at_the_rate_found(toys: Toys) -> None:
    found = search(toys.setup("train.optimizer=adamw", "search.weight_decays=[0.0, 0.9]", "search.steps=4"))
    tries = [(one.learning_rate, one.weight_decay) for one in found.attempts]
    assert tries == [(1e-4, 0.0), (1e-3, 0.0), (1e-2, 0.0), (found.learning_rate, 0.9)]
    assert found.weight_decay in (0.0, 0.9)


def test_the_mean_of_the_last_quarter_is_kept(toys: Toys, tmp_path: Path) -> None:
    """Of eight epochs the last two; broken off between them, it is the same."""
    states = []
    for epochs in (7, 8):
        network = toy_network(toys.pixels)
        train(toys.setup(f"train.epochs={epochs}", network=network), 1e-2, 0.0)
        states.append([p.detach() for p in network.trainable.parameters()])
    settings = ("train.epochs=8", "train.keep=average")
    for work in (None, tmp_path):
        if work:
            broken = toy_network(toys.pixels)
            steps = iter(range(1000))

            def stop(*_: object, steps: Any = steps) -> None:
                if next(steps) == 7 * 7 + 3:
                    raise KeyboardInterrupt

            broken.trainable.register_forward_hook(stop)
            with pytest.raises(KeyboardInterrupt):
                train(toys.setup(*settings, work=work, network=broken), 1e-2, 0.0)
        network = toy_network(toys.pixels)
        train(toys.setup(*settings, work=work, network=network), 1e-2, 0.0)
        for one, other, kept in zip(*states, network.trainable.parameters(), strict=True):
            torch.testing.assert_close(kept.detach(), (one + other) / 2)


def test_long_gradients_are_shortened(toys: Toys) -> None:
    """One step of SGD moves the weights by the rate times the norm."""
    moved = {}
    for clip in (0.01, 1e9):
        network = toy_network(toys.pixels)
        before = nn.utils.parameters_to_vector(network.trainable.parameters()).detach().clone()
        setup = toys.setup("train.optimizer=sgd", "train.batch_size=40", f"train.clip={clip}", network=network)
        fit(setup.task(setup.splits.train), [setup.learner(network.trainable, 1.0, 0.0)], [setup.splits.train], int)
        moved[clip] = float((nn.utils.parameters_to_vector(network.trainable.parameters()) - before).detach().norm())
    assert moved[0.01] == pytest.approx(0.01, rel=1e-4)
    assert moved[1e9] > 0.05


def test_balanced_sampling_shows_each_class_as_often() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    drawn = balanced(np.arange(1000), labels, 0, 0)
    assert len(drawn) == 1000
    assert 440 < (labels[drawn] == 1).sum() < 560
    assert not (balanced(np.arange(1000), labels, 0, 1) == drawn).all()
