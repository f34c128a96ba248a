"""The memory layout of a network's convolutions, chosen by a trial, and its frozen weights held in bf16."""

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from thaw.cache.arrays import key_of
from thaw.cache.budget import cache_folder
from thaw.cache.checkpoint import cached_json
from thaw.compute.device import Compute
from thaw.errors import out_of_memory
from thaw.images.preprocessing import Normalise
from thaw.nets.prefix.trace import twin

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def hold_frozen(network: nn.Module, compute: Compute) -> nn.Module:
    """The network with its frozen linear and convolution weights held in bf16, where it runs in bf16.

    Autocast would round them to the same values anew at every step. Everything else is shared with `network`.
    """
    if compute.precision == "fp32":
        return network
    held = twin(network)
    for module in held.modules():
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not any(p.requires_grad for p in module.parameters()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().bfloat16(), requires_grad=False))
    return held


def choose_layout(network: nn.Module, step: Callable[[], object], compute: Compute, what: str) -> bool:
    """Bring the convolutions of `network` into the memory layout, contiguous or channels last, that runs faster.

    Returns whether they are channels last. `step` runs the network once on a sample. The outcome of the trial is kept
    in the cache under `what`, so that the same study on the same machine always computes in the same layout, and in the
    study's own notes. Where the memory does not hold the sample, they stay contiguous.
    """
    if not any(isinstance(module, CONVOLUTIONS) for module in network.modules()):
        return False
    if compute.device.type == "cpu" and any(map(_crashes_channels_last, network.modules())):
        set_layout(network, channels_last=False)
        return False

    def trial() -> dict[str, Any]:
        seconds = {False: float("inf"), True: float("inf")}
        try:
            for _ in range(2):  # the first warms up
                for channels_last in seconds:
                    set_layout(network, channels_last)
                    seconds[channels_last] = min(seconds[channels_last], _timed(step, compute))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return {"channels_last": False, "what": what, "seconds": None}
        faster = seconds[True] < seconds[False] * 1.1
        return {"channels_last": faster, "what": what, "seconds": [seconds[False], seconds[True]]}

    def of_machine() -> dict[str, Any]:
        return cached_json(cache_folder() / "layouts", key, trial)

    key = key_of(
        what=what,
        torch=torch.__version__,
        machine=[platform.machine(), platform.processor(), torch.get_num_threads()],
        compute=[str(compute.device), compute.precision],
    )
    found = cached_json(compute.layouts, key, of_machine) if compute.layouts else of_machine()
    set_layout(network, found["channels_last"])
    return bool(found["channels_last"])


def set_layout(network: nn.Module, channels_last: bool) -> None:
    """Bring the weights of two-dimensional convolutions, and the images, into a memory layout; their values stay."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=layout)
        if isinstance(module, Normalise):
            module.channels_last = channels_last


def _crashes_channels_last(module: nn.Module) -> bool:
    """Whether torch 2.14 ends the process, by oneDNN's kernel for AVX-512, at this module's gradient on a CPU.

    Strided 1 x 1 convolutions of at most 16 channels do it, which fastvit applies to pixels.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels <= 16
        and module.groups == 1
        and module.kernel_size == (1, 1)
        and max(map(int, module.stride)) > 1
    )


def _timed(step: Callable[[], object], compute: Compute) -> float:
    """Seconds of a step; on a CPU those that it computed, whatever else the machine does."""
    clock = time.process_time if compute.device.type == "cpu" else time.perf_counter
    compute.wait()
    start = clock()
    step()
    compute.wait()
    return clock() - start
