"""On a CUDA device: the same study as on the CPU, caches and pixels living on the device, bf16 by default."""

from pathlib import Path

import pytest
import torch

from test_study import QUICK, metrics_of, thaw
from thaw.compute import choose_compute
from thaw.data.batches import make_inputs
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.study import load_dataset

pytestmark = pytest.mark.gpu


def test_a_study_in_fp32_learns_what_it_learns_on_the_cpu(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        run = tmp_path / device
        assert thaw(monkeypatch, "study", class_folder, "--out", run, settings=(*QUICK, f"train.device={device}")) == 0
        found[device] = metrics_of(run)["arms"]
    for name in ("head", "last-stage"):
        for one, other in zip(found["cuda"][name]["epochs"], found["cpu"][name]["epochs"], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=0.02)


def test_auto_takes_the_device_and_bf16() -> None:
    compute = choose_compute("auto", "auto")
    assert compute.device.type == "cuda"
    assert compute.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")


def test_arrays_that_fit_live_on_the_device(class_folder: Path) -> None:
    recipe = load_recipe("photos", str(class_folder), ("images.size=32",))
    compute = choose_compute("cuda", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    (resident,) = dataset.pixels.resident
    assert resident.device.type == "cuda"
    rows = dataset.splits.test
    (batch,) = next(dataset.pixels.batches([rows]))
    (expected,) = next(make_inputs(dataset.pixels.arrays, torch.device("cpu"), dataset.pixels.index).batches([rows]))
    assert torch.equal(batch.cpu(), expected)
