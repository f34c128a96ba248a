"""Probes at every depth: each sees what a cut network's head would, and the whole network's is scikit-learn's ridge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.images.preprocessing import Normalise
from thaw.nets.backbones import build_backbone
from thaw.nets.cut import cut
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.training.depths import Labels, Probe, probe_depths
from thaw.training.ridge import fit_ridge

BACKBONE = "timm/test_resnet"
SETTINGS = (
    *("images.size=96", f"model.backbone={BACKBONE}", "model.weights=random"),
    *("data.validation=10", "data.test=10", "train.precision=fp32"),
)


def test_probes_see_what_a_head_there_would(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = choose_compute("cpu", "fp32")
    dataset = load_dataset(load_recipe("photos", str(class_folder), (*SETTLED, *SETTINGS)), compute, Clock())
    rows = np.union1d(dataset.splits.train, dataset.splits.validation)
    codes = dataset.source.labels[rows]
    labels = Labels(codes, 2, None)
    model, head = build_backbone(BACKBONE, "random", 2, seed=0)
    model.eval()

    def probes() -> list[Probe]:
        images = (dataset.pixels, rows, "all of these")
        return probe_depths(model, head, images, labels, dataset.preprocessing, compute)

    found = probes()
    assert found[-1].at is None
    pixels = Normalise(dataset.preprocessing)(next(dataset.pixels.batches([rows]))[0])
    for probe in found:
        short, name = build_backbone(BACKBONE, "random", 2, seed=0)
        if probe.at is not None:
            cut(short, name, probe.at, probe.grid, 160)
            assert probe.parameters == sum(parameter.numel() for parameter in short.parameters())
        entered: list[torch.Tensor] = []
        short.eval().get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, entered=entered: entered.append(inputs[0])
        )
        with torch.no_grad():
            short(pixels)
        features = entered[0].double().numpy()
        deviation = features.std(0)
        values = (features - features.mean(0)) / np.where(deviation > 1e-9, deviation, np.inf)
        fit = fit_ridge(features, codes, 2)
        right = [
            Ridge(alpha=fit.penalty)
            .fit(np.delete(values, out, 0), np.eye(2)[np.delete(codes, out)])
            .predict(values[[out]])
            .argmax()
            == codes[out]
            for out in range(len(rows))
        ]
        assert probe.accuracy == pytest.approx(np.mean(right), abs=1.5 / len(rows))
        assert probe.interval[0] <= probe.accuracy <= probe.interval[1]
    times = [probe.milliseconds for probe in found]
    assert times == sorted(times)
    ran: list[str] = []
    monkeypatch.setattr("thaw.training.depths.consecutive", lambda *_: ran.append("again"))
    assert [probe.error for probe in probes()] == [probe.error for probe in found]
    assert not ran
