"""End the command within two seconds of Ctrl-C, whatever is being computed."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

GRACE_SECONDS = 1.0
"""Seconds the main thread has to react to Ctrl-C; one backward pass of a large network can take longer."""
EXIT_CODE = 130
"""The exit code after Ctrl-C: 128 plus the number of the signal."""


@contextlib.contextmanager
def ends_promptly(tell: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C end the block at once: call `tell`, then exit with code 130.

    Python raises KeyboardInterrupt only between two of its own instructions. If that takes longer than GRACE_SECONDS, a
    thread that the signal wakes calls `tell` and ends the process without clean-up, which is safe because files on disk
    are complete at any moment. Does nothing outside the main thread.
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
                os._exit(EXIT_CODE)

    before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        ended.set()
        tell()
        raise SystemExit(EXIT_CODE) from None
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        waking.close()
        watcher.join()
        asleep.close()
