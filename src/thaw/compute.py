"""Where and in which precision a network runs: device, bf16 or fp32, and the memory layout of its convolutions."""

import contextlib
import ctypes
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thaw.checkpoint import remember
from thaw.errors import RecipeError, out_of_memory
from thaw.eviction import cache_folder
from thaw.images.preprocessing import Normalise
from thaw.nets.graph import twin
from thaw.store import key_of

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Compute:
    """A device, and `fp32` or `bf16`."""

    device: torch.device
    precision: str
    layouts: Path | None = None
    """Where a study notes its memory layouts, to go on in them whatever becomes of the cache."""

    def autocast(self) -> torch.autocast:
        """bf16 where the operation gains from it; a null context in fp32. The loss is outside, in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def seed(self, seed: int) -> None:
        """Start the random numbers of dropout anew."""
        torch.manual_seed(seed)

    def wait(self) -> None:
        """Until all that was begun on the device is done."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()

    def random_state(self) -> Tensor:
        """The state of the device's random numbers."""
        return random_state(self.device)

    def set_random_state(self, state: Tensor) -> None:
        """Return to a state of `random_state`."""
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)
        elif self.device.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.set_rng_state(state)


def choose_compute(device: str, precision: str) -> Compute:
    """Resolve `auto`. Raises RecipeError for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(name for name, is_there in there.items() if is_there) if device == "auto" else device
    if not there[chosen]:
        raise RecipeError(f"train.device = {device!r} is not there on this machine; set it to 'auto' or 'cpu'.")
    if precision == "auto":
        precision = "bf16" if _has_bf16(chosen) else "fp32"
    if chosen == "cpu":
        _keep_freed_memory()
    if chosen == "cuda":
        exact_fp32()
    return Compute(torch.device(chosen), precision)


def random_state(device: torch.device) -> Tensor:
    """The state of a device's random numbers; nothing that runs there is waited for."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def exact_fp32() -> None:
    """Have CUDA multiply fp32 as fp32: cuDNN's convolutions would else round what they multiply to TF32's 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _keep_freed_memory() -> None:
    """Have glibc keep what a training step frees for the next one, instead of giving it back to the system.

    The pages of large tensors would else be mapped and cleared anew at every step, a quarter of the time of training
    AlexNet. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_TOP_PAD, 256 << 20)


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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
        return remember(cache_folder() / "layouts", key, trial)

    key = key_of(
        what=what,
        torch=torch.__version__,
        machine=[platform.machine(), platform.processor(), torch.get_num_threads()],
        compute=[str(compute.device), compute.precision],
    )
    found = remember(compute.layouts, key, of_machine) if compute.layouts else of_machine()
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
