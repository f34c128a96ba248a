"""What a study keeps while it runs, so that the same command goes on from there: small results, and epochs."""

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

from thaw.cache.files import lock_or_wait, replacing, write_json, writing

Value = TypeVar("Value")


def cached_json(folder: Path, key: str, make: Callable[[], Value]) -> Value:
    """What `make` returned under `key` when it was first called, from `folder/KEY.json`, else made and kept now.

    The value is one that JSON holds exactly: numbers, text, lists and dicts with keys of text; no tuples, and no NaN
    (ValueError). `key` is a content key of everything that determines it. Two processes that want the same value wait
    for each other. Raises StorageError where the folder cannot be written.
    """
    path = folder / f"{key}.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_or_wait(folder / f"{key}.lock", "the same result"):
        try:
            value: Value = json.loads(path.read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, KeyError, TypeError):
            value = make()
            with writing(folder):
                write_json(path, {"value": value})
        return value


def save_state(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Keep tensors of any device, type and shape, and notes that JSON holds, in one safetensors file, atomically.

    Tensors may share memory; they are kept apart. Raises StorageError where the file cannot be written.
    """
    channels_last = [name for name, tensor in tensors.items() if _is_channels_last(tensor)]
    own = _apart(tensors)
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
    """The tensors, on the CPU and in the memory layout that they had, and notes of `save_state`.

    None where nothing is there, or what is there is not what was kept: the state is then to be made again.
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
    """The optimiser's state as named tensors, `PARAMETER.NAME`: its moments and step counts, not its settings."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, held in state.items() for name, value in held.items() if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser over the same parameters the state of `optimizer_tensors`; its settings stay."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, kind = name.partition(".")
        state.setdefault(int(index), {})[kind] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, each in memory of its own, copied only where they are not that already."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        storage = held.untyped_storage()
        apart[name] = held.clone() if storage.data_ptr() in taken or storage.nbytes() != held.nbytes else held
        taken.add(storage.data_ptr())
    return apart


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _digest(tensors: dict[str, Tensor], noted: str) -> str:
    """Of names, types, shapes and bytes; xxh3 finds accidents, at the speed of memory."""
    digest = xxhash.xxh3_128(noted.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
