"""The command line, run in this process."""

import sys

import pytest

from thaw.cli.app import main


def thaw(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: object, settings: tuple[str, ...] = ()) -> int:
    """Run `thaw COMMAND`, with `--set` for each of `settings`; return its exit code."""
    sets = [word for setting in settings for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["thaw", command, *sets, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)
