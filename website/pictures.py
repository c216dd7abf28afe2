"""Make the pictures of README and the tutorial: ``make pictures`` (needs Chromium).

The commands of the tutorial and a small demo run in ``build/pictures``, which is kept, so that a
second run only repeats the drawings. Everything shown is drawn by the demo.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import FLAGS, NAMES

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
WORK = ROOT / "build" / "pictures"


def scenestore(*words: str) -> None:
    """Run a command in the folder of the pictures."""
    subprocess.run([sys.executable, "-m", "scenestore", *words], cwd=WORK, check=True)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Start Chromium."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        sys.exit("error: no Chromium is installed. Install it, and run make pictures again.")
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


def photograph(page: Path, name: str, wide: int, *parts: tuple[str, int]) -> None:
    """Save parts of a page below each other, each a selector and how many pixels to show."""
    if not page.exists():
        sys.exit(f"error: {page} was not written. See the output of its command above.")
    with browser() as chromium, tempfile.TemporaryDirectory() as folder:
        tab = chromium.new_page(viewport={"width": wide, "height": 900})
        tab.goto(page.as_uri())
        tab.add_style_tag(content="nav { position: static !important }")
        shot = Path(folder, "page.png")
        tab.screenshot(path=shot, full_page=True)
        tops = [max(0, int(tab.locator(one).first.bounding_box()["y"]) - 20) for one, _ in parts]
        image = Image.open(shot)
        sheet = Image.new("RGB", (image.width, sum(tall for _, tall in parts)))
        below = 0
        for top, (_, tall) in zip(tops, parts, strict=True):
            sheet.paste(image.crop((0, top, image.width, top + tall)), (0, below))
            below += tall
        sheet.save(shot)
        save(shot, name, wide)


def attention() -> None:
    """Photograph the words of a caption on the regions of a scene, with the run of the demo."""
    runs = ["--run", "demo/runs/sgm", "--images-dir", "demo/input/scenes/images"]
    store = next((WORK / "demo" / "store").glob("scenes-*.json"))
    command = [sys.executable, "-m", "scenestore", "serve", str(store), *runs]
    with subprocess.Popen(
        [*command, "--port", "0", "--no-token"], cwd=WORK, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = next(line.split()[0] for line in server.stdout if line.startswith("http"))
        try:
            with browser() as chromium, tempfile.TemporaryDirectory() as folder:
                tab = chromium.new_page(viewport={"width": 1000, "height": 1100})
                tab.goto(f"{address}scenes/images/59/words?run=sgm&caption=297")
                tab.locator("[data-shares]", has=tab.locator("b", has_text="basket")).first.click()
                tab.mouse.move(0, 0)
                shot = Path(folder, "page.png")
                tab.locator(".view").screenshot(path=shot)
                with Image.open(shot) as image:
                    image.crop((0, 0, image.width, 630)).save(shot)
                save(shot, "attention", 952)
        finally:
            server.terminate()


def save(picture: Path, name: str, wide: int) -> None:
    """Save a picture as WebP, at most ``wide`` pixels wide."""
    image = Image.open(picture).convert("RGB")
    if image.width > wide:
        image = image.resize((wide, round(image.height * wide / image.width)), Image.LANCZOS)
    image.save(OUT / f"{name}.webp", quality=82, method=6)


def main() -> None:
    """Run the commands and save the pictures."""
    WORK.mkdir(parents=True, exist_ok=True)
    scenestore("scenes", ".")
    build = "build --images-dir photos --captions captions.csv --split-by 60/20/20"
    scenestore(*build.split(), "--store-dir", "stores/mine")
    graph = ["--images-dir", "photos", "--out", "graph.png"]
    scenestore("draw", "stores/mine", "04.jpg", *graph)
    save(WORK / "graph.png", "tutorial-graph", 900)
    found = ["--html", "found.html", "--images-dir", "photos"]
    scenestore("find", "stores/mine", "ball - on - *", *found)
    photograph(WORK / "found.html", "tutorial-found", 1000, ("body", 760))
    scenestore("demo", "--demo-dir", "demo", "--images", "150")
    photograph(WORK / "demo" / "report.html", "report", 1180, ("body", 345), ("#graphs", 602))
    attention()


if __name__ == "__main__":
    main()
