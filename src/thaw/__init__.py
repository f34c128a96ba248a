"""How much of a pretrained network should you thaw? Measure it on your own images."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thaw.bundle.load import Bundle, load
    from thaw.errors import ThawError
    from thaw.recipe import Recipe, load_recipe

_HOMES = {
    "Bundle": "thaw.bundle.load",
    "Recipe": "thaw.recipe",
    "ThawError": "thaw.errors",
    "load": "thaw.bundle.load",
    "load_recipe": "thaw.recipe",
}

__all__ = ["Bundle", "Recipe", "ThawError", "load", "load_recipe"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, and `thaw --help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thaw' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
