"""Ctrl-C ends the command within two seconds, whatever is being computed."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

GRACE_SECONDS = 1.0
"""How long the main thread may take to notice; one backward pass of a large network can take longer."""
CODE = 130
"""The exit code of what Ctrl-C ended: 128 and the signal's number."""


@contextlib.contextmanager
def ends_promptly(tell: Callable[[], None]) -> Iterator[None]:
    """A block that Ctrl-C ends at once: `tell` is called, and the process exits with 130.

    Python raises KeyboardInterrupt between two of its own instructions only. Where that does not come in time, a thread
    that the system wakes at the signal tells and ends the process as it is: what lies on disk is whole at any moment.
    Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asleep, waking = socket.socketpair()
    waking.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while signalled := asleep.recv(1):
            if signalled[0] == signal.SIGINT and not ended.wait(GRACE_SECONDS):
                tell()
                os._exit(CODE)

    before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        ended.set()
        tell()
        raise SystemExit(CODE) from None
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        waking.close()
        watcher.join()
        asleep.close()
