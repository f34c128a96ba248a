"""What bounds each stage of the founding study: images a second, and the share of the machine's arithmetic it reaches.

    .venv/bin/python benchmarks/bounds.py

The bound is the rate of a large matrix product in the same precision. Stages run on random images, at batch 512.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thaw.compute import Compute, choose_compute, hold_frozen, set_layout
from thaw.data.batches import Inputs, consecutive
from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze
from thaw.nets.split import split
from thaw.nets.trunk import cut_trunk
from thaw.recipe import Train
from thaw.training.loop import fit, make_optimizer

BATCH = 512


def main() -> None:
    """Print a row for each stage and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    arguments = parser.parse_args()
    print(f"{'precision':<11}{'stage':<34}{'images/s':>10}{'GFLOP/s':>9}  of the matrix product")
    for precision in arguments.precisions:
        compute = choose_compute("cpu", precision)
        peak = matrix_product(compute)
        print(f"{precision:<11}{'matrix product, 4096 x 4096':<34}{'':>10}{peak / 1e9:>9.0f}")
        for stage, (speed, work) in stages(compute).items():
            print(f"{precision:<11}{stage:<34}{speed:>10.0f}{speed * work / 1e9:>9.0f}  {speed * work / peak:.0%}")


def matrix_product(compute: Compute) -> float:
    """Floating-point operations a second."""
    kind = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    one, other = torch.randn(4096, 4096, dtype=kind), torch.randn(4096, 4096, dtype=kind)
    return 2 * 4096**3 / seconds(lambda: one @ other, 5)


def stages(compute: Compute) -> dict[str, tuple[float, float]]:
    """By stage: images a second, and floating-point operations an image."""
    found = {}
    for arm, train in (("scratch", "all"), ("head", "head"), ("last-two-fc", ["classifier.4", "classifier.6"])):
        model, head = build_backbone("torchvision/alexnet", "random", 2, seed=0)
        freeze(model, head, train)
        images = torch.randn(BATCH, 3, 224, 224)
        parts = split(model, images[:2], "train")
        set_layout(model, channels_last=True)
        values: tuple[torch.Tensor, ...] = (images,)
        if parts.prefix is not None:
            with torch.inference_mode(), compute.autocast():
                values = parts.prefix(images)
                if arm == "head":
                    took = seconds(partial(parts.prefix, images), 3)
                    found["frozen convolutions, forward"] = (BATCH / took, 2.0 * parts.prefix_macs)
            values = tuple(value.clone() for value in values)
        trunk, tail = cut_trunk(parts.suffix)
        network = nn.ModuleList([*([trunk] if trunk else []), tail])
        work = operations(network, tuple(value[:2].float() for value in values)) / 2
        found[f"training step of {arm}"] = (BATCH / step_seconds(trunk, tail, values, compute), work)
    return found


def operations(network: nn.ModuleList, values: tuple[torch.Tensor, ...]) -> float:
    """Of forward and backward passes together."""
    with FlopCounterMode(display=False) as counter:
        for part in network:
            values = part(*values)
        torch.autograd.backward(torch.as_tensor(values).sum())
    return float(counter.get_total_flops())


def step_seconds(trunk: nn.Module | None, tail: nn.Module, values: tuple[torch.Tensor, ...], compute: Compute) -> float:
    """Of one optimiser step at batch 512, as the study runs it."""
    trunk = None if trunk is None else hold_frozen(trunk, compute)
    tail = hold_frozen(tail, compute)
    arrays = tuple((v.view(torch.uint16) if v.dtype == torch.bfloat16 else v).numpy() for v in values)
    inputs = Inputs(arrays, compute.device)
    optimizer = make_optimizer(Train(), [p for p in tail.parameters() if p.requires_grad], 1e-4)
    labels, batches = torch.zeros(BATCH, dtype=torch.int64), consecutive(np.arange(BATCH), BATCH)

    def step() -> None:
        fit(trunk, [tail], [optimizer], nn.CrossEntropyLoss(), inputs, labels, batches, compute, lambda _: None)

    return seconds(step, 3)


def seconds(run: Callable[[], object], times: int) -> float:
    """The fastest of several runs, after one that does not count."""
    run()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return min(taken)


if __name__ == "__main__":
    main()
