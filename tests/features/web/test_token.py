"""The token of the app: who has it sees the pages, all others see nothing."""

import http.client
import os
import re
import subprocess
import sys
from functools import partial
from urllib.parse import urlencode

import pytest

from features.commands.app import app as program
from features.errors import UsageError
from features.web import create_app
from tests.features.web.conftest import TOKEN

SECRET = "kept-between-friends"
PATHS = ("/", "/tiny-set/", "/tiny-set/images/0", "/tiny-set/photos/0-360.jpg", "/-/app.js", "/x")
CLICKED = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}
FETCH = """
import os, socket, sys
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.socket() as opened:
    opened.connect(("127.0.0.1", int(sys.argv[1])))
    opened.sendall(b"GET /tiny-set/ HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    said = b"".join(iter(lambda: opened.recv(1 << 16), b""))
print(os.getuid(), said.decode())
"""


@pytest.fixture(scope="module")
def guarded(shelf):
    return create_app(shelf, token=SECRET)


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_shown(guarded, path):
    for asked in (path, f"{path}?token=", f"{path}?token={SECRET[:-1]}", f"{path}?token={SECRET}a"):
        answer = guarded.test_client().get(asked)
        assert answer.status_code == 403
        assert answer.get_data(as_text=True).count("\n") == 1
        assert "the address that the terminal" in answer.get_data(as_text=True)
        assert "Set-Cookie" not in answer.headers
        assert "Refresh" not in answer.headers


def test_the_token_is_exchanged_for_a_cookie(guarded):
    client = guarded.test_client()
    answer = client.get(f"/tiny-set/?label=a+b%26c&token={SECRET}&split=val")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/tiny-set/?label=a+b%26c&split=val"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert SECRET not in cookie
    for path in ("/tiny-set/?split=val", "/tiny-set/photos/0-360.jpg", "/tiny-set/?token=old"):
        assert client.get(path).status_code == 200
    # another port is another app, though a browser sends it the same cookies
    assert client.get("/tiny-set/", headers={"Host": "localhost:81"}).status_code == 403


def test_cookies_of_another_server_are_refused(guarded, shelf):
    client = guarded.test_client()
    client.get(f"/?token={SECRET}")
    ours = client.get_cookie("scenestore-80").value
    for app, status in ((guarded, 200), (create_app(shelf, token=SECRET), 403)):
        other = app.test_client()
        other.set_cookie("scenestore-80", ours)
        assert other.get("/tiny-set/").status_code == status


def test_no_redirect_leaves_the_app(guarded):
    there = {"PATH_INFO": "//evil.example/"}
    answer = guarded.test_client().get(f"/?token={SECRET}", environ_overrides=there)
    assert answer.headers["Location"] == "/evil.example/"


def test_a_link_of_another_site_is_asked_for_again(guarded):
    answer = guarded.test_client().get("/tiny-set/?split=val", headers=CLICKED)
    assert answer.status_code == 403
    assert answer.headers["Refresh"] == "0; url=/tiny-set/?split=val"
    for name in CLICKED:  # not when it is a picture or a frame of the other page
        answer = guarded.test_client().get("/tiny-set/", headers={**CLICKED, name: "x"})
        assert "Refresh" not in answer.headers


@pytest.mark.slow
def test_links_of_another_site_in_a_browser(running, chromium):
    """With the token in it, then without, and without the cookie."""
    link = "<a href='{}/tiny-set/?split=val{}'>look</a>"
    for tokens in ((f"&{urlencode({'token': TOKEN})}", ""), ("",)):
        context = chromium.new_context()
        for token in tokens:
            page = context.new_page()
            html = link.format(running.url, token)
            page.route("http://other.test/", partial(fulfil, html))
            page.goto("http://other.test/")
            asked = []
            page.on("request", lambda one, asked=asked: asked.append(one.url))
            page.get_by_role("link").click()
            if len(tokens) == 2:
                page.wait_for_selector("h1:has-text('1 image')")
                assert page.url == f"{running.url}/tiny-set/?split=val"
            else:
                page.wait_for_timeout(500)
                assert "needs the token" in page.text_content("body")
                assert len(asked) == 2  # it does not ask for ever
        context.close()


def fulfil(html, route):
    route.fulfill(content_type="text/html", body=html)


def serve(shelf, *more, **env):
    command = [
        sys.executable,
        "-m",
        "features",
        "serve",
        str(shelf.first.store.path),
        "--port",
        "0",
    ]
    return subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )


def test_another_user_of_the_machine_gets_nothing(shelf):
    with serve(shelf) as server:
        try:
            url = next(line for line in server.stdout if line.startswith("http"))
            port, token = re.match(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{32})  ", url).groups()
            command = [sys.executable, "-c", FETCH, port]
            done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
            assert re.match(r"(?!0 )\d+ HTTP/1.\d 403 ", done.stdout)
            assert "This page needs the token" in done.stdout
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
            connection.request("GET", f"/?token={token}")
            assert connection.getresponse().status == 303
        finally:
            server.terminate()


def test_a_token_of_ones_own_or_none(shelf):
    for more, env, shown in (
        ((), {"SCENESTORE_TOKEN": "16 & more letters"}, "/?token=16+%26+more+letters  "),
        (("--no-token",), {}, "/  "),
    ):
        with serve(shelf, *more, **env) as server:
            try:
                said = [next(server.stdout) for _ in range(4 if more else 3)]
                assert shown in said[-1]
                assert ("every user of this machine" in "".join(said)) == bool(more)
            finally:
                server.terminate()


def test_a_short_token_is_refused(shelf, monkeypatch):
    monkeypatch.setenv("SCENESTORE_TOKEN", "short")
    with pytest.raises(UsageError, match="16 or more"):
        program.call(["serve", str(shelf.first.store.path)])
