"""The built-in recipes, and the images and weights of the built-in example."""

from importlib import resources
from pathlib import Path

from thaw.errors import ModelError

EMBEDDED = "thaw:"
EMBEDDED_NAMES = {"thaw:mobilenet_v2": "IMAGENET1K_V1"}
"""The names that the backbone's library has for the weights that come with thaw."""


def embedded_weights(weights: str) -> str:
    """Return the path of weights that come with thaw, `thaw:NAME`, and any other weights unchanged.

    Raises ModelError for an unknown NAME.
    """
    if not weights.startswith(EMBEDDED):
        return weights
    path = Path(str(resources.files("thaw.recipes") / "assets" / f"{weights.removeprefix(EMBEDDED)}.safetensors"))
    if not path.is_file():
        raise ModelError(f"there are no built-in weights {weights!r}; use thaw:mobilenet_v2.")
    return str(path)
