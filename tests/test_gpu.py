"""On a CUDA device: the same study as on the CPU, caches and pixels living on the device, bf16 by default."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from torch import nn

import thaw as package
from helpers.images import encoded_image
from helpers.small_bundle import small_bundle
from helpers.studies import QUICK, SETTLED, break_off, metrics_of, study
from thaw.compute.batches import Inputs, consecutive, make_inputs
from thaw.compute.device import Compute, choose_compute
from thaw.data.duplicates import outlines
from thaw.data.load import load_dataset
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.serve.app import make_app
from thaw.serve.desk import Desk
from thaw.training.loop import Learner, Task, fit, logits_of, make_optimizer

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
CUDA = torch.device(DEVICE)


def studied(monkeypatch: pytest.MonkeyPatch, source: Path, run: Path, *settings: str) -> dict[str, Any]:
    """The arms of a quick study on the device."""
    wanted = (*QUICK, f"train.device={DEVICE}", *settings)
    assert study(monkeypatch, source, "--out", run, settings=wanted) == 0
    return metrics_of(run)["arms"]


def losses(arms: dict[str, Any]) -> list[float]:
    return [epoch["loss"] for arm in arms.values() for epoch in arm["epochs"]]


def test_a_study_in_fp32_learns_what_it_learns_on_the_cpu(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = studied(monkeypatch, class_folder, tmp_path / "there")
    here = studied(monkeypatch, class_folder, tmp_path / "here", "train.device=cpu")
    assert losses(there) == pytest.approx(losses(here), abs=0.02)


def test_caches_change_no_loss(class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = ("search.learning_rates=[1e-4]", "train.epochs=1", "train.batch_size=16")
    found = {
        caches: studied(monkeypatch, class_folder, tmp_path / caches, *calm, f"cache.activations={caches}")
        for caches in ("auto", "off")
    }
    assert losses(found["auto"]) == pytest.approx(losses(found["off"]), abs=1e-5)
    for arm, there in found["auto"].items():
        assert there["test"]["confusion"] == found["off"][arm]["test"]["confusion"]


def test_a_study_in_bf16_learns_too(class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = studied(monkeypatch, class_folder, tmp_path / "run", "train.precision=bf16", "train.epochs=4")
    assert {arm["precision"] for arm in found.values()} == {"bf16"}
    for arm in found.values():
        assert arm["epochs"][-1]["loss"] < arm["epochs"][0]["loss"]


def test_a_study_that_is_stopped_goes_on_where_it_was(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = studied(monkeypatch, class_folder, tmp_path / "whole")
    run, epochs = tmp_path / "broken", break_off(monkeypatch, 4)
    settings = (*QUICK, f"train.device={DEVICE}")
    assert study(monkeypatch, class_folder, "--out", run, settings=settings) == 130
    assert losses(studied(monkeypatch, class_folder, run)) == pytest.approx(losses(whole), abs=1e-3)
    assert len(epochs) == 4 + len(losses(whole)) - 3


def test_a_batch_that_the_memory_does_not_hold_is_computed_in_halves() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2)]
    network, compute = nn.Sequential(*layers).to(CUDA), Compute(CUDA, "fp32")
    pixels = np.random.default_rng(0).random((128, 3, 224, 224), dtype=np.float32)
    inputs, batches = Inputs((pixels,), CUDA), consecutive(np.arange(128), 128)
    labels, start = torch.arange(128, device=CUDA) % 2, [p.detach().clone() for p in network.parameters()]
    ends = []
    total = torch.cuda.get_device_properties(CUDA).total_memory
    try:
        # the convolution's output of 128 images takes 1.5 GiB, and its gradient as much
        for share in (1.0, (2 << 30) / total):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)
            with torch.no_grad():
                for parameter, value in zip(network.parameters(), start, strict=True):
                    parameter.copy_(value)
            optimizer = make_optimizer(load_recipe("photos", ".", SETTLED).train, list(network.parameters()), 1e-3)
            criterion = nn.CrossEntropyLoss()
            task = Task(None, inputs, labels, criterion, compute)
            (history,) = fit(task, [Learner(network, optimizer)], batches, lambda _: None)
            ends.append((history.losses[0], logits_of(network, inputs, batches, compute)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-4)
    torch.testing.assert_close(ends[1][1], ends[0][1], atol=5e-3, rtol=0)


def test_auto_takes_the_device_and_bf16() -> None:
    compute = choose_compute("auto", "auto")
    assert compute.device.type == DEVICE
    assert compute.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")


def test_fp32_products_are_exact() -> None:
    choose_compute(DEVICE, "fp32")
    one, kernel = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3)
    exact = nn.functional.conv2d(one.double(), kernel.double())
    found = nn.functional.conv2d(one.to(CUDA), kernel.to(CUDA)).cpu().double()
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5


def test_arrays_that_fit_live_on_the_device(class_folder: Path) -> None:
    recipe = load_recipe(
        "photos",
        str(class_folder),
        (
            *SETTLED,
            "images.size=32",
        ),
    )
    compute = choose_compute(DEVICE, "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    (resident,) = dataset.pixels.resident
    assert resident.device.type == DEVICE
    rows = dataset.splits.test
    (batch,) = next(dataset.pixels.batches([rows]))
    (expected,) = next(make_inputs(dataset.pixels.arrays, torch.device("cpu"), dataset.pixels.index).batches([rows]))
    assert torch.equal(batch.cpu(), expected)


def test_fast_decoding_gives_the_pixels_of_the_cpu(tmp_path: Path) -> None:
    for seed in range(12):
        folder, buffer = tmp_path / "pictures" / ("a", "b")[seed % 2], io.BytesIO()
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(encoded_image(seed, seed % 2, side=400))).save(buffer, "JPEG")
        (folder / f"{seed}.jpg").write_bytes(buffer.getvalue())
    settings = ("images.size=64", "images.decode=fast", "data.validation=2", "data.test=2")
    recipe = load_recipe("photos", str(tmp_path / "pictures"), settings)
    there, here = (load_dataset(recipe, choose_compute(device, "fp32"), Clock()) for device in (DEVICE, "cpu"))
    assert there.key == here.key
    (one,), (other,) = (next(dataset.pixels.batches([np.arange(12)])) for dataset in (there, here))
    assert torch.equal(one.cpu(), other)


def test_outlines_are_those_of_the_cpu() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8))
    for one, other in zip(outlines(pixels.to(CUDA)), outlines(pixels), strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), atol=1e-4)


def test_a_bundle_predicts_and_serves_on_the_device(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "bundle")
    pictures = [encoded_image(seed, seed % 2) for seed in range(10)]
    expected = package.load(folder, "cpu", "fp32").predict_proba(pictures)
    np.testing.assert_allclose(package.load(folder, DEVICE, "fp32").predict_proba(pictures), expected, atol=1e-4)
    np.testing.assert_allclose(package.load(folder, DEVICE, "auto").predict_proba(pictures), expected, atol=5e-2)
    asked = TestClient(make_app(Desk(folder), ["localhost"]), "http://localhost")
    told = asked.post("/api/predict", content=pictures[0]).json()
    shares = {one["name"]: one["probability"] for one in told["probabilities"]}
    assert [shares["left"], shares["right"]] == pytest.approx(expected[0].tolist(), abs=5e-2)
    assert told["heat"]
