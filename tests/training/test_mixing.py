"""Mixed images, against the formulas and a plain loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.studies import QUICK
from thaw.compute.batches import Inputs
from thaw.compute.device import Compute
from thaw.errors import ModelError
from thaw.plan import make_plan
from thaw.recipe import load_recipe
from thaw.study import run_study
from thaw.training.loop import Learner, Task, first_step, fit
from thaw.training.mixing import make_mix

CPU = Compute(torch.device("cpu"), "fp32")
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 10, 3), np.uint8)
LABELS = torch.arange(24) % 3
ROWS = np.random.default_rng(1).permutation(24)


class Flat(nn.Module):
    """A linear layer on pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8 * 10 * 3, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(pixels.flatten(1) / 255)
        return logits


def mixed(kind: str, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    mix = make_mix(kind, 3)  # type: ignore[arg-type]
    assert mix is not None
    (pixels,), wanted = mix((torch.from_numpy(PIXELS[rows]),), LABELS[torch.from_numpy(rows)], rows)
    return pixels, wanted


def test_mixup_adds_an_image_and_the_one_before_it() -> None:
    pixels, wanted = mixed("mixup", ROWS)
    own, other = torch.from_numpy(PIXELS[ROWS]).float(), torch.from_numpy(PIXELS[np.roll(ROWS, 1)]).float()
    share = float(((pixels - other).flatten() @ (own - other).flatten()) / (own - other).square().sum())
    assert 0 < share < 1
    torch.testing.assert_close(pixels, share * own + (1 - share) * other, atol=1e-3, rtol=0)
    hot = functional.one_hot(LABELS, 3).float()
    torch.testing.assert_close(wanted, share * hot[ROWS] + (1 - share) * hot[np.roll(ROWS, 1)])


def test_cutmix_puts_in_a_rectangle() -> None:
    pixels, wanted = mixed("cutmix", ROWS[:8])
    own, other = torch.from_numpy(PIXELS[ROWS[:8]]).float(), torch.from_numpy(PIXELS[np.roll(ROWS[:8], 1)]).float()
    inside = (pixels != own).any(-1).any(0)
    tall, broad = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    part = (slice(None), slice(int(tall[0]), int(tall[-1]) + 1), slice(int(broad[0]), int(broad[-1]) + 1))
    expected = own.clone()
    expected[part] = other[part]
    torch.testing.assert_close(pixels, expected)
    share = 1 - len(tall) * len(broad) / 80
    hot = functional.one_hot(LABELS, 3).float()
    torch.testing.assert_close(wanted, share * hot[ROWS[:8]] + (1 - share) * hot[np.roll(ROWS[:8], 1)])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_what_is_drawn_depends_on_the_batch_alone(kind: str) -> None:
    state = torch.random.get_rng_state()
    first, _ = mixed(kind, ROWS)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    torch.testing.assert_close(mixed(kind, ROWS)[0], first, rtol=0, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_training_is_a_plain_loop_over_mixed_batches(weighted: bool) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5]) if weighted else None
    criterion = nn.CrossEntropyLoss(weights, label_smoothing=0.1)
    task = Task(None, Inputs((PIXELS,), CPU.device), LABELS, criterion, CPU, mix=make_mix("cutmix", 3))
    batches = [ROWS[:10], ROWS[10:20], ROWS[20:]]
    network, plain = Flat(), Flat()
    opening = first_step(task, network, batches[0])
    (history,) = fit(
        task, [Learner(network, torch.optim.SGD(network.parameters(), 0.1))], batches, lambda _: None, None, opening
    )
    optimizer, losses = torch.optim.SGD(plain.parameters(), 0.1), []
    for rows in batches:
        pixels, wanted = mixed("cutmix", rows)
        loss = criterion(plain(pixels), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(rows))
    np.testing.assert_allclose(history.losses, losses, rtol=1e-6)
    torch.testing.assert_close(network.head.weight, plain.head.weight)


def test_an_arm_that_mixes_trains_and_one_with_a_prefix_is_refused(class_folder: Path, tmp_path: Path) -> None:
    quick = (*QUICK, "arms.head=", "arms.last-stage=")
    recipe = load_recipe("photos", str(class_folder), (*quick, "arms.everything.training.mix=mixup"))
    plain = run_study(load_recipe("photos", str(class_folder), quick), tmp_path / "plain").arms["everything"]
    found = run_study(recipe, tmp_path / "mixed").arms["everything"]
    assert [epoch.loss for epoch in found.epochs] != [epoch.loss for epoch in plain.epochs]
    refused = load_recipe("photos", str(class_folder), (*QUICK, "train.mix=cutmix"))
    with pytest.raises(ModelError, match=r"^arm last-stage cannot mix images.*\[arms\.NAME\.training\]"):
        make_plan(refused, 2, 60, 32, CPU)
