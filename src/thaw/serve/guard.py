"""Checks before every request: who may ask, and what a browser may do with the answer."""

import ipaddress
import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report has its script and styles inline; in a sandbox it has no origin, and cannot ask this server anything."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": PAGE_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def guard(app: ASGIApp, names: Iterable[str]) -> ASGIApp:
    """Put a check of the Host and Origin headers before `app`, and safe headers on every answer.

    A page of another site can have its own name resolve to this machine and then ask as if it came from here (DNS
    rebinding), but it cannot hide its name.

    Parameters
    ----------
    app
        The application.
    names
        Host names that are let in, beside IP addresses, which need no resolving.

    Returns
    -------
    ASGIApp
        The guarded application.
    """
    known = frozenset(name.lower() for name in names)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in added if one[0] not in given)]
            await send(message)

        if refusal := _refusal(scope, known):
            await _refuse(send_safely, refusal)
        else:
            await app(scope, receive, send_safely)

    return guarded


def _refusal(scope: Scope, known: frozenset[str]) -> str:
    """Return why a request is refused; empty where it is let in."""
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or not _is_known(hosts[0], known):
        return "this server answers only to localhost or its IP address; open the address that thaw serve printed."
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    if any(_place(origin) != hosts[0].lower() for origin in origins):
        return "a page of another site may not ask this server; open the address that thaw serve printed."
    return ""


def _place(origin: str) -> str:
    """Return the host and port of an origin; empty where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_known(host: str, known: frozenset[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
        if name in known:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(send: Send, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
