"""The built-in recipes and the embedded example: its pictures and its backbone's weights."""

from importlib import resources
from pathlib import Path

from thaw.errors import ModelError

EMBEDDED = "thaw:"
EMBEDDED_NAMES = {"thaw:mobilenet_v2": "IMAGENET1K_V1"}
"""What the library of their backbone calls the weights that come with thaw."""


def embedded_weights(weights: str) -> str:
    """Where weights lie that come with thaw, `thaw:NAME`; others as they are. Raises ModelError for an unknown NAME."""
    if not weights.startswith(EMBEDDED):
        return weights
    path = Path(str(resources.files("thaw.recipes") / "assets" / f"{weights.removeprefix(EMBEDDED)}.safetensors"))
    if not path.is_file():
        raise ModelError(f"no weights {weights!r} come with thaw; thaw:mobilenet_v2 do.")
    return str(path)
