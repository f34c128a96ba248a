"""What a reader of hostile input must not do, seen by Python's own audit events."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis

from thaw.errors import ThawError

EXAMPLES = int(os.environ.get("THAW_FUZZ", "30"))
"""Examples of each test: `THAW_FUZZ=10000 python -m pytest tests/fuzz` draws as many."""
FORBIDDEN = {"pickle.find_class", "socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}
RELATIVE = {"os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.chmod"}
WRITING = {*RELATIVE, "os.truncate"}

fuzzed = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES < 1000,
    suppress_health_check=list(hypothesis.HealthCheck),
)

_allowed: tuple[Path, ...] = ()
_seen: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event in FORBIDDEN:
        _seen.append(f"{event}{arguments!r}")
    if event == "open" and _writes(*arguments[1:]):
        _check(event, arguments[0])
    elif event in ("os.rename", "os.link"):
        _check(event, arguments[0], arguments[2])
        _check(event, arguments[1], arguments[3])
    elif event in WRITING:
        _check(event, arguments[0], arguments[-1] if event in RELATIVE else -1)


def _writes(mode: str | None, flags: int) -> bool:
    """Whether a file is opened to write; os.open has no mode."""
    return bool(set(mode) & set("wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _check(event: str, path: Any, folder: int = -1) -> None:
    """Note a path outside what is allowed; it may be relative to an open folder."""
    if isinstance(path, (str, bytes)):
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
        full = Path(os.path.realpath(os.path.join(base, os.fsdecode(path))))
        if not any(full.is_relative_to(one) for one in (*_allowed, Path("/dev"))):
            _seen.append(f"{event} {full}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def confined(*folders: Path) -> Iterator[None]:
    """A block that may write into `folders` only, and must end well or with a ThawError of one sentence."""
    global _allowed
    _seen.clear()
    _allowed = tuple(folder.resolve() for folder in folders)
    try:
        yield
    except ThawError as error:
        message = str(error)
        assert message.endswith(".")
        assert "\n" not in " ".join(message.split())
    finally:
        _allowed = ()
    assert not _seen, list(_seen)
