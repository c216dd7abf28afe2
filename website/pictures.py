"""Make the pictures of README and the tutorial: ``make pictures`` (needs Chromium).

The commands of the tutorial and a small demo run in ``build/pictures``, which is kept, so that a
second run only repeats the drawings. Everything shown is drawn by the demo.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import FLAGS, NAMES

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
WORK = ROOT / "build" / "pictures"


def scenestore(*words: str) -> None:
    """Run a command in the folder of the pictures."""
    subprocess.run([sys.executable, "-m", "scenestore", *words], cwd=WORK, check=True)


def photograph(page: Path, name: str, wide: int, *parts: tuple[str, int]) -> None:
    """Save parts of a page below each other, each a selector and how many pixels to show."""
    if not page.exists():
        sys.exit(f"error: {page} was not written. See the output of its command above.")
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit("error: no Chromium is installed. Install it, and run make pictures again.")
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        chromium = started.chromium.launch(executable_path=browser, args=list(FLAGS))
        tab = chromium.new_page(viewport={"width": wide, "height": 900})
        tab.goto(page.as_uri())
        tab.add_style_tag(content="nav { position: static !important }")
        shot = Path(folder, "page.png")
        tab.screenshot(path=shot, full_page=True)
        tops = [max(0, int(tab.locator(one).first.bounding_box()["y"]) - 20) for one, _ in parts]
        chromium.close()
        image = Image.open(shot)
        sheet = Image.new("RGB", (image.width, sum(tall for _, tall in parts)))
        below = 0
        for top, (_, tall) in zip(tops, parts, strict=True):
            sheet.paste(image.crop((0, top, image.width, top + tall)), (0, below))
            below += tall
        sheet.save(shot)
        save(shot, name, wide)


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


if __name__ == "__main__":
    main()
