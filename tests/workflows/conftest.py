"""Small data sets, and Luigi's command line run inside the test process."""

import json

import luigi
import numpy as np
import pytest
from luigi.retcodes import run_with_retcodes
from PIL import Image, ImageDraw

from workflows.build.plan import plan_of

COLOURS = ("red", "green", "blue", "orange")


def write_photos(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).integers(90, 160, (96, 128, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        draw = ImageDraw.Draw(image)
        draw.ellipse((20 + number, 20, 70 + number, 70), fill=COLOURS[number % 4])
        image.save(folder / name, quality=90)


def write_captions(path, names, captions=2):
    images = [
        {
            "filename": name,
            "split": ("train", "val", "test")[number % 3],
            "sentences": [
                {
                    "raw": f"A {COLOURS[number % 4]} ball lies on grass number {k} .",
                    "sentid": number * captions + k,
                }
                for k in range(captions)
            ],
        }
        for number, name in enumerate(names)
    ]
    path.write_text(json.dumps({"dataset": "tiny", "images": images}))
    return path


def write_graphs(path, names):
    """Write scene graphs for images without files."""
    graphs = {
        name: {
            "labels": ["man", "horse", "hat"],
            "bbox": [[10, 10, 60 + number % 7, 90], [30, 40, 120, 95], [20, 5, 40, 15]],
            "rels": [["man:0", "riding", "horse:1"], ["man:0", "wearing", "hat:2"]],
        }
        for number, name in enumerate(names)
    }
    path.write_text(json.dumps(graphs))
    return path


@pytest.fixture
def names():
    return [f"{number:03d}.jpg" for number in range(6)]


@pytest.fixture
def data(tmp_path, names):
    """Write six photos and their captions; return the options of a build."""
    write_photos(tmp_path / "photos", names)
    captions = write_captions(tmp_path / "captions.json", names)
    return {
        "--images-dir": tmp_path / "photos",
        "--captions": captions,
        "--store-dir": tmp_path / "st",
    }


@pytest.fixture
def graphs(tmp_path):
    """Write scene graphs and captions of 150 images, three shards; return the options."""
    many = [f"{number:04d}.jpg" for number in range(150)]
    return {
        "--captions": write_captions(tmp_path / "many.json", many, captions=1),
        "--detections": write_graphs(tmp_path / "graphs.json", many),
        "--detector": "scene-graphs",
        "--features": "none",
        "--store-dir": tmp_path / "st",
    }


@pytest.fixture
def run_luigi(capfd):
    """Return a function that runs a Luigi task and returns (exit code, stdout, stderr)."""

    def run(task, options, *more):
        luigi.task_register.Register.clear_instance_cache()
        plan_of.cache_clear()
        words = ["--module", "workflows", task, "--local-scheduler", "--no-lock"]
        words += [str(word) for pair in options.items() for word in pair]
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_with_retcodes([*words, *more])
        out, err = capfd.readouterr()
        return left.value.code, out, err

    return run
