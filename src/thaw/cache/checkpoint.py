"""Checkpoints of a running study, from which the same command resumes: small results as JSON, and training state."""

import contextlib
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thaw.cache.files import is_read_only, lock_or_wait, replacing, write_json, writing

Value = TypeVar("Value")


def cached_json(folder: Path, key: str, make: Callable[[], Value]) -> Value:
    """Return the value in `folder/KEY.json`, or call `make` and save its value there.

    Two processes that want the same value wait for each other. A value that may only be read is read without a lock.

    Parameters
    ----------
    folder
        The folder of the file; created if needed.
    key
        A content key of everything that determines the value, see `cache.arrays.key_of`.
    make
        Returns the value, which JSON must represent exactly: numbers, strings, lists, and dicts with string keys, but
        no tuples.

    Raises
    ------
    ValueError
        If the value contains NaN or infinity.
    StorageError
        If the folder cannot be written.
    """
    path = folder / f"{key}.json"

    def found() -> Value:
        value: Value = json.loads(path.read_text(encoding="utf-8"))["value"]
        return value

    unreadable = (OSError, ValueError, KeyError, TypeError)
    if is_read_only(folder):
        with contextlib.suppress(*unreadable):
            return found()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_or_wait(folder / f"{key}.lock", "the same result"):
        try:
            return found()
        except unreadable:
            value = make()
            with writing(folder):
                write_json(path, {"value": value})
            return value


def save_state(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Save tensors and notes in one safetensors file, atomically.

    Parameters
    ----------
    path
        The file; its folder is created if needed.
    tensors
        Tensors of any device, dtype and shape. Those that share memory are saved as copies.
    notes
        Anything that JSON can represent.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    channels_last = [name for name, tensor in tensors.items() if _is_channels_last(tensor)]
    own = unshared(tensors)
    noted = json.dumps({"notes": notes, "channels_last": channels_last}, allow_nan=False)
    with writing(path.parent, sum(tensor.nbytes for tensor in own.values())):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            try:
                save_file(own, temporary, {"thaw": noted, "digest": _digest(own, noted)})
            except SafetensorError as error:
                full = "os error 28" in str(error)
                raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load the tensors and notes of `save_state`, on the CPU and in the memory layout that the tensors had.

    Returns None if the file is missing, unreadable or does not match its digest.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata["digest"] != _digest(tensors, metadata["thaw"]):
            return None
        noted = json.loads(metadata["thaw"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    for name in noted["channels_last"]:
        tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    return tensors, noted["notes"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as tensors named `PARAMETER.NAME`: moments and step counts, not settings."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, held in state.items() for name, value in held.items() if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load a state of `optimizer_tensors` into an optimiser over the same parameters; its settings stay."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, kind = name.partition(".")
        state.setdefault(int(index), {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, each in memory of its own as safetensors wants it; copied where needed."""
    taken: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        storage = held.untyped_storage()
        unshared[name] = held.clone() if storage.data_ptr() in taken or storage.nbytes() != held.nbytes else held
        taken.add(storage.data_ptr())
    return unshared


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _digest(tensors: dict[str, Tensor], noted: str) -> str:
    """Return a digest of names, dtypes, shapes and bytes; xxh3 detects accidental damage at the speed of memory."""
    digest = xxhash.xxh3_128(noted.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
