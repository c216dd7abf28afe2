"""Every command and the Python block of README, as printed, from an installed wheel."""

import csv
import json
import re
import shutil

import pytest

from tests.installed.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
PAGE = (ROOT / "README.md").read_text()
# Blocks of kind ``console`` install packages; the suite and its fixtures have done so.
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def place(raw, tmp_path_factory):
    """Return a folder as README describes it: photos with a CSV, and a small Flickr30k."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(raw / "photos", place / "photos")
    shutil.copy(raw / "photos" / "00.jpg", place / "new.jpg")
    listed = json.loads((raw / "captions.json").read_text())["images"]
    with (place / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "caption"])
        for image in listed:
            rows.writerows([image["filename"], text["raw"]] for text in image["sentences"])
    folder = place / "flickr30k" / "flickr30k-images"
    folder.mkdir(parents=True)
    for number, image in enumerate(listed):
        name = f"{1000092795 + number}.jpg"
        shutil.copy(raw / "photos" / image["filename"], folder / name)
        image["filename"] = name
        for at, text in enumerate(image["sentences"]):
            text["sentid"] = 335 + 5 * number + at
    (place / "flickr30k" / "dataset_flickr30k.json").write_text(json.dumps({"images": listed}))
    return place


def test_every_block_runs(installed, place):
    """The blocks share the folder and build on each other, so they are one test."""
    said = []
    for kind, block in BLOCKS:
        if kind == "python":
            (place / "block.py").write_text(block)
            said.append(installed.works(place, f"{installed.bin / 'python'} block.py"))
        else:
            said.append(installed.works(place, block))
    assert len(BLOCKS) == 5
    assert "00.jpg" in said[0]
    for made in ("graph.png", "found.html", "report.html", "runs/vse/best.safetensors"):
        assert (place / made).stat().st_size > 1000, made
