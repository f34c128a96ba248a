"""Checkpoints: results and states are restored exactly, or computed again."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.cache import checkpoint
from thaw.cache.checkpoint import cached_json, load_state, optimizer_tensors, restore_optimizer, save_state
from thaw.errors import StorageError


def test_a_result_is_made_once(tmp_path: Path) -> None:
    value = {"accuracy": 0.1 + 0.2, "loss": 1e-300, "rows": [1, None, "näme"]}
    assert cached_json(tmp_path / "trials", "k", lambda: value) == value
    assert cached_json(tmp_path / "trials", "k", dict) == value
    assert cached_json(tmp_path / "trials", "other", lambda: 3) == 3


def test_a_result_that_failed_or_is_torn_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cached_json(tmp_path, "k", lambda: 1 / 0)
    with pytest.raises(ValueError, match="nan"):
        cached_json(tmp_path, "k", lambda: float("nan"))
    assert cached_json(tmp_path, "k", lambda: 1) == 1
    (tmp_path / "k.json").write_text('{"val')
    assert cached_json(tmp_path, "k", lambda: 2) == 2


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.rand(4, 6)
    tensors = {
        "convolution": torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "transposed": shared.t(),
        "tied": shared,
        "part": shared[1:3],
        "bf16": torch.rand(7).bfloat16(),
        "step": torch.tensor(3.0),
        "count": torch.tensor(9),
        "random": torch.get_rng_state(),
        "empty": torch.rand(0, 3),
    }
    save_state(tmp_path / "deep" / "state", tensors, {"epoch": 2, "table": [{"loss": 0.1}]})
    found = load_state(tmp_path / "deep" / "state")
    assert found is not None
    assert found[1] == {"epoch": 2, "table": [{"loss": 0.1}]}
    assert found[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[0][name], tensor)
        assert found[0][name].dtype == tensor.dtype
    assert found[0]["convolution"].stride() == tensors["convolution"].stride()


def test_a_state_that_is_not_what_was_kept_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert load_state(path) is None
    save_state(path, {"weight": torch.rand(64)}, {})
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:-1],
        whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        whole.replace(b"notes", b"nodes"),
    ):
        path.write_bytes(damaged)
        assert load_state(path) is None
    path.write_bytes(whole)
    assert load_state(path) is not None


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    save_state(path, {"weight": torch.zeros(3)}, {"epoch": 0})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match=r"not enough disk space .*12 bytes needed"):
        save_state(path, {"weight": torch.ones(3)}, {"epoch": 1})
    found = load_state(path)
    assert found is not None
    assert found[1] == {"epoch": 0}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(tmp_path: Path, kind: str) -> None:
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
        network.to(memory_format=torch.channels_last)
        optimizers = {
            "adam": lambda parameters: torch.optim.Adam(parameters, 1e-2, fused=True),
            "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-2, fused=True),
            "sgd": lambda parameters: torch.optim.SGD(parameters, 1e-2, momentum=0.9, fused=True),
        }
        return network, optimizers[kind](network.parameters())

    def epoch(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(network(images), torch.arange(8) % 2).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def state(network: nn.Module) -> dict[str, Tensor]:
        return {f"model.{name}": tensor for name, tensor in network.state_dict().items()}

    network, optimizer = start()
    epoch(network, optimizer)
    moments = {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(optimizer).items()}
    save_state(tmp_path / "epoch", state(network) | moments, {"epoch": 0})
    epoch(network, optimizer)

    resumed, again = start()
    found = load_state(tmp_path / "epoch")
    assert found is not None
    own = {name: tensor for name, tensor in found[0].items() if name.startswith("model.")}
    resumed.load_state_dict({name.removeprefix("model."): tensor for name, tensor in own.items()})
    held = {name.removeprefix("optimizer."): tensor for name, tensor in found[0].items() if name not in own}
    restore_optimizer(again, held)
    epoch(resumed, again)
    assert all(torch.equal(a, b) for a, b in zip(state(network).values(), state(resumed).values(), strict=True))
