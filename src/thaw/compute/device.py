"""Where and in which precision a network runs: device, bf16 or fp32, and the memory layout of its convolutions."""

import contextlib
import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thaw.errors import RecipeError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


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
    """Resolve `auto`, and set torch and the memory allocator up for the device.

    Parameters
    ----------
    device
        `auto`, `cpu`, `cuda` or `mps`; `auto` is the first of CUDA, MPS and CPU that is available.
    precision
        `auto`, `fp32` or `bf16`; `auto` is bf16 where the hardware supports it natively.

    Raises
    ------
    RecipeError
        The device is not there.
    """
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
