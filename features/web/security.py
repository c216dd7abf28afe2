"""What the app refuses, and the headers of every response.

The app only reads, and it shows what its user may see. So the danger is another web page in the
same browser: it could send requests to this app, embed its pages, or point a name of its own at
the loopback address and read the answers (DNS rebinding). The checks are those of the names in
``Host`` and ``Origin``. Texts of a store come from strangers: pages run no script but the app's
own file, whatever a caption says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from flask import Flask, Request, Response, abort, request

__all__ = ["POLICY", "guard", "host_name"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
METHODS = ("GET", "HEAD")
LONGEST = 4096  # characters of a URL


def guard(app: Flask, hosts: Iterable[str] = (), *, any_address: bool = False) -> None:
    """Check every request of an app, and add the headers to every response.

    Args:
        app: the app.
        hosts: names under which it may be asked for, besides those of the loopback address.
        any_address: accept any IP address as its name. No page of another site can have one as
            its own name and still be another site.
    """
    known = {*LOOPBACK, *(name.lower() for name in hosts)}

    def allowed(name: str) -> bool:
        return name in known or (any_address and _is_address(name))

    @app.before_request
    def check() -> None:
        if request.method not in METHODS:
            abort(Response("This app only reads.\n", 405, {"Allow": ", ".join(METHODS)}))
        if len(request.url) > LONGEST:
            abort(414)
        if not allowed(host_name(_raw_host(request))):
            abort(
                Response(
                    "This name is not one of the app's. Start it with --allow-host NAME.\n",
                    421,
                    mimetype="text/plain",
                )
            )
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != _raw_host(request).lower():
            abort(Response("Requests from other sites are refused.\n", 403, mimetype="text/plain"))

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header, without port and brackets; "" if it is malformed.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("evil.example/x")
    ('localhost', '::1', '')
    """
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return (parts.hostname or "") if plain else ""


def _raw_host(asked: Request) -> str:
    """Return the ``Host`` header as sent; Flask's ``request.host`` can raise an error."""
    return str(asked.headers.get("Host", ""))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
