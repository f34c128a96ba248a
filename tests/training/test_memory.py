"""Memory that runs out: a batch is then computed in halves, the same step but for rounding; else one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.cli import thaw
from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.data.source import Source
from thaw.errors import DataError, out_of_memory
from thaw.images import decode
from thaw.progress import Clock
from thaw.recipe import load_recipe

SHORT_OF_MEMORY = """
import re
import resource

import numpy as np
import torch
from torch import nn

from thaw.compute.batches import make_inputs
from thaw.compute.device import choose_compute
from thaw.nets.backbones import build_backbone
from thaw.recipe import Train
from thaw.training.loop import Learner, Task, fit, make_optimizer

IMAGES = 16
pixels = np.random.default_rng(0).random((IMAGES, 3, 224, 224), dtype=np.float32)
compute = choose_compute("cpu", "fp32")


def step(count):
    model, _ = build_backbone("timm/vit_tiny_patch16_224", "random", 2, seed=0)
    optimizer = make_optimizer(Train(optimizer="sgd"), list(model.parameters()), 1e-2)
    labels, inputs = torch.arange(IMAGES) % 2, make_inputs((pixels,), compute.device)
    task = Task(None, inputs, labels, nn.CrossEntropyLoss(), compute)
    (curve,) = fit(task, [Learner(model, optimizer)], [np.arange(count)], lambda _: None)
    return float(curve.losses[0]), torch.cat([p.detach().flatten() for p in model.parameters()])


def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


_, small = step(2)  # libraries set themselves up
held = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
limit(held + (150 << 20))
loss, halved = step(IMAGES)
limit(resource.RLIM_INFINITY)
expected_loss, whole = step(IMAGES)
print(abs(loss - expected_loss) / IMAGES, float((halved - whole).abs().max()), float((small - whole).abs().max()))
"""
"""A step of a real network that needs some 500 MiB, once with 150 MiB beyond what is held, once with all there is."""


@pytest.mark.slow
def test_a_batch_that_the_memory_does_not_hold_is_the_same_step_in_halves() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert "the memory does not hold a batch of 16 images; its gradient is computed in 2 pieces" in ended.stderr
    of_loss, of_step, of_another_step = map(float, ended.stdout.split())
    assert of_loss < 1e-6
    assert of_step < 1e-6 < 1e-4 < of_another_step


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 9.00 GiB."),
        RuntimeError("could not create a primitive"),
    ],
)
def test_a_want_of_memory_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise error

    assert out_of_memory(error)
    monkeypatch.setattr("thaw.study.run_study", fails)
    assert thaw(monkeypatch, "study", "--recipe", "emoji-people") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("thaw: there is not enough memory (")
    assert "close other programs and run the same command again to resume" in line


def test_a_picture_that_the_memory_does_not_hold_is_not_kept_as_a_bad_one(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> Source:
        recipe = load_recipe("photos", str(class_folder), (*SETTLED, "images.size=16", "train.device=cpu"))
        return load_dataset(recipe, choose_compute("cpu", "fp32"), Clock()).source

    with monkeypatch.context() as short:
        short.setattr(decode, "upright_rgb", lambda *_: bytearray(1 << 62))
        with pytest.raises(DataError, match=r"not enough memory to decode the image '(left|right)/\d+.png'; close"):
            load()
    assert len(load().ids) == 60
