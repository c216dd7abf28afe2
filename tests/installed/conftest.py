"""The wheel, installed into a fresh virtual environment outside of the checkout."""

import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.demo import make_folder

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


@dataclass(frozen=True)
class Block:
    """A block of a page that can be run."""

    title: str  # of its section
    kind: str  # sh or python; blocks of other kinds (console, toml, ...) are not run
    text: str

    @property
    def lines(self):
        """The commands, without continued lines."""
        return self.text.replace("\\\n", " ").splitlines()


def blocks(page):
    """Return the blocks of a page in order."""
    found = []
    sections = re.split(r"^#+ (.*)\n", "# \n" + (ROOT / page).read_text(), flags=re.M)[1:]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.M | re.S):
            found.append(Block(title, kind, block))
    assert found, page
    return found


def run_page(installed, place, page, before=None, notes=False):
    """Run every block of a page as printed; return what each printed, by the section's title.

    With ``notes`` that includes standard error, as a terminal shows it. ``before`` has functions
    to call in front of blocks with a given text.
    """
    said: dict[str, list[str]] = {}
    for block in blocks(page):
        for text, prepare in (before or {}).items():
            if text in block.text:
                prepare()
        if block.kind == "python":
            (place / "block.py").write_text(block.text)
            out = installed.works(place, f"{installed.bin / 'python'} block.py")
        else:
            out = installed.works(place, f"exec 2>&1\n{block.text}" if notes else block.text)
        said.setdefault(block.title, []).append(out)
    return said


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
    """Write 40 drawn photos, captions.csv, new.jpg, and the same captions as Karpathy's JSON."""
    place = tmp_path_factory.mktemp("raw")
    make_folder(place)
    images: dict[str, list[dict[str, object]]] = {}
    with (place / "captions.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            sentence = {"raw": row["caption"], "sentid": number}
            images.setdefault(row["file_name"], []).append(sentence)
    splits = ["train"] * 26 + ["val"] * 6 + ["test"] * 8
    listed = [
        {"filename": name, "split": split, "sentences": sentences}
        for split, (name, sentences) in zip(splits, images.items(), strict=True)
    ]
    (place / "captions.json").write_text(json.dumps({"dataset": "mine", "images": listed}))
    return place


@pytest.fixture(scope="session")
def mine(installed, raw, tmp_path_factory):
    """Return a folder with the store that all pages build: where it lies, building is idle."""
    place = tmp_path_factory.mktemp("mine")
    shutil.copytree(raw, place, dirs_exist_ok=True)
    (command,) = [line for line in blocks("README.md")[0].lines if " build " in line]
    assert "40 images" in installed.works(place, command)
    return place


@pytest.fixture(scope="session")
def trained(installed, mine, tmp_path_factory):
    """Return the folder with the runs of the page on trainings, as printed."""
    place = tmp_path_factory.mktemp("trained")
    shutil.copytree(mine, place, dirs_exist_ok=True)
    out = run_page(installed, place, "docs/howto/train.md")
    assert "resuming at step" in out["Train a model, stop and resume it"][1]
    assert "ensemble of 2" in out["Compare two runs"][0]
    assert "runs/words" in out["Compare two runs"][0]
    assert "words" in (place / "report.html").read_text()
    assert "sgm" in out["Know what a run is"][0].lower()
    return place
