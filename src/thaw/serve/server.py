"""A server on a socket of this machine."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from thaw.errors import StorageError
from thaw.serve.app import make_app
from thaw.serve.desk import Desk

CONNECTIONS = 32
"""Connections at a time. A further one takes the place of that whose request has been waited for longest."""
REQUESTS = 2 * CONNECTIONS
"""Beyond so many requests that are being answered, more are told to come back."""


class Connection(H11Protocol):
    """A connection that gives way to others until all of its request is there."""

    heard: float
    """When it was opened or last sent something, in seconds of the event loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the place of the connection that has been silent longest, where there are too many."""
        super().connection_made(transport)
        self.heard = self.loop.time()
        waiting = [one for one in self.connections if isinstance(one, Connection) and one.is_waited_for()]
        if len(self.connections) > CONNECTIONS and waiting:
            silent = min(waiting, key=lambda one: one.heard)
            self.connections.discard(silent)
            silent.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Note when the client was last heard of."""
        self.heard = self.loop.time()
        super().data_received(data)

    def is_waited_for(self) -> bool:
        """Return True unless a whole request has come and is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body


def serve(path: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the bundle or run in `path` until Ctrl-C; `say` is told the address.

    `port` 0 takes a free one. Raises StorageError where there is nothing to serve, or the address cannot be had.
    """
    desk = Desk(path)
    bound = bind(host, port)
    address, taken = bound.getsockname()[:2]
    app = make_app(desk, ["localhost", host])
    shown = f"[{address}]" if ":" in address else address
    say(f"http://{shown}:{taken}/  (Ctrl-C stops it)")
    desk.prepare_training()
    try:
        make_server(app).run(sockets=[bound])
    finally:
        bound.close()


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server for an application, whose clients cannot keep each other out by requests that they do not finish."""
    config = uvicorn.Config(
        app, http=Connection, ws="none", log_level="warning", limit_concurrency=REQUESTS, timeout_keep_alive=5
    )
    return uvicorn.Server(config)


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
