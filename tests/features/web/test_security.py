"""What the app refuses, and that no text of a store becomes markup."""

import re

import pytest

from features.web import Shelf, create_app
from tests.features.web.conftest import QUOTES, SCRIPT

PAGES = (
    "/",
    "/tiny-set/",
    "/tiny-set/?boxes=1&confidence=0",
    "/tiny-set/?skipped=1",
    "/tiny-set/?find=dog",
    "/tiny-set/contents",
    "/tiny-set/images/0",
    "/tiny-set/images/1?compare=tiny-set-2",
    "/tiny-set/images/3",
    "/nowhere/",
)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "a@localhost", "[::1"]
)
def test_other_names_of_the_host_are_refused(client, host):
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert b"Scenestore" not in answer.data


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:8000", "[::1]:8000"])
def test_loopback_names_are_accepted_on_any_port(client, host):
    """The port can differ behind ``ssh -L``."""
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_a_network_address_takes_its_names_and_addresses_only(shelf):
    client = create_app(shelf, hosts=["box.lan"], any_address=True).test_client()
    for host, status in {"box.lan:1": 200, "10.0.0.7:1": 200, "evil.example": 421}.items():
        assert client.get("/", headers={"Host": host}).status_code == status


def test_other_origins_are_refused(client):
    for origin, status in {
        "http://localhost": 200,
        "http://evil.example": 403,
        "null": 403,
        "http://localhost:81": 403,
    }.items():
        answer = client.get("/", headers={"Host": "localhost", "Origin": origin})
        assert answer.status_code == status, origin


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/tiny-set/", "/tiny-set/images/0", "/nowhere/x/y"])
def test_the_app_only_reads(client, method, path):
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/tiny-set/photos/../../../etc/passwd",
        "/tiny-set/photos/..%2f..%2fetc%2fpasswd",
        "/tiny-set/photos/a.jpg",
        "/tiny-set/photos/0-99999.jpg",
        "/tiny-set/photos/-1-360.jpg",
        "/tiny-set/photos/99-360.jpg",
        "/tiny-set/photos/99999999999999999999-360.jpg",
        "/-/../app.py",
        "/-/..%2fapp.py",
        "/-/app.py",
        "/tiny-set/images/%2e%2e",
        "/tiny-set/image?id=../../etc/passwd",
    ],
)
def test_no_path_of_a_url_reaches_the_disk(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert b"root:" not in answer.data


def test_a_store_cannot_name_files_outside_the_photos(tmp_path, photos):
    import features
    from features.records import ImageEntry

    (tmp_path / "secret.jpg").write_bytes((photos / "a.jpg").read_bytes())
    inside = tmp_path / "inside"
    inside.mkdir()
    entries = [ImageEntry("x", "fine.jpg", "train"), ImageEntry("y", "y.jpg", "train")]
    shelf = Shelf([features.build_store(tmp_path / "store", "s", entries)], [inside])
    site = shelf.first
    assert site.photos.jpeg("../secret.jpg", 360) == b""
    assert site.photos.jpeg(str(tmp_path / "secret.jpg"), 360) == b""
    assert not site.photos.has("../secret.jpg")
    (inside / "y.jpg").write_bytes((photos / "a.jpg").read_bytes())
    assert create_app(shelf).test_client().get("/s/photos/1-360.jpg").status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_has_the_headers_and_no_inline_code(client, path):
    answer = client.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    html = answer.get_data(as_text=True)
    assert not re.search(r"<script(?! src=\"/-/app\.js)", html)
    assert not re.search(r"\s(style|on\w+)=", re.sub(r">[^<]*<", "><", html))
    assert not re.search(r"(src|href|action)=\"(?!/|#)", html)


def test_texts_of_a_store_are_escaped(client):
    page = client.get("/tiny-set/images/0").get_data(as_text=True)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "tom&#39;s &#34;dog&#34; &amp; &lt;b&gt;co&lt;/b&gt;" in page
    for path in (*PAGES, "/tiny-set/?label=" + QUOTES.replace("&", "%26"), f"/{SCRIPT}/",
                 f"/tiny-set/?find={SCRIPT}", f"/tiny-set/?split={SCRIPT}"):  # fmt: skip
        html = client.get(path).get_data(as_text=True)
        assert SCRIPT not in html, path
        assert "<b>co</b>" not in html, path


def test_a_damaged_photo_and_long_urls_are_errors_of_the_reader(client):
    assert client.get("/tiny-set/photos/3-360.jpg").status_code == 400
    assert client.get("/tiny-set/?find=" + "a" * 5000).status_code == 414
    assert client.get("/tiny-set/?find=" + "a" * 400).status_code == 400


def test_unpaired_surrogates_do_not_break_a_page(client, shelf, monkeypatch):
    monkeypatch.setattr(type(shelf.first), "caption", lambda self, row: "half \ud800 sign")
    answer = client.get("/tiny-set/")
    assert answer.status_code == 200
    assert "half ? sign" in answer.get_data(as_text=True)
