"""Exports: onnxruntime and torch agree with the bundle on real pictures of mixed sizes and formats."""

import copy
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from helpers.images import encoded_image
from helpers.small_bundle import small_bundle, small_config
from helpers.studies import SETTLED
from thaw.bundle.doubt import Answers
from thaw.bundle.load import load
from thaw.bundle.save import save_bundle
from thaw.cli.app import cli
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.data.source import read_source
from thaw.data.splits import make_splits
from thaw.errors import DataError
from thaw.export import export, quantise
from thaw.export.export import ExportError, export_bundle
from thaw.export.graph import FromSquares
from thaw.export.onnx import to_onnx
from thaw.export.samples import Samples, check_samples
from thaw.images.decode import decode_picture, upright_rgb
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.nets.backbones import build_backbone
from thaw.progress import Clock
from thaw.recipe import Data, load_recipe

EMOJI = Path(export.__file__).parents[1] / "recipes" / "assets" / "emoji-people.parquet"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
PREPROCESSING: dict[str, Any] = {
    "size": 32,
    "resize": "crop",
    "interpolation": "bicubic",
    "crop": 0.875,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def encoded(count: int) -> list[bytes]:
    """Embedded drawings in as many formats and sizes as there are, some transparent."""
    column = pq.read_table(EMOJI, columns=["image"])["image"]
    random = np.random.default_rng(0)
    contents = []
    for index in range(count):
        drawing = Image.open(io.BytesIO(column[index * 37].as_py()["bytes"])).convert("RGBA")
        size = (int(random.integers(20, 300)), int(random.integers(20, 300)))
        kind, buffer = FORMATS[index % len(FORMATS)], io.BytesIO()
        drawing = drawing.resize(size)
        (drawing if kind in ("PNG", "WEBP", "TIFF") else drawing.convert("RGB")).save(buffer, kind)
        contents.append(buffer.getvalue())
    return contents


def array(content: bytes) -> NDArray[np.uint8]:
    return np.array(upright_rgb(Image.open(io.BytesIO(content))))[None]


def bundle_of(folder: Path, backbone: str, stated: dict[str, Any], contents: list[bytes]) -> Path:
    """A bundle with three classes, its head scaled so that the pictures' probabilities spread as a trained one's do."""
    model, head = build_backbone(backbone, "random", 3, seed=1)
    size = tuple(stated["size"]) if isinstance(stated["size"], list) else stated["size"]
    preprocessing = Preprocessing(**stated | {"size": size})
    squares = np.stack([decode_picture(content, preprocessing, "exact") for content in contents])
    images = Normalise(preprocessing)(torch.from_numpy(squares))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
        logits, layer = model.eval()(images), model.get_submodule(head)
        scale = 2 / logits.std(0).mean()
        layer.weight.mul_(scale)
        layer.bias.add_(-layer.bias + scale * (layer.bias - logits.mean(0)))
    changes = {"backbone": backbone, "classes": ["a", "b", "c"], "preprocessing": stated}
    save_bundle(folder, model, small_config(temperature=1.7, **changes))
    return folder


@pytest.mark.parametrize(
    ("backbone", "preprocessing"),
    [
        ("timm/test_resnet", PREPROCESSING),
        ("timm/test_vit", PREPROCESSING | {"size": 160, "resize": "squash", "interpolation": "bilinear"}),
        ("timm/test_resnet", PREPROCESSING | {"size": [32, 48], "resize": "letterbox"}),
    ],
)
def test_onnx_agrees_with_the_bundle(backbone: str, preprocessing: dict[str, Any], tmp_path: Path) -> None:
    contents = encoded(12)
    bundle = bundle_of(tmp_path / "bundle", backbone, preprocessing, contents)
    expected = load(bundle, precision="fp32").predict_proba(contents)
    assert expected.std(0).max() > 0.1  # the pictures differ for this network
    told = CliRunner().invoke(cli, ["export", str(bundle), "--to", "onnx"], catch_exceptions=False).output
    assert "same class as the bundle for 40 of 40 images" in told

    path = bundle / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    found = np.concatenate([session.run(None, {"pictures": array(content)})[0] for content in contents])
    assert np.abs(found - expected).max() < 1e-3
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    pair = np.concatenate([array(contents[0]), array(contents[0])[:, ::-1]])
    singly = np.concatenate([session.run(None, {"pictures": one[None]})[0] for one in pair])
    assert np.allclose(session.run(None, {"pictures": pair})[0], singly, atol=1e-5)

    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(properties["classes"]) == ["a", "b", "c"]
    assert json.loads(properties["preprocessing"]) == {**preprocessing, "depth": None}
    assert json.loads(properties["temperature"]) == 1.7
    assert json.loads(properties["check"])["largest_difference"] < 1e-3


def test_torch_export_agrees_with_the_bundle(tmp_path: Path) -> None:
    contents = encoded(12)
    bundle = bundle_of(tmp_path / "bundle", "timm/test_resnet", PREPROCESSING, contents)
    expected = load(bundle, precision="fp32").predict_proba(contents)
    exported = export_bundle(bundle, "torch", tmp_path / "other.pt2")
    noted = {"thaw.json": ""}
    loaded = torch.export.load(exported.path, extra_files=noted).module()
    with torch.no_grad():
        found = np.concatenate([loaded(torch.from_numpy(array(content))).numpy() for content in contents])
    assert np.abs(found - expected).max() < 1e-3
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert json.loads(noted["thaw.json"]) == json.loads(json.dumps(exported.metadata))
    assert json.loads(noted["thaw.json"])["classes"] == ["a", "b", "c"]
    assert str(Path(export.__file__).parent).encode() not in exported.path.read_bytes()


def test_int8_states_its_accuracy_on_the_test_pictures(class_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = Data(source=str(class_folder), validation=15, test=25)
    source = read_source(data)
    recipe = load_recipe(
        "photos", str(class_folder), (*SETTLED, "data.validation=15", "data.test=25", "images.size=32")
    )
    origin = {"source": "pictures", **load_dataset(recipe, choose_compute("cpu", "fp32"), Clock()).identity()}
    bundle = small_bundle(run / "models" / "head", data=origin, temperature=0.2)
    (run / "recipe.toml").write_text(
        f'[data]\nsource = "{class_folder}"\nvalidation = 15\ntest = 25\n[images]\nsize = 32\nresize = "squash"\n'
        'interpolation = "bilinear"\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.25, 0.3]\n'
        '[model]\nbackbone = "timm/test_resnet"\nweights = "random"\n[arms.head]\ntrain = "head"\n'
    )
    exported = export_bundle(bundle, "int8")
    session = onnxruntime.InferenceSession(exported.path)
    rows = make_splits(source, data).test
    found = np.concatenate([session.run(None, {"pictures": array(source.picture(row))})[0] for row in rows])
    stated = exported.metadata["accuracy"]
    assert stated["images"] == 25
    assert stated["int8"] == pytest.approx((found.argmax(1) == source.labels[rows]).mean())
    expected = load(bundle, precision="fp32").predict_proba([source.picture(row) for row in rows])
    assert stated["bundle"] == pytest.approx((expected.argmax(1) == source.labels[rows]).mean())
    assert np.abs(found - expected).max() < 0.1
    written = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert json.loads(written["accuracy"]) == stated
    kinds = {initializer.data_type for initializer in onnx.load(exported.path).graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds

    (class_folder / "left" / "000.png").write_bytes(encoded_image(999))
    with pytest.raises(ExportError, match="no longer holds the images"):
        export_bundle(bundle, "int8")


def test_every_kind_of_int8_is_smaller_than_full_precision(tmp_path: Path) -> None:
    """Of a network whose weights are nearly all convolutions', which dynamic quantisation leaves alone."""
    backbone = "torchvision/mobilenet_v2"
    save_bundle(tmp_path / "b", build_backbone(backbone, "random", 2, seed=3)[0], small_config(backbone=backbone))
    network = to_onnx(FromSquares(load(tmp_path / "b", precision="fp32")), "squares", ["probabilities"], 32)
    squares = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    kinds = quantise._static(network, squares), quantise._stored(quantise._dynamic(network)), quantise._stored(network)
    assert all(kind.ByteSize() < 0.35 * network.ByteSize() for kind in kinds)


def test_weights_stored_in_int8_are_rounded_by_channel() -> None:
    """The largest error of a weight is half a step, a 254th of the largest weight of its channel."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5)).eval()
    with torch.no_grad():
        network[0].weight[0] *= 100
    example = torch.rand(1, 3, 4, 4)
    program = torch.onnx.export(network, (example,), input_names=["x"], output_names=["y"], dynamo=True, verbose=False)
    whole = program.model_proto
    stored = quantise._stored(whole)
    onnx.checker.check_model(stored, full_check=True)
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for layer in (rounded[0], rounded[3]):
            flat = layer.weight.flatten(1)
            step = flat.abs().amax(1, keepdim=True) / 127
            flat.copy_((flat / step).round() * step)
    (found,) = onnxruntime.InferenceSession(stored.SerializeToString()).run(None, {"x": example.numpy()})
    np.testing.assert_allclose(found, rounded(example).detach().numpy(), rtol=1e-4, atol=1e-4)
    kinds = [tensor.data_type for tensor in stored.graph.initializer]
    assert kinds.count(onnx.TensorProto.INT8) == 2


def test_int8_without_its_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"needs the training and test images .* give RUN/models/ARM"):
        export_bundle(small_bundle(tmp_path / "alone"), "int8")


def test_what_differs_from_the_bundle_is_refused() -> None:
    samples = Samples([np.zeros((4, 4, 3), np.uint8), np.zeros((9, 5, 3), np.uint8)], "two black ones")
    expected = Answers(np.array([[0.6, 0.4], [0.2, 0.8]]))
    near, far = np.array([[0.6004, 0.3996]], np.float32), np.array([[0.602, 0.398]], np.float32)
    whole = {4: near, 9: np.array([[0.2, 0.8]], np.float32)}
    noted = export.compare(lambda one: [whole[one.shape[1]]], samples, expected, exact=True)
    assert noted["largest_difference"] == pytest.approx(4e-4, rel=1e-3)
    assert (noted["smallest"], noted["largest"], noted["same_class"]) == ((4, 4), (5, 9), 2)
    for wrong in (far, np.full((1, 2), np.nan, np.float32)):
        with pytest.raises(ExportError, match="nothing was kept"):
            export.compare(lambda _, wrong=wrong: [wrong], samples, expected, exact=True)


def test_bad_usage_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    with pytest.raises(ExportError, match="no export to 'tflite'"):
        export_bundle(bundle, "tflite")
    with pytest.raises(ExportError, match="there is no folder"):
        export_bundle(bundle, "torch", tmp_path / "missing" / "model.pt2")
    with pytest.raises(DataError, match="holds no image"):
        export_bundle(bundle, "torch", check=tmp_path)
    with monkeypatch.context() as patch:
        find = importlib.util.find_spec
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
        with pytest.raises(ExportError, match=r"needs onnxscript.*pip install 'thaw-vision\[export\]'"):
            export_bundle(bundle, "onnx")
    lanczos = small_config()["preprocessing"] | {"interpolation": "lanczos"}
    with pytest.raises(ExportError, match="lanczos"):
        export_bundle(small_bundle(tmp_path / "lanczos", preprocessing=lanczos), "torch")
    assert not list(bundle.glob("model.[op]*"))


def test_check_samples_come_from_a_folder_the_run_or_thaw(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(encoded_image(index, side=20 + index))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert [one.shape for one in check_samples(tmp_path, tmp_path).arrays] == [(20 + i, 20 + i, 3) for i in range(3)]
    embedded = check_samples(tmp_path, None)
    assert "emoji" in embedded.origin
    assert len({one.shape for one in embedded.arrays}) == 40
    bundle = small_bundle(tmp_path / "run" / "models" / "head")
    run = tmp_path / "run"
    (run / "recipe.toml").touch()
    pq.write_table(
        pq.read_table(EMOJI, columns=["image"])[:5].flatten().rename_columns(["image", "path"]), run / "gallery.parquet"
    )
    found = check_samples(bundle, None)
    assert "gallery" in found.origin
    assert len(found.arrays) == 5
