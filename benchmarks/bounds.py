"""What bounds each stage of the founding study: images a second, and the share of the machine's arithmetic it reaches.

    .venv/bin/python benchmarks/bounds.py

The bound is the rate of a large matrix product in the same precision. Stages run on random images, at batch 512.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thaw.compute.batches import consecutive, make_inputs
from thaw.compute.device import Compute, choose_compute
from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze, set_mode
from thaw.nets.layout import hold_frozen, set_layout
from thaw.nets.prefix.middle import split_middle
from thaw.nets.prefix.observe import macs
from thaw.nets.prefix.split import split
from thaw.recipe import Train
from thaw.training.loop import Learner, Task, fit, make_optimizer

BATCH = 512
ARMS: dict[str, str | list[str]] = {"scratch": "all", "head": "head", "last-two-fc": ["classifier.4", "classifier.6"]}
Values = tuple[torch.Tensor, ...]


def main() -> None:
    """Print a row for each stage and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"{'precision':<11}{'stage':<34}{'images/s':>10}{'GFLOP/s':>9}  of the matrix product")
    for precision in arguments.precisions:
        compute = choose_compute(arguments.device, precision)
        peak = matrix_product(compute)
        print(f"{precision:<11}{'matrix product, 4096 x 4096':<34}{'':>10}{peak / 1e9:>9.0f}")
        for stage, (speed, work) in stages(compute).items():
            print(f"{precision:<11}{stage:<34}{speed:>10.0f}{speed * work / 1e9:>9.0f}  {speed * work / peak:.0%}")


def matrix_product(compute: Compute) -> float:
    """Floating-point operations a second."""
    kind = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    one, other = (torch.randn(4096, 4096, dtype=kind, device=compute.device) for _ in range(2))
    return 2 * 4096**3 / seconds(lambda: one @ other, 5, compute)


def stages(compute: Compute) -> dict[str, tuple[float, float]]:
    """By stage: images a second, and floating-point operations an image."""
    found = {}
    for arm in ARMS:
        prefix, middle, trainable, values = parts_of(arm, compute)
        if prefix is not None and arm == "head":
            found["frozen convolutions, forward"] = (
                forward_speed(prefix, compute),
                2.0 * operations_of(prefix, compute),
            )
        network = nn.ModuleList([*([middle] if middle else []), trainable])
        work = operations(network, tuple(value[:2].float() for value in values)) / 2
        found[f"training step of {arm}"] = (
            BATCH / seconds(step_of(middle, trainable, values, compute), 3, compute),
            work,
        )
    return found


def parts_of(arm: str, compute: Compute) -> tuple[nn.Module | None, nn.Module | None, nn.Module, Values]:
    """Of an arm of the founding study: prefix, middle, trainable part and, for a batch of random images, what enters
    the last two of these."""
    model, head = build_backbone("torchvision/alexnet", "random", 2, seed=0)
    freeze(model, head, ARMS[arm])
    model.to(compute.device)
    images = random_images(compute)
    set_mode(model, "train")
    parts = split(model, images[:2])
    set_layout(model, channels_last=True)
    values: Values = (images,)
    if parts.prefix is not None:
        with torch.inference_mode(), compute.autocast():
            values = parts.prefix(images)
        values = tuple(value.clone() for value in values)
    return parts.prefix, *split_middle(parts.suffix), values


def random_images(compute: Compute) -> torch.Tensor:
    """One batch."""
    return torch.randn(BATCH, 3, 224, 224, device=compute.device)


def forward_speed(prefix: nn.Module, compute: Compute) -> float:
    """Images a second through a frozen prefix."""
    images = random_images(compute)
    with torch.inference_mode(), compute.autocast():
        return BATCH / seconds(lambda: prefix(images), 3, compute)


def operations_of(prefix: nn.Module, compute: Compute) -> float:
    """Multiply-adds of a frozen prefix for one image."""
    with torch.inference_mode():
        return float(macs(prefix, random_images(compute)[:2]))


def operations(network: nn.ModuleList, values: tuple[torch.Tensor, ...]) -> float:
    """Of forward and backward passes together."""
    with FlopCounterMode(display=False) as counter:
        for part in network:
            values = part(*values)
        torch.autograd.backward(torch.as_tensor(values).sum())
    return float(counter.get_total_flops())


def step_of(middle: nn.Module | None, trainable: nn.Module, values: Values, compute: Compute) -> Callable[[], object]:
    """One optimiser step at batch 512, as the study runs it."""
    middle = None if middle is None else hold_frozen(middle, compute)
    trainable = hold_frozen(trainable, compute)
    arrays = tuple((v.view(torch.uint16) if v.dtype == torch.bfloat16 else v).cpu().numpy() for v in values)
    inputs = make_inputs(arrays, compute.device)
    optimizer = make_optimizer(Train(), [p for p in trainable.parameters() if p.requires_grad], 1e-4)
    labels, batches = torch.zeros(BATCH, dtype=torch.int64, device=compute.device), consecutive(np.arange(BATCH), BATCH)
    task = Task(middle, inputs, labels, nn.CrossEntropyLoss(), compute)

    def step() -> None:
        fit(task, [Learner(trainable, optimizer)], batches, lambda _: None)

    return step


def seconds(run: Callable[[], object], times: int, compute: Compute) -> float:
    """The fastest of several runs, after one that does not count."""
    run()
    taken = []
    for _ in range(times):
        compute.wait()
        begun = time.perf_counter()
        run()
        compute.wait()
        taken.append(time.perf_counter() - begun)
    return min(taken)


if __name__ == "__main__":
    main()
