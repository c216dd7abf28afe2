"""What the app refuses, and the headers of every response.

The app only reads, and what it is handed stays in memory. It shows what its user may see. Two
others could try to see it: another web page in the same browser, which could send requests to this
app, embed its pages, or point a name of its own at the loopback address and read the answers (DNS
rebinding); and another user of the machine, who can reach the port. The names in ``Host`` and
``Origin`` are compared against the first, a token against the second. Texts of a store come from
strangers: pages run no script but the app's own file, whatever a caption says.
"""

from __future__ import annotations

import hmac
import io
import ipaddress
import secrets
from collections.abc import Container, Iterable
from typing import IO
from urllib.parse import quote, unquote_plus, urlsplit

from flask import Flask, Request, Response, abort, request

__all__ = ["LARGEST", "POLICY", "guard", "host_name", "same_text"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send "Origin: null" with forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
METHODS = ("GET", "HEAD")
LONGEST = 4096  # characters of a URL
LARGEST = 20 << 20  # bytes of a photo that is handed in
MARGIN = 1 << 16  # bytes of the rest of its form
FIELD = "token"  # of the query
NO_TOKEN = (
    "This page needs the token of its server: open the address that the terminal of the server "
    "shows, or add ?token=TOKEN (or &token=TOKEN) to this one.\n"
)


class _InMemory(Request):
    """A request whose files stay in memory; Werkzeug would write large ones to disk."""

    def _get_file_stream(self, *_: object, **__: object) -> IO[bytes]:
        return io.BytesIO()


def guard(
    app: Flask,
    hosts: Iterable[str] = (),
    *,
    any_address: bool = False,
    token: str = "",
    uploads: Container[str] = (),
) -> None:
    """Check every request of an app, and add the headers to every response.

    Args:
        app: the app.
        hosts: names under which it may be asked for, besides those of the loopback address.
        any_address: accept any IP address as its name. No page of another site can have one as
            its own name and still be another site.
        token: what the first request of a browser must have as ``?token=``; later ones have a
            cookie. "" answers everyone who reaches the port.
        uploads: endpoints that take a POST, from pages of the app only and of limited size.
    """
    app.config["MAX_CONTENT_LENGTH"] = LARGEST + MARGIN
    app.request_class = _InMemory
    known = {*LOOPBACK, *(name.lower() for name in hosts)}

    def allowed(name: str) -> bool:
        return name in known or (any_address and _is_address(name))

    @app.before_request
    def check() -> None:
        handed_in = request.method == "POST" and request.endpoint in uploads
        if request.method not in METHODS and not handed_in:
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
        if handed_in:
            _check_form(origin)

    if token:
        _require(app, token)

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


def _check_form(origin: str | None) -> None:
    """Refuse a form that no page of the app has sent, or that is too large."""
    if origin is None:  # browsers send it with every form
        abort(Response("Only pages of the app can hand in photos.\n", 403, mimetype="text/plain"))
    if request.content_length is None:
        abort(411)
    if request.content_length > LARGEST + MARGIN:
        abort(413, f"At most {LARGEST >> 20} MB are allowed.")


def _require(app: Flask, token: str) -> None:
    """Refuse requests that have neither the token nor the cookie that it is exchanged for."""
    value = secrets.token_urlsafe(32)  # not the token: cookies go to every port of a name

    @app.before_request
    def admit() -> Response | None:
        cookie = f"scenestore-{urlsplit('//' + _raw_host(request)).port or 80}"
        if not same_text(request.args.get(FIELD, ""), token):
            return None if same_text(request.cookies.get(cookie, ""), value) else _turn_away()
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


def same_text(given: str, wanted: str) -> bool:
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
