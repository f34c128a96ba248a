"""A server on a socket of this machine."""

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from thaw.errors import StorageError
from thaw.serve.app import make_app
from thaw.serve.desk import Desk

REQUESTS = 32
"""Requests that are answered at a time; more are told to come back."""


def serve(path: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the bundle or run in `path` until Ctrl-C; `say` is told the address.

    `port` 0 takes a free one. Raises StorageError where there is nothing to serve, or the address cannot be had.
    """
    desk = Desk(path)
    bound = bind(host, port)
    address, taken = bound.getsockname()[:2]
    app = make_app(desk, ["localhost", host])
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=REQUESTS, timeout_keep_alive=5)
    shown = f"[{address}]" if ":" in address else address
    say(f"http://{shown}:{taken}/  (Ctrl-C stops it)")
    desk.prepare_training()
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        bound.close()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there, so that who is told the address may connect at once. Raises StorageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise StorageError(
            f"{host}, port {port}, cannot be listened on: {error.strerror}; give another --port, or 0 for a free one."
        ) from error
    return bound
