"""What the app refuses, and the headers of every response.

The app only reads, and it shows what its user may see. Two others could try to see it: another
web page in the same browser, which could send requests to this app, embed its pages, or point a
name of its own at the loopback address and read the answers (DNS rebinding); and another user of
the machine, who can reach the port. The names in ``Host`` and ``Origin`` are compared against the
first, a token against the second. Texts of a store come from strangers: pages run no script but
the app's own file, whatever a caption says.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from urllib.parse import quote, unquote_plus, urlsplit

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
FIELD = "token"  # of the query
NO_TOKEN = (
    "This page needs the token of its server: open the address that the terminal of the server "
    "shows, or add ?token=TOKEN (or &token=TOKEN) to this one.\n"
)


def guard(
    app: Flask, hosts: Iterable[str] = (), *, any_address: bool = False, token: str = ""
) -> None:
    """Check every request of an app, and add the headers to every response.

    Args:
        app: the app.
        hosts: names under which it may be asked for, besides those of the loopback address.
        any_address: accept any IP address as its name. No page of another site can have one as
            its own name and still be another site.
        token: what the first request of a browser must have as ``?token=``; later ones have a
            cookie. "" answers everyone who reaches the port.
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

    if token:
        _require(app, token)

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


def _require(app: Flask, token: str) -> None:
    """Refuse requests that have neither the token nor the cookie that it is exchanged for."""
    value = secrets.token_urlsafe(32)  # not the token: cookies go to every port of a name

    @app.before_request
    def admit() -> Response | None:
        cookie = f"scenestore-{urlsplit('//' + _raw_host(request)).port or 80}"
        if not _same(request.args.get(FIELD, ""), token):
            return None if _same(request.cookies.get(cookie, ""), value) else _turn_away()
        response = Response(status=303, headers={"Location": _without_token()})
        response.set_cookie(cookie, value, httponly=True, samesite="Strict")
        return response


def _turn_away() -> Response:
    """Return the answer to a request without token and cookie.

    Browsers send no ``SameSite=Strict`` cookie after a click on a link of another site, nor
    through redirects that follow it. So such a page asks once more, from its own address.
    """
    response = Response(NO_TOKEN, 403, mimetype="text/plain")
    fetch = {name: request.headers.get(f"Sec-Fetch-{name}") for name in ("Site", "Mode", "Dest")}
    if fetch == {"Site": "cross-site", "Mode": "navigate", "Dest": "document"}:
        response.headers["Refresh"] = f"0; url={_without_token()}"
    return response


def _without_token() -> str:
    """Return path and query of the request, without the token."""
    query = request.query_string.decode("latin-1")
    kept = [part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != FIELD]
    path = "/" + quote(request.path).lstrip("/")  # "//name" would be another host
    return f"{path}?{'&'.join(kept)}" if any(kept) else path


def _same(given: str, wanted: str) -> bool:
    """Compare two texts in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


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
