"""The bundle reader on whatever folder: a model, or a BundleError, and nothing else."""

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers.guard import confined, fuzzed
from thaw.bundle import load as loading
from thaw.nets.backbones import build_backbone

BACKBONE = "torchvision/squeezenet1_1"
SOUND: dict[str, Any] = {
    "format": 4,
    "sha256": "",
    "backbone": BACKBONE,
    "classes": ["cat", "dog"],
    "preprocessing": {
        "size": 32,
        "resize": "squash",
        "interpolation": "bilinear",
        "crop": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "decode": "exact",
    "temperature": None,
    "test_views": 1,
}
KEYS = [*SOUND, *SOUND["preprocessing"]]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
HOSTILE = st.sampled_from(
    [
        "../../etc",
        "torchvision/alexnet",
        "timm/x",
        "timm/hf-hub:a/b",
        "timm/local-dir:/etc",
        "\x1b[2J",
        "<b>",
        1e300,
        10**30,
    ]
)
VALUES = st.recursive(
    SCALARS | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    folder.mkdir()
    model, _ = build_backbone(BACKBONE, "random", 2, seed=0)
    save_file(model.state_dict(), folder / "sound.safetensors")
    SOUND["sha256"] = hashlib.sha256((folder / "sound.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(SOUND))
    shutil.copy(folder / "sound.safetensors", folder / "model.safetensors")
    loading.load(folder, device="cpu")
    return folder


def load(bundle: Path, config: bytes | None = None, weights: bytes | None = None) -> None:
    """Load the sound bundle with one file replaced."""
    (bundle / "config.json").write_bytes(json.dumps(SOUND).encode() if config is None else config)
    (bundle / "model.safetensors").unlink(missing_ok=True)
    if weights is None:
        os.link(bundle / "sound.safetensors", bundle / "model.safetensors")
    else:
        (bundle / "model.safetensors").write_bytes(weights)
    with confined(bundle):
        loading.load(bundle, device="cpu")


@fuzzed
@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
@example(b"[" * 200_000)
@example(b'{"format": ' + b"9" * 10_000 + b"}")
@example(b"\xff\xfe{}")
def test_any_config(bundle: Path, content: bytes) -> None:
    load(bundle, config=content)


@fuzzed
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3), st.sets(st.sampled_from(KEYS), max_size=1))
def test_a_config_with_other_values(bundle: Path, changed: dict[str, Any], missing: set[str]) -> None:
    inner = SOUND["preprocessing"] | {key: value for key, value in changed.items() if key in SOUND["preprocessing"]}
    config = SOUND | {"preprocessing": inner} | {key: value for key, value in changed.items() if key in SOUND}
    load(bundle, config=json.dumps({key: value for key, value in config.items() if key not in missing}).encode())


@fuzzed
@given(st.integers(0, 6000), st.binary(min_size=1, max_size=8), st.none() | st.integers(0, 8000))
@example(0, struct.pack("<Q", 1 << 62), None)
@example(0, struct.pack("<Q", 99_999_999), None)
def test_weights_with_bytes_overwritten_or_cut_off(bundle: Path, where: int, content: bytes, end: int | None) -> None:
    whole = (bundle / "sound.safetensors").read_bytes()
    load(bundle, weights=(whole[:where] + content + whole[where + len(content) :])[:end])


@fuzzed
@given(VALUES | st.dictionaries(st.text(max_size=9), VALUES, max_size=3), st.binary(max_size=40))
def test_weights_with_any_header(bundle: Path, header: Any, content: bytes) -> None:
    text = json.dumps(header).encode()
    load(bundle, weights=struct.pack("<Q", len(text)) + text + content)
