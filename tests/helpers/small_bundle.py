"""A small bundle as a study writes it, of an untrained network."""

from pathlib import Path
from typing import Any

from thaw.bundle.save import save_bundle
from thaw.nets.backbones import build_backbone

CLASSES = ("left", "right")
BACKBONE = "timm/test_resnet"


def small_config(**changes: Any) -> dict[str, Any]:
    """What `config.json` must hold beside format and digest, and no more."""
    return {
        "backbone": BACKBONE,
        "classes": list(CLASSES),
        "preprocessing": {
            "size": 32,
            "resize": "squash",
            "interpolation": "bilinear",
            "crop": 1.0,
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.25, 0.3],
        },
        "decode": "exact",
        "temperature": None,
        "test_views": 1,
    } | changes


def small_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle in a new folder, its `config.json` changed."""
    model, _ = build_backbone(BACKBONE, "random", len(CLASSES), seed=3)
    save_bundle(folder, model, small_config(**changes))
    return folder
