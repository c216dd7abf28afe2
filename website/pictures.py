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

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "pictures"
WORK = ROOT / "build" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def scenestore(*words: str) -> None:
    """Run a command in the folder of the pictures."""
    subprocess.run([sys.executable, "-m", "scenestore", *words], cwd=WORK, check=True)


def photograph(page: Path, name: str, size: tuple[int, int], wide: int) -> None:
    """Save the top of a page as a picture ``wide`` pixels wide; ``size`` is that of the window."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("error: no Chromium is installed. Install it, and run make pictures again.")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        window = f"--window-size={size[0]},{size[1]}"
        user = f"--user-data-dir={folder}/user"
        subprocess.run(
            [browser, *FLAGS, user, window, f"--screenshot={shot}", page.as_uri()],
            check=True,
            capture_output=True,
        )
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
    photograph(WORK / "found.html", "tutorial-found", (1100, 900), 1100)
    scenestore("demo", "--demo-dir", "demo", "--images", "150")
    photograph(WORK / "demo" / "report.html", "report", (1280, 1150), 1280)


if __name__ == "__main__":
    main()
