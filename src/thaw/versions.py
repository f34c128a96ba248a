"""Versions of installed packages."""

from importlib import metadata


def versions(*names: str) -> dict[str, str]:
    """Return the installed version of each package, by the name that pip knows it by."""
    return {name: metadata.version(name) for name in names}
