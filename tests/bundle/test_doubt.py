"""What bundles say besides probabilities: equal to loops written out, in Python, on the command line, in ONNX."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import thaw
from helpers.images import encoded_image
from helpers.small_bundle import CLASSES, small_config
from thaw.bundle.save import save_bundle
from thaw.cli.app import cli
from thaw.errors import BundleError
from thaw.export import onnx, quantise
from thaw.export.export import export_bundle
from thaw.export.graph import FromSquares, ToSquares, outputs
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.nets.backbones import build_backbone
from thaw.nets.weights import sha256
from thaw.scoring.unlike import Subspace

FLOORS, THRESHOLD, FAR = [0.45, 0.5], 0.4, 0.6


def doubtful(folder: Path, **changes: Any) -> Path:
    """A bundle of an untrained network that says everything, its answers spread over the thresholds."""
    model, head = build_backbone("timm/test_resnet", "random", 2, seed=3)
    width = model.get_submodule(head).in_features
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(width, 4)))[0].astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([pixels_of(content) for content in pictures(12)]))
        config = small_config(test_views=2)
        normalise = Normalise(Preprocessing(**config["preprocessing"]))
        logits = model.eval()(normalise(pixels))
        layer = model.get_submodule(head)
        scale = 1.5 / logits.std(0).mean()
        layer.weight.mul_(scale)
        layer.bias.add_(scale * (layer.bias - logits.mean(0)) - layer.bias)
    subspace = Subspace(random.normal(size=width).astype(np.float32) / width, basis)
    save_bundle(folder, model, config, subspace)
    config = json.loads((folder / "config.json").read_text())
    config["decide"] = {
        "coverage": 0.9,
        "by_class": True,
        "floors": FLOORS,
        "positive": "right",
        "threshold": THRESHOLD,
    }
    config["unlike"] = {
        "threshold": FAR,
        "false_alarms": 0.05,
        "sha256": sha256(folder / "unlike.safetensors"),
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def pictures(count: int) -> list[bytes]:
    return [encoded_image(index, index % 2, side=32, kind="PNG") for index in range(count)]


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def by_hand(bundle: thaw.Bundle, pixels: NDArray[np.uint8]) -> tuple[list[list[bool]], list[int], list[float]]:
    """Sets, decisions and distances over the threshold, image by image, from the definitions."""
    probabilities = bundle.predict_proba(pixels)
    entered: list[torch.Tensor] = []
    hook = bundle.model.get_submodule(bundle.head).register_forward_pre_hook(lambda _, taken: entered.append(taken[0]))
    with torch.no_grad():
        bundle.model(Normalise(bundle.preprocessing)(torch.from_numpy(pixels)))
    hook.remove()
    features = entered[0].double().numpy()
    assert bundle.doubt is not None
    assert bundle.doubt.mean is not None
    assert bundle.doubt.basis is not None
    mean, basis = bundle.doubt.mean.double().numpy(), bundle.doubt.basis.double().numpy()
    sets, decided, unlike = [], [], []
    for row, own in zip(probabilities, features, strict=True):
        sets.append([bool(p >= floor) for p, floor in zip(row, FLOORS, strict=True)])
        decided.append(1 if row[1] >= THRESHOLD else 0)
        away = own / np.sqrt((own**2).sum()) - mean
        rest = away - basis @ (basis.T @ away)
        unlike.append(float((rest**2).sum() / FAR))
    return sets, decided, unlike


def test_a_bundle_says_what_the_definitions_say(tmp_path: Path) -> None:
    bundle = thaw.load(doubtful(tmp_path / "b"), precision="fp32")
    pixels = np.stack([pixels_of(content) for content in pictures(12)])
    answers = bundle.answer(pixels)
    sets, decided, unlike = by_hand(bundle, pixels)
    assert answers.sets is not None
    assert answers.decided is not None
    assert answers.sets.tolist() == sets
    assert answers.decided.tolist() == decided
    assert answers.unlike == pytest.approx(unlike, rel=1e-4)
    assert 0 < answers.sets.mean() < 1
    assert len(set(decided)) == 2
    assert any(one != label for one, label in zip(decided, answers.probabilities.argmax(1), strict=True))
    assert np.array_equal(bundle.predict_proba(pixels), answers.probabilities)
    assert bundle.answer([]).probabilities.shape == (0, 2)


def test_the_probabilities_are_those_of_a_bundle_that_says_nothing_else(tmp_path: Path) -> None:
    told = thaw.load(doubtful(tmp_path / "b"), precision="fp32")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    plain = {name: value for name, value in config.items() if name not in ("decide", "unlike")}
    (tmp_path / "b" / "config.json").write_text(json.dumps(plain))
    silent = thaw.load(tmp_path / "b", precision="fp32")
    assert silent.doubt is None
    assert np.array_equal(silent.predict_proba(pictures(6)), told.predict_proba(pictures(6)))
    assert silent.answer(pictures(2)).sets is None


@pytest.mark.parametrize("views", [1, 2])
def test_onnx_says_the_same(views: int, tmp_path: Path) -> None:
    folder = doubtful(tmp_path / "b", test_views=views)
    bundle = thaw.load(folder, precision="fp32")
    exported = export_bundle(folder, "onnx")
    session = onnxruntime.InferenceSession(exported.path)
    assert [output.name for output in session.get_outputs()] == ["probabilities", "set", "decided", "unlike"]
    assert exported.metadata["check"]["same_doubt"] == 40
    pixels = np.stack([pixels_of(content) for content in pictures(12)])
    expected = bundle.answer(pixels)
    probabilities, sets, decided, unlike = session.run(None, {"pictures": pixels})
    assert np.abs(probabilities - expected.probabilities).max() < 1e-4
    assert sets.dtype == bool
    assert np.array_equal(sets, expected.sets)
    assert np.array_equal(decided, expected.decided)
    np.testing.assert_allclose(unlike, expected.unlike, rtol=1e-3)


def test_torch_says_the_same(tmp_path: Path) -> None:
    folder = doubtful(tmp_path / "b")
    exported = export_bundle(folder, "torch")
    pixels = np.stack([pixels_of(content) for content in pictures(5)])
    expected = thaw.load(folder, precision="fp32").answer(pixels)
    probabilities, sets, decided, unlike = torch.export.load(exported.path).module()(torch.from_numpy(pixels))
    assert np.abs(probabilities.numpy() - expected.probabilities).max() < 1e-4
    assert np.array_equal(sets.numpy(), expected.sets)
    assert np.array_equal(decided.numpy(), expected.decided)
    np.testing.assert_allclose(unlike.numpy(), expected.unlike, rtol=1e-3)


@pytest.mark.parametrize("left_out", ["unlike", ""])
def test_what_a_quantised_network_says_is_joined_to_it(left_out: str, tmp_path: Path) -> None:
    changes = {left_out: None} if left_out else {}
    bundle = thaw.load(doubtful(tmp_path / "b", **changes), precision="fp32")
    assert bundle.doubt is not None
    network = onnx.to_onnx(FromSquares(bundle), "squares", ["probabilities", "features"], 32)
    resize = onnx.to_onnx(ToSquares(bundle), "pictures", ["squares"])
    whole = quantise.with_doubt(quantise.joined(resize, network, ["squares"]), bundle.doubt)
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    assert [output.name for output in session.get_outputs()] == outputs(bundle)
    pixels = np.stack([pixels_of(content) for content in pictures(5)])
    expected = bundle.answer(pixels)
    for name, found in zip(outputs(bundle), session.run(None, {"pictures": pixels}), strict=True):
        own = getattr(expected, {"set": "sets"}.get(name, name))
        np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-4)


def test_predictions_hold_what_the_bundle_says(tmp_path: Path) -> None:
    folder = doubtful(tmp_path / "b")
    (tmp_path / "in").mkdir()
    for index, content in enumerate(pictures(6)):
        (tmp_path / "in" / f"{index}.png").write_bytes(content)
    expected = thaw.load(folder, precision="fp32").answer(sorted((tmp_path / "in").iterdir()))
    assert expected.sets is not None
    assert expected.decided is not None
    assert expected.unlike is not None
    sets = [[CLASSES[code] for code in np.flatnonzero(row)] for row in expected.sets]

    common = ["predict", str(folder), str(tmp_path / "in"), "--precision", "fp32"]

    def predicted(out: str, *options: str) -> Path:
        arguments = [*common, "--out", str(tmp_path / out), *options]
        assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
        return tmp_path / out

    rows = list(csv.DictReader(io.StringIO(predicted("out.csv").read_text())))
    assert list(rows[0]) == ["image", "predicted", "p_left", "p_right", "set", "decided", "unlike"]
    assert [json.loads(row["set"]) for row in rows] == sets
    assert [row["decided"] for row in rows] == [CLASSES[code] for code in expected.decided]
    assert [float(row["unlike"]) for row in rows] == pytest.approx(expected.unlike.tolist(), abs=1e-5)
    table = pq.read_table(predicted("out.parquet", "--top", "1")).to_pydict()
    assert list(table) == ["image", "class_1", "p_1", "set", "decided", "unlike"]
    assert table["set"] == sets
    lines = [json.loads(line) for line in predicted("out.jsonl").read_text().splitlines()]
    assert [line["set"] for line in lines] == sets
    assert [line["unlike"] for line in lines] == pytest.approx(expected.unlike.tolist(), abs=1e-5)
    told = CliRunner().invoke(cli, common, catch_exceptions=False).output
    assert told.splitlines()[0].split() == ["p", "class", "set", "decided", "unlike", "image"]
    assert f"{expected.unlike[0]:.2f}" in told.splitlines()[1]


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    folder = doubtful(tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())

    def refused(match: str, **changes: Any) -> None:
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(BundleError, match=match):
            thaw.load(folder)

    refused("as many floors", decide=config["decide"] | {"floors": [0.5]})
    refused("of another class", decide=config["decide"] | {"positive": "up"})
    refused("SHA-256", unlike=config["unlike"] | {"sha256": "0" * 64})
    refused("threshold", unlike=config["unlike"] | {"threshold": 0.0})
    model, _ = build_backbone("timm/test_resnet", "random", 2, seed=3)
    save_bundle(tmp_path / "c", model, small_config(), Subspace(np.zeros(7, np.float32), np.zeros((7, 2), np.float32)))
    (folder / "unlike.safetensors").write_bytes((tmp_path / "c" / "unlike.safetensors").read_bytes())
    refused("does not fit the head", unlike=config["unlike"] | {"sha256": sha256(folder / "unlike.safetensors")})
    (folder / "unlike.safetensors").unlink()
    refused("holds no unlike.safetensors")


def test_the_first_of_several_runs_of_the_head_gives_the_features() -> None:
    from thaw.nets.entered import WithFeatures

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.head(values) + self.head(values + 1)

    network, values = Twice(), torch.rand(4, 3)
    logits, features = WithFeatures(network, "head")(values)
    assert torch.equal(features, values)
    assert torch.equal(logits, network(values))
    assert not network.head._forward_pre_hooks
