"""Faster forms of the same network: a memory layout chosen by timing, and frozen weights stored in bf16."""

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
    """Return the network with its frozen linear and convolution weights stored in bf16, if it runs in bf16.

    Autocast would round them to the same values at every step.

    Parameters
    ----------
    network
        Not changed.
    compute
        The precision that it runs in.

    Returns
    -------
    Module
        A copy that shares everything else with `network`; `network` itself in fp32.
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
    """Set the memory layout of a network's convolutions, contiguous or channels last, to the faster one.

    The result of the timing is cached, so that the same study on the same machine always uses the same layout, and
    saved with the study. If the sample does not fit into memory, the layout stays contiguous.

    Parameters
    ----------
    network
        The network, which is changed.
    step
        Runs the network once on a sample.
    compute
        The device and precision that `step` uses.
    what
        A content key of network and sample, under which the result is cached.

    Returns
    -------
    bool
        True if the layout is channels last.
    """
    if not any(isinstance(module, CONVOLUTIONS) for module in network.modules()):
        return False
    if compute.device.type == "cpu" and any(map(_crashes_channels_last, network.modules())):
        set_layout(network, channels_last=False)
        return False

    def time_both() -> dict[str, Any]:
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

    def from_cache() -> dict[str, Any]:
        return cached_json(cache_folder() / "layouts", key, time_both)

    key = key_of(
        what=what,
        torch=torch.__version__,
        machine=[platform.machine(), platform.processor(), torch.get_num_threads()],
        compute=[str(compute.device), compute.precision],
    )
    timed = cached_json(compute.layouts, key, from_cache) if compute.layouts else from_cache()
    set_layout(network, timed["channels_last"])
    return bool(timed["channels_last"])


def set_layout(network: nn.Module, channels_last: bool) -> None:
    """Set the memory layout of 2D convolution weights and of the images; values do not change."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=layout)
        if isinstance(module, Normalise):
            module.channels_last = channels_last


def _crashes_channels_last(module: nn.Module) -> bool:
    """Return True if torch 2.14 crashes in channels last at this module's gradient on a CPU.

    oneDNN's AVX-512 kernel does so for strided 1 x 1 convolutions of at most 16 channels, which fastvit applies to
    pixels.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels <= 16
        and module.groups == 1
        and module.kernel_size == (1, 1)
        and max(map(int, module.stride)) > 1
    )


def _timed(step: Callable[[], object], compute: Compute) -> float:
    """Return the seconds of a step; on a CPU its processor time, which other processes do not affect."""
    clock = time.process_time if compute.device.type == "cpu" else time.perf_counter
    compute.wait()
    start = clock()
    step()
    compute.wait()
    return clock() - start
