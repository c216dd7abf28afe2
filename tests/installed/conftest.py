"""The wheel, installed into a fresh virtual environment outside of the checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel."""

    bin: Path
    site: Path

    def run(self, place, command, **more):
        """Run a command of a shell in a folder; no trace may appear."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=place,
            env={**environment, "COLUMNS": "80", **more},
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
        return done

    def works(self, place, command, **more):
        """Run a command that must succeed; return its standard output."""
        done = self.run(place, command, **more)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Build the wheel and install it; the packages that it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    isolated = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    subprocess.run([*pip, "wheel", "--no-deps", *isolated, "--wheel-dir", folder, ROOT], check=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = Path(found.stdout.strip())
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = folder.glob("scenestore-*.whl")
    subprocess.run(
        [*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True
    )
    luigi = python.with_name("luigi")  # installed with the package luigi, which is elsewhere
    main = "if __name__ == '__main__':\n    luigi_run()\n"
    luigi.write_text(f"#!{python}\nfrom luigi.cmdline import luigi_run\n{main}")
    luigi.chmod(0o755)
    return Installed(python.parent, site)


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Write 30 photos of one or two shapes, and a captions file."""
    place = tmp_path_factory.mktemp("raw")
    (place / "photos").mkdir()
    listed = []
    for number in range(30):
        colour = ("red", "green", "blue")[number % 3]
        noise = np.random.default_rng(number).integers(90, 160, (96, 128, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        ImageDraw.Draw(image).ellipse((20 + number, 20, 70 + number, 70), fill=colour)
        image.save(place / "photos" / f"{number:02d}.jpg")
        texts = [f"A {colour} ball lies on the grass .", f"The ball is {colour} .", "A ball ."]
        texts += [f"Something {colour} is round .", "There is grass ."]
        sentences = [{"raw": text, "sentid": 5 * number + at} for at, text in enumerate(texts)]
        split = "train" if number < 20 else "val" if number < 25 else "test"
        listed.append({"filename": f"{number:02d}.jpg", "split": split, "sentences": sentences})
    (place / "captions.json").write_text(json.dumps({"dataset": "mine", "images": listed}))
    return place
