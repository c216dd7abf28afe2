"""The documentation site: it builds strictly, no link is dead, and it works without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from website.commands import commands_page
from website.configuration import configuration_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


def anchors_of(page):
    """Return the anchors of a Markdown page, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_the_repository_are_alive(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        url = urllib.parse.urlsplit(target)
        if url.scheme:
            assert url.scheme in ("https", "http", "mailto"), target
            assert re.fullmatch(r"[\w.-]+\.\w+", url.netloc), target
            continue
        path = (page.parent / url.path).resolve() if url.path else page
        if not path.exists() or (
            url.fragment and path.suffix == ".md" and url.fragment not in anchors_of(path)
        ):
            dead.append(target)
        elif re.fullmatch(r"L\d+", url.fragment):
            lines = path.read_text(encoding="utf-8").count("\n")
            assert int(url.fragment[1:]) <= lines, target
    assert dead == []


def test_every_command_and_option_is_described():
    page = commands_page()
    for name in ("build", "train", "find", "verify", "parse", "detect", "docs", "import"):
        assert f"### scenestore {name}\n" in page
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \| .*\|$", page, re.M)
    assert len(rows) > 150
    assert [flag for flag, meaning in rows if not meaning] == []
    page = configuration_page()
    assert "| `run.epochs` | passes over the training split | int | `30` |" in page
    assert re.search(r"^\| `propagation` \| ``paper``: a node receives", page, re.M)


def test_the_citation_names_this_version_and_every_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= set(cited)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{cited["version"]}"' in project
    assert len(cited["references"]) == 5
    for one in cited["references"]:
        assert {"type", "title", "authors", "year"} <= set(one)
        assert one["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids |= {named[key] for key in ("id", "name") if named.get(key)}
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        elif tag in ("link", "script", "img", "source", "iframe"):
            self.loaded += [named[key] for key in ("href", "src") if named.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_page_of_the_site_has_a_dead_link_or_loads_from_elsewhere(site):
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = _Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are those of the server's root
        for target in page.loaded + page.links:
            url = urllib.parse.urlsplit(target)
            where = f"{path.relative_to(site)}: {target}"
            if url.scheme:
                assert target in page.links, f"{where} is loaded from elsewhere"
                continue
            file = (
                path if not url.path else (path.parent / urllib.parse.unquote(url.path)).resolve()
            )
            if not file.exists():
                dead.append(where)
            elif url.fragment and file in pages:
                fragment = urllib.parse.unquote(url.fragment)
                if fragment not in pages[file].ids and fragment != "__skip":
                    dead.append(where)
    assert dead == []
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {one["location"] for one in index["docs"] if "metadata.jsonl" in one["title"]}
    assert found == {"howto/data.html#read-metadatajsonl-of-hugging-face"}


@pytest.mark.slow
def test_the_site_works_in_a_browser_without_a_network(site, open_page):
    for name in ("index.html", "tutorial.html", "howto/attention.html", "concepts/graphs.html"):
        visit = open_page((site / name).as_uri())
        assert visit.external() == []
        assert visit.problems == []
        for width, dark in ((1280, False), (400, True), (1280, True), (400, False)):
            visit.look(width, dark)
            assert visit.overflow() == 0, f"{name} at {width}"
            assert visit.accessibility() == [], f"{name} at {width}, {'dark' if dark else 'light'}"
    visit = open_page((site / "index.html").as_uri())
    visit.page.fill("input[name=query]", "Hugging Face metadata")
    link = visit.page.locator(".md-search-result__link", has_text="metadata.jsonl").first
    link.wait_for(timeout=20_000)
    assert "howto/data.html" in link.get_attribute("href")
    assert visit.external() == []
