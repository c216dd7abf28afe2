"""Run the app on a port of this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from features.errors import UsageError
from features.web.security import FIELD

__all__ = ["is_loopback", "listen", "serve"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Handler(WSGIRequestHandler):
    """Answers without naming the versions of the server, and logs nothing but errors."""

    timeout = 30  # seconds that a silent connection is kept

    def version_string(self) -> str:
        return "scenestore"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: a page of the grid is 60 requests."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    return host in LOOPBACK


def listen(app: Flask, host: str = "127.0.0.1", port: int = 8000) -> BaseWSGIServer:
    """Open a port and return the server; ``serve_forever`` runs it.

    Args:
        app: the app.   host: address to listen on.
        port: 0 for any free one, ``server.port`` says which.

    Raises: UsageError: the address cannot be used.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(kind, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(128)
    except (OSError, OverflowError) as error:
        opened.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen on {host}:{port} ({reason}). Choose another one: --port 0 takes any "
            "free port."
        ) from error
    with opened:  # the server has a copy of the descriptor
        return make_server(
            host, port, app, threaded=True, request_handler=_Handler, fd=opened.fileno()
        )


def serve(app: Flask, host: str, port: int, ready: Callable[[str], Any], token: str = "") -> None:
    """Run the app until Ctrl-C.

    Args:
        app: the app.   host, port: see ``listen``.
        ready: is called with the URL once the port is open.
        token: of the app, for the URL.

    Raises: UsageError: the address cannot be used.
    """
    server = listen(app, host, port)
    shown = f"[{host}]" if ":" in host else host
    try:
        ready(f"http://{shown}:{server.port}/" + (f"?{urlencode({FIELD: token})}" if token else ""))
        server.serve_forever()
    finally:
        server.server_close()
