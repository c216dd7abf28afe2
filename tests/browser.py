"""Headless Chromium for tests of pages: what it reports, and what axe-core finds.

A test takes the fixture ``open_page``; it is skipped where Playwright or Chromium is missing.
Playwright starts the Chromium that is installed and downloads none; ``SCENESTORE_CHROMIUM`` names
another one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BAD = ("serious", "critical")


@dataclass
class Visit:
    """A page in a browser, and what happened on it.

    Attributes:
        page: Playwright's page.
        problems: messages of the console (errors and warnings) and failed requests.
        requests: URLs that were requested, without ``data:`` and ``blob:``.
    """

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def external(self) -> list[str]:
        """Return the requests to other hosts than that of the page."""
        here = urlsplit(self.page.url)
        return [
            url
            for url in self.requests
            if (urlsplit(url).scheme, urlsplit(url).netloc) != (here.scheme, here.netloc)
        ]

    def accessibility(self) -> list[str]:
        """Return the serious and critical findings of axe-core, with the elements."""
        axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python")
        # evaluated by the debugger, so a Content-Security-Policy does not stop it
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(axe.AXE_SCRIPT)
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['impact']} {one['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
            for one in found["violations"]
            if one["impact"] in BAD
            for node in one["nodes"]
        ]

    def look(self, width: int, dark: bool) -> None:
        """Change the width of the window and the colour scheme."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def faults(self) -> list[str]:
        """Return all that is wrong with the page at 1280 and 400 pixels, in light and dark.

        The console, requests to other hosts, axe-core, the width, and the use by keyboard alone.
        """
        found = [*self.problems, *self.external()]
        for width, dark in ((1280, False), (1280, True), (400, True), (400, False)):
            self.look(width, dark)
            where = f"{width} px, {'dark' if dark else 'light'}: "
            found += [where + one for one in self.accessibility()]
            if wider := self.overflow():
                found.append(f"{where}{wider} pixels wider than the window")
            if not dark:
                found += [where + one for one in self.unreached()]
        return found

    def tab_stops(self, most: int = 400) -> list[str]:
        """Press Tab until the focus leaves the page or comes back; return what had it.

        Each is the tag and the text or label, for example ``a: Runs``.
        """
        self.page.evaluate("() => document.activeElement.blur()")
        stops: list[str] = []
        self.page.evaluate("() => { window.stops = new Set() }")
        for _ in range(most):
            self.page.keyboard.press("Tab")
            stop = self.page.evaluate(_FOCUSED)
            if not stop:
                break
            stops.append(stop)
        return stops

    def unreached(self) -> list[str]:
        """Press Tab through the page; return what the keyboard alone cannot use.

        That is what reacts to a pointer and never gets the focus, a focus that cannot be seen
        (no outline, or outside of the window), and a focus that does not leave the page again.
        """
        count = self.page.evaluate(_NUMBERED)
        found: list[str] = []
        reached = set()
        for _ in range(count + 3):
            self.page.keyboard.press("Tab")
            stop = self.page.evaluate(_STOP)
            if stop is None or stop["number"] in reached:
                break
            reached.add(stop["number"])
            if not stop["seen"]:
                found.append(f"its focus is not visible: {stop['name']}")
        else:
            found.append(f"the focus does not leave the page after {count + 3} stops")
        return found + self.page.evaluate(_MISSED, sorted(reached))

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        root = "document.documentElement"
        wide: int = self.page.evaluate(f"() => {root}.scrollWidth - {root}.clientWidth")
        return wide


# what reacts to a pointer or to keys and can be seen; its place in the list is its number
_NUMBERED = """() => {
  document.activeElement.blur();
  getSelection().removeAllRanges();
  window.scrollTo(0, 0);
  const kinds = "a[href], button, input:not([type=hidden]), select, textarea, summary, "
    + "[tabindex='0'], [data-boxes], [data-shares], [onclick], [contenteditable]";
  const can = (one) => one.checkVisibility({visibilityProperty: true}) && !one.disabled;
  window.known = [...document.querySelectorAll(kinds)].filter(can);
  window.called = (one) => {
    const text = one.getAttribute("aria-label") || one.textContent.trim() || one.name || "";
    return `${one.tagName.toLowerCase()}: ${text.replace(/\\s+/g, " ").slice(0, 80)}`;
  };
  return window.known.length;
}"""
# the number of the element with the focus and whether one sees that it has it; null for the body
_STOP = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  const inside = box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
  return {number: window.known.indexOf(one), name: window.called(one), seen: outlined && inside};
}"""
_MISSED = """(reached) => window.known.filter((one, at) => !reached.includes(at))
  .map((one) => `is not reached: ${window.called(one)}`)"""

# the element that has the focus, "" for the body and for one that had it before
_FOCUSED = """() => {
  const one = document.activeElement;
  if (!one || one === document.body || window.stops.has(one)) return "";
  window.stops.add(one);
  const text = one.getAttribute("aria-label") || one.textContent.trim() || one.name || "";
  return `${one.tagName.toLowerCase()}: ${text.replace(/\\s+/g, " ").slice(0, 80)}`;
}"""


@pytest.fixture(scope="module")  # Playwright keeps an event loop running in this thread
def chromium() -> Iterator[Any]:
    """A running browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("SCENESTORE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
    if not path:
        pytest.skip("no Chromium is installed, and SCENESTORE_CHROMIUM names none")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """A function that opens a URL: ``open_page(url, width=400, dark=True) -> Visit``."""
    contexts: list[Any] = []

    def visit(url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        contexts.append(context)
        found = Visit(context.new_page())
        found.page.on("console", lambda message: _note(found, message))
        found.page.on("pageerror", lambda error: found.problems.append(str(error)))
        found.page.on("requestfailed", lambda one: found.problems.append(f"failed: {one.url}"))
        found.page.on("request", lambda one: _count(found, one.url))
        found.page.goto(url)
        return found

    yield visit
    for context in contexts:
        context.close()


def _note(found: Visit, message: Any) -> None:
    if message.type in ("error", "warning"):
        found.problems.append(f"{message.type}: {message.text}")


def _count(found: Visit, url: str) -> None:
    if urlsplit(url).scheme not in ("data", "blob"):
        found.requests.append(url)
