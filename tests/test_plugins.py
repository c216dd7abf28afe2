"""Plug-ins of all kinds through real processes; tests/installed runs the commands of the page."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import features
from features import plugins
from features.errors import MissingInput, UsageError
from features.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("own_*"))
KINDS = {
    "detector": ("bright-spot", "visual", "detector"),
    "relations": ("nearest", "visual", "relations"),
    "features": ("mean-colour", "regions", "features"),
    "parser": ("plain", "tokens", "parser"),
}
CHOICES = [word for kind, (name, _, _) in KINDS.items() for word in (f"--{kind}", name)]


@pytest.fixture
def place(tmp_path):
    """Return a folder with photos, captions and the example plug-ins."""
    (tmp_path / "photos").mkdir()
    listed = []
    for number in range(9):
        image = Image.new("RGB", (64, 48), (40 * (number % 3), 90, 20))
        ImageDraw.Draw(image).ellipse((10 + number, 10, 30 + number, 30), fill="white")
        image.save(tmp_path / "photos" / f"{number}.png")
        words = f"a white ball on {('red', 'green', 'blue')[number % 3]} grass"
        split = ("train", "val", "test")[number // 3]
        sentences = [{"raw": words, "sentid": number}]
        listed.append({"filename": f"{number}.png", "split": split, "sentences": sentences})
    (tmp_path / "captions.json").write_text(json.dumps({"dataset": "own", "images": listed}))
    for name in EXAMPLES:
        shutil.copy(ROOT / "examples" / name, tmp_path)
    return tmp_path


def run(place, command, path=(), **more):
    """Run a command of a shell in a folder; its programs are those of this environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *map(str, path)])
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=place,
        env={**environment, **more},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def build(*words):
    base = "luigi --local-scheduler BuildDataset --images-dir photos --captions captions.json"
    return " ".join([base, "--store-dir st", *words])


def used(place, store="st"):
    """Return the name of each kind of plug-in that a store records."""
    opened = features.open_store(place / store)
    found = {}
    for kind, (_, group, key) in KINDS.items():
        value = opened.group(group).manifest.params["parameters"][key]
        found[kind] = value if isinstance(value, str) else value["name"]
    return found


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_shows_the_examples():
    shown = {*blocks("python"), *blocks("yaml")}
    assert shown == {(ROOT / "examples" / name).read_text() for name in EXAMPLES}
    for name in EXAMPLES:
        assert f"`{name}`" in PAGE


@pytest.mark.cluster
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_build_finds_plugins_in_files(place, jobs):
    files = ",".join(name for name in EXAMPLES if name.endswith(".py") and "model" not in name)
    command = build("--module workflows", *CHOICES, "--plugins", files, f"--jobs {jobs}")
    done = run(place, command)
    assert done.returncode == 0, done.stderr
    assert used(place) == {kind: name for kind, (name, _, _) in KINDS.items()}
    again = run(place, command.replace("--plugins " + files, ""), SCENESTORE_PLUGINS=files)
    assert "nothing to build" in again.stdout, again.stderr


@pytest.mark.cluster
def test_a_build_finds_plugins_of_luigis_module(place):
    lab = place / "code" / "lab"
    lab.mkdir(parents=True)
    (lab / "__init__.py").write_text("import workflows\nfrom lab import parser, vision\n")
    shutil.copy(place / "own_parser.py", lab / "parser.py")
    parts = [(place / f"own_{kind}.py").read_text() for kind in ("relations", "extractor")]
    (lab / "vision.py").write_text("\n".join(parts).replace("from __future__", "# "))
    chosen = [word for pair in zip(CHOICES[2::2], CHOICES[3::2], strict=True) for word in pair]
    done = run(place, build("--module lab", *chosen, "--jobs 1"), [place / "code"])
    assert done.returncode == 0, done.stderr
    assert {**used(place), "detector": ""} == {
        **{kind: name for kind, (name, _, _) in KINDS.items()},
        "detector": "",
    }


@pytest.mark.cluster
def test_a_build_finds_plugins_of_installed_packages(place):
    """The entry points of the page; their files are in a folder of PYTHONPATH only."""
    site, lines = place / "site", []
    for snippet in blocks("toml"):
        for group, entries in tomllib.loads(snippet)["project"]["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    assert len(lines) == 10
    about = site / "own-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name in EXAMPLES:
        shutil.move(place / name, site / name)
    done = run(place, build("--module workflows", *CHOICES, "--jobs 2"), [site])
    assert done.returncode == 0, done.stderr
    assert used(place) == {kind: name for kind, (name, _, _) in KINDS.items()}
    words = "python -m models.train site/own_model.yaml --data.store st --run.max_steps 1"
    done = run(place, words, [site])
    assert done.returncode == 0, done.stderr


@pytest.mark.cluster
def test_workers_of_a_running_scheduler_import_the_files(place):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        where = f"--scheduler-address {cluster.scheduler_address}"
        chosen = "--parser plain --detector bright-spot --plugins own_parser.py,own_detector.py"
        done = run(place, build("--module workflows", chosen, where))
    assert done.returncode == 0, done.stderr
    assert (used(place)["detector"], used(place)["parser"]) == ("bright-spot", "plain")


@pytest.mark.cluster
def test_a_program_that_registers_a_plugin_builds_with_it(place):
    """The module of the plug-in is ``__main__`` in the program and another one in its workers."""
    source = (place / "own_parser.py").read_text()
    (place / "program.py").write_text(
        source
        + textwrap.dedent("""

        if __name__ == "__main__":
            import luigi

            options = {"images_dir": "photos", "captions": "captions.json", "store_dir": "st"}
            task = workflows.BuildDataset(**options, detector="none", parser="plain", jobs=2)
            raise SystemExit(not luigi.build([task], local_scheduler=True))
        """)
    )
    done = run(place, "python program.py")
    assert done.returncode == 0, done.stderr
    assert len(features.open_store(place / "st").captions) == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "nowhere.py: there is no such plug-in file"),
        ("import nothing_like_it\n", "mine.py, line 1: ModuleNotFoundError"),
        ("x = 1\ny = x.z\n", "mine.py, line 2: AttributeError"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_an_error_of_one_line(place, text, words):
    name = "nowhere.py" if text is None else "mine.py"
    if text is not None:
        (place / name).write_text(text)
    for command in (
        build("--module workflows --detector none --plugins", name),
        f"python -m pipeline parse --plugins {name} 'A dog.'",
    ):
        done = run(place, command)
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr


def test_a_class_without_a_needed_method_is_an_error_of_one_line(place):
    source = (place / "own_detector.py").read_text()
    (place / "own_detector.py").write_text(source.replace("def covers", "def cover"))
    command = build("--module workflows --detector bright-spot --plugins own_detector.py")
    done = run(place, command)
    assert done.returncode == 30
    assert done.stderr.count("\n") == 1
    assert "detector 'bright-spot' (own_detector.BrightSpot) has no 'covers'" in done.stderr


@pytest.fixture
def forgotten(monkeypatch):
    """Restore what is known about plug-ins after a test."""
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_another_process_gets_files_of_packages_and_names_of_installed_modules(tmp_path, forgotten):
    package = tmp_path / "away" / "pack" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    file = package / "mine.py"
    file.write_text("from pack import inner\n")
    plugins.load_plugins(str(file))
    assert sys.modules["pack.inner.mine"].__file__ == str(file)
    plugins.note_plugin("pack.inner.mine")
    plugins.note_plugin("pipeline.detect")
    plugins.note_plugin("pytest")
    assert plugins.plugins_in_use() == (str(file), "pytest")
    assert plugins.inherited() == {plugins.VARIABLE: f"{file},pytest"}


def test_a_file_named_like_another_module_is_an_error(tmp_path, forgotten):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UsageError, match=r"'json' belongs to .*json.*Rename the file"):
        plugins.load_plugins(str(tmp_path / "json.py"))
    with pytest.raises(MissingInput, match="no module named 'not_there'"):
        plugins.load_plugins("not_there.vision")


def test_a_registry_imports_the_modules_of_the_environment(tmp_path, forgotten, monkeypatch):
    things = Registry("thing", "scenestore.things")
    monkeypatch.setattr(features, "things", things, raising=False)
    source = "import features\n@features.things.register('red')\ndef red():\n    return 1\n"
    (tmp_path / "a_thing.py").write_text(source)
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "a_thing.py"))
    assert things.names() == ["red"]
    assert things.create("red") == 1
    assert plugins.plugins_in_use() == (str(tmp_path / "a_thing.py"),)


def test_the_example_extractor_and_relations():
    import runpy

    from features.records import Detections
    from pipeline.vision import extractor_registry, relation_predictors

    for name in ("own_extractor.py", "own_relations.py"):
        runpy.run_path(str(ROOT / "examples" / name))
    boxes = np.array([[0, 0, 10, 10], [8, 0, 18, 10], [40, 40, 50, 50]], np.float32)
    found = Detections(boxes, ("a", "b", "c"), np.ones(3, np.float32), (100, 100))
    relations, scores = relation_predictors.create("nearest").predict(found, 2)
    assert relations == ((0, "near", 1), (1, "near", 0))
    assert (np.diff(scores) <= 0).all()

    class Red:
        size = (100, 100)

        def rgb(self):
            return np.full((100, 100, 3), (255, 0, 0), np.uint8)

    rows = extractor_registry.create("mean-colour").pool(Red(), boxes)
    assert rows[:, :3].tolist() == [[1, 0, 0]] * 3
    assert rows[2, 3:].tolist() == pytest.approx([0.4, 0.4, 0.5, 0.5])
