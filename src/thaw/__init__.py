"""How much of a pretrained network should you thaw? Measure it on your own images."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thaw.bundle.load import load
    from thaw.bundle.model import Bundle
    from thaw.classifier import Classifier
    from thaw.errors import ThawError
    from thaw.export.export import export_bundle
    from thaw.recipe import Recipe, load_recipe
    from thaw.run.read import Run, read_run
    from thaw.studies import run_networks
    from thaw.study import run_study

    __version__: str

__all__ = [
    "Bundle",
    "Classifier",
    "Recipe",
    "Run",
    "ThawError",
    "__version__",
    "export_bundle",
    "load",
    "load_recipe",
    "read_run",
    "run_networks",
    "run_study",
]

_HOMES = {
    "Bundle": "thaw.bundle.model",
    "Classifier": "thaw.classifier",
    "Recipe": "thaw.recipe",
    "Run": "thaw.run.read",
    "ThawError": "thaw.errors",
    "export_bundle": "thaw.export.export",
    "load": "thaw.bundle.load",
    "load_recipe": "thaw.recipe",
    "read_run": "thaw.run.read",
    "run_networks": "thaw.studies",
    "run_study": "thaw.study",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, and `thaw --help` needs none of it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("thaw-vision")
    if name not in _HOMES:
        raise AttributeError(f"module 'thaw' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
