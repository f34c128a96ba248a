"""A bundle loads from its folder alone, and anything wrong with one is a sentence."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import thaw
from helpers.small_bundle import CLASSES, small_bundle, small_config
from thaw.bundle.save import save_bundle
from thaw.errors import BundleError
from thaw.nets.backbones import build_backbone


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "bundle", temperature=1.5, decode="fast")
    bundle = thaw.load(folder)
    assert (bundle.classes, bundle.decode, bundle.temperature) == (CLASSES, "fast", 1.5)
    assert bundle.preprocessing.mean == (0.5, 0.4, 0.3)
    assert bundle.config == json.loads((folder / "config.json").read_text())
    model, _ = build_backbone("timm/test_resnet", "random", 2, seed=3)
    state = bundle.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not bundle.model.training
    assert not any(parameter.requires_grad for parameter in bundle.model.parameters())


def test_a_network_that_needs_values_to_be_built(tmp_path: Path) -> None:
    """RegNet reads numbers off tensors while it is built, which those without memory do not have."""
    model, _ = build_backbone("torchvision/regnet_y_400mf", "random", 2, seed=0)
    save_bundle(tmp_path / "bundle", model, small_config(backbone="torchvision/regnet_y_400mf"))
    assert len(list(thaw.load(tmp_path / "bundle").model.parameters())) == len(list(model.parameters()))


def test_a_snapshot_in_the_cache_of_the_hub_loads(tmp_path: Path) -> None:
    """There the files are links into `blobs`; other links out of the folder are refused."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("0" * 40)
    small_bundle(blobs)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert thaw.load(snapshot).classes == CLASSES
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(blobs / "config.json", elsewhere)
    (elsewhere / "model.safetensors").symlink_to(blobs / "model.safetensors")
    with pytest.raises(BundleError, match="leads out of its folder"):
        thaw.load(elsewhere)


def _config(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return write


def _preprocessing(**changes: Any) -> Callable[[Path], None]:
    return _config(preprocessing=small_config()["preprocessing"] | changes)


def _text(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_bytes(text.encode("latin-1"))  # type: ignore[func-returns-value]


def _weights(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)  # type: ignore[func-returns-value]


def _state(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return write


def _pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


HEADER = json.dumps({"fc.weight": {"dtype": "F32", "shape": [2, 1 << 40], "data_offsets": [0, 4]}}).encode()
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no bundle"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    "a pipe": (_pipe, "is not a regular file"),
    "no JSON": (_text("{"), "cannot be read"),
    "no text": (_text("\xff\xfe"), "cannot be read"),
    "deep JSON": (_text("[" * 100_000), "cannot be read"),
    "large JSON": (_text(" " * (9 << 20)), "larger than 8 MiB"),
    "a list": (_text("[]"), "has the format"),
    "another format": (_config(format=99), "has the format '99'"),
    "a format without a digest": (_config(format=2), "has the format '2', but this version of thaw reads 4"),
    "no digest": (_config(sha256=None), "sha256"),
    "another digest": (_config(sha256="0" * 64), "is damaged"),
    "no classes": (_config(classes=[]), "classes"),
    "equal classes": (_config(classes=["a", "a"]), "the same name"),
    "classes of numbers": (_config(classes=[1, 2]), "classes.0"),
    "three classes": (_config(classes=["a", "b", "c"]), "does not fit"),
    "a million classes": (_config(classes=[str(number) for number in range(500_000)]), "does not fit"),
    "a large network": (_config(backbone="timm/vit_giant_patch14_224"), "does not fit"),
    "an unknown network": (_config(backbone="timm/../../etc"), "do not have"),
    "a network from elsewhere": (_config(backbone="timm/hf-hub:user/name"), "do not have"),
    "cold": (_config(temperature=0), "temperature"),
    "endless": (_config(temperature=float("inf")), "temperature"),
    "no decoder": (_config(decode="magic"), "decode"),
    "a huge picture": (_preprocessing(size=1 << 20), "between 1 and 4,096"),
    "a flat picture": (_preprocessing(size=[32, 0]), "between 1 and 4,096"),
    "three sides": (_preprocessing(size=[32, 32, 3]), "preprocessing.size"),
    "a tiny crop": (_preprocessing(crop=1e-9), "between 1 and 4,096"),
    "no deviation": (_preprocessing(std=[0.0, 1.0, 1.0]), "not a colour"),
    "no filter": (_preprocessing(interpolation="magic"), "unknown resize"),
    "two means": (_preprocessing(mean=[0.0, 1.0]), "preprocessing.mean"),
    "empty weights": (_weights(b""), "cannot be read"),
    "cut weights": (_weights(struct.pack("<Q", 100) + b"{"), "cannot be read"),
    "a pickle": (_weights(b"\x80\x04\x95" + bytes(80)), "cannot be read"),
    "a huge header": (_weights(struct.pack("<Q", 1 << 30) + b"{}"), "header of 1,073,741,824 bytes"),
    "sizes that lie": (_weights(struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)), "cannot be read"),
    "a weight less": (_state(lambda state: state.pop("fc.weight")), "'fc.weight' should have the shape"),
    "a weight more": (_state(lambda state: state.update(more=torch.ones(1))), "'more' should have the shape none"),
    "another shape": (_state(lambda state: state.update({"fc.weight": torch.ones(2, 3)})), "has (2, 3)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_a_sentence(tmp_path: Path, name: str) -> None:
    spoil, said = WRONG[name]
    folder = small_bundle(tmp_path / "bundle")
    spoil(folder)
    with pytest.raises(BundleError) as caught:
        thaw.load(folder)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500


@pytest.mark.parametrize("place", [0.01, 0.5, 0.999])
def test_one_flipped_byte_of_the_weights_is_found(tmp_path: Path, place: float) -> None:
    """Of the values, that is: shapes and names stay as they should be."""
    folder = small_bundle(tmp_path / "bundle")
    content = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(place * (len(content) - start))] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.safetensors is damaged: .*; copy the bundle again\.$"):
        thaw.load(folder)


def test_what_is_saved_anew_has_its_own_digest(tmp_path: Path) -> None:
    first = thaw.load(small_bundle(tmp_path / "first"))
    with torch.no_grad():
        next(first.model.parameters()).mul_(2)
    save_bundle(tmp_path / "second", first.model, first.config)
    second = thaw.load(tmp_path / "second")
    assert second.config.keys() == first.config.keys()
    assert second.config["sha256"] != first.config["sha256"]


def test_a_run_in_place_of_a_bundle_names_its_models(tmp_path: Path) -> None:
    small_bundle(tmp_path / "run" / "models" / "head")
    with pytest.raises(BundleError, match=r"it is a run, so give one of its models: .*run/models/head\.$"):
        thaw.load(tmp_path / "run")
