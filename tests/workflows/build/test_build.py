"""Builds on Luigi's command line: repeated, changed, killed, and with bad input."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import features
from features.format import files as atomic
from features.format.files import read_sealed, write_sealed
from features.format.manifest import read_store_manifest, store_manifest_path
from features.maintenance.verify import verify_store
from models.configuration.files import shipped
from workflows.build import summary

pytestmark = pytest.mark.cluster


def folders(store):
    return {path.name for path in Path(store).iterdir() if path.is_dir()}


def stamps(store):
    return {path: path.stat().st_mtime_ns for path in Path(store).rglob("*.h5")}


def test_photos_become_a_store_and_the_second_run_builds_nothing(data, names, run_luigi):
    code, out, err = run_luigi("BuildFlickr30k", data, "--jobs", "1")
    assert (code, err.count("error:")) == (0, 0)
    assert "flickr30k: 6 images (" in out
    store = features.open_store(data["--store-dir"])
    assert sorted(store.images["id"]) == names
    assert len(store.captions) == 12
    graph = store.graph(names[0])
    assert graph.size == (128, 96)
    assert len(graph.boxes) >= 1
    before = stamps(data["--store-dir"])
    code, out, _ = run_luigi("BuildFlickr30k", data, "--jobs", "2")
    assert code == 0
    assert "nothing to build" in out
    assert stamps(data["--store-dir"]) == before


def test_flickr8k_is_built_from_karpathy_or_from_the_official_lists(tmp_path, run_luigi, graphs):
    """Images in no list, and the id that has no photo, are not part of the data set."""
    names = [f"{number:04d}.jpg" for number in range(9)]
    lists = {"train": names[:4], "dev": names[4:6], "test": names[6:8]}
    text = tmp_path / "Flickr8k_text"
    text.mkdir()
    for split, some in lists.items():
        (text / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{one}\r\n" for one in some))
    lines = [f"{one}#{k}\tA  dog {k} runs .\n" for one in (*names, "22_a.jpg.1") for k in range(2)]
    (text / "Flickr8k.token.txt").write_text("".join(lines))
    images = [
        {
            "filename": one,
            "split": {"dev": "val"}.get(split, split),
            "sentences": [{"raw": f"A dog {k} runs ."} for k in range(2)],
        }
        for split, some in lists.items()
        for one in some
    ]
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    keys = []
    for captions in (text / "Flickr8k.token.txt", tmp_path / "dataset_flickr8k.json"):
        options = {**graphs, "--captions": captions}
        code, out, err = run_luigi("BuildFlickr8k", options, "--jobs", "1")
        assert code == 0, err
        (counts,) = [line for line in out.splitlines() if line.startswith("flickr8k: 8 images (")]
        assert counts.endswith("), 16 captions")
        assert all(count in counts for count in ("train 4", "val 2", "test 2"))
        keys.append(read_latest(graphs)["groups"]["index"]["key"])
    assert "nothing to build" in out
    assert keys[0] == keys[1]
    (text / "Flickr_8k.devImages.txt").unlink()
    options["--captions"] = text / "Flickr8k.token.txt"
    code, _, err = run_luigi("BuildFlickr8k", options, "--jobs", "1")
    assert code == 30
    assert "the list of val images is missing beside Flickr_8k.trainImages.txt" in err


def test_a_new_profile_rebuilds_text_alone_and_reports_why(graphs, run_luigi):
    assert run_luigi("BuildDataset", graphs, "--jobs", "1")[0] == 0
    first, before = read_latest(graphs), folders(graphs["--store-dir"])
    code, _, err = run_luigi("BuildDataset", graphs, "--jobs", "1", "--profile", "spice")
    assert code == 0
    new = folders(graphs["--store-dir"]) - before
    assert [name.split("-")[0] for name in new] == ["text"]
    assert "triplets: profile extended -> spice" in err
    code, out, _ = run_luigi("BuildDataset", graphs, "--jobs", "1")
    assert "nothing to build" in out
    assert read_latest(graphs)["key"] == first["key"]


@pytest.mark.parametrize("group", ["index", "regions", "tokens"])
def test_only_a_lost_shard_is_rebuilt(graphs, run_luigi, group):
    """Also one of a stage that only complete stages require, and one whose sidecar is cut."""
    assert run_luigi("BuildDataset", graphs, "--jobs", "1")[0] == 0
    before, first = stamps(graphs["--store-dir"]), read_latest(graphs)
    lost = next(Path(graphs["--store-dir"]).glob(f"{group}-*/00001.h5"))
    lost.unlink()
    rebuilt = {lost}
    if group == "regions":
        sidecar = lost.with_name("00000.json")
        sidecar.write_bytes(sidecar.read_bytes()[:-9])
        rebuilt.add(sidecar.with_suffix(".h5"))
    code, out, _ = run_luigi("BuildDataset", graphs, "--jobs", "1")
    assert code == 0
    assert out.count(" built ") == 1
    assert verify_store(Path(graphs["--store-dir"])) == []
    assert read_latest(graphs) == first
    after = stamps(graphs["--store-dir"])
    assert {path for path in after if after[path] != before[path]} == rebuilt


def made_newer(path, kind, monkeypatch):
    """Rewrite a sealed file with the next format version; return its bytes."""
    document = read_sealed(path, kind)
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "FORMAT_VERSION", atomic.FORMAT_VERSION + 1)
        own = ("seal", "format", "format_version")
        write_sealed(path, {name: value for name, value in document.items() if name not in own})
    return path.read_bytes()


def test_files_of_a_newer_release_are_an_error_and_kept(graphs, run_luigi, monkeypatch):
    assert run_luigi("BuildDataset", graphs, "--jobs", "1")[0] == 0
    store = Path(graphs["--store-dir"])
    latest = store / "latest.json"
    before = latest.read_bytes()
    newer = made_newer(latest, "latest", monkeypatch)
    code, _, err = run_luigi("BuildDataset", graphs, "--jobs", "1")
    assert (code, err.count("reads versions up to"), err.count("\n")) == (30, 1, 1)
    assert latest.read_bytes() == newer
    latest.unlink()
    latest.write_bytes(before)
    manifest = next(store.glob("tokens-*/manifest.json"))
    newer = made_newer(manifest, "group", monkeypatch)
    for task, options in (("BuildDataset", graphs), ("AddText", {"--store-dir": store})):
        code, _, err = run_luigi(task, options, "--jobs", "1")
        assert (code, err.count("reads versions up to"), err.count("\n")) == (30, 1, 1)
        assert manifest.read_bytes() == newer


def test_graph_rules_change_the_graphs_and_the_key(data, run_luigi):
    assert run_luigi("BuildFlickr30k", data, "--jobs", "1")[0] == 0
    usual = features.open_store(data["--store-dir"])
    rules = {"--min-score": "0.2", "--cross-class-iou": "1", "--whole-image": "empty"}
    assert run_luigi("BuildFlickr30k", {**data, **rules}, "--jobs", "1")[0] == 0
    strict = features.open_store(data["--store-dir"])
    assert strict.key != usual.key
    used = strict.group("visual").manifest.params["parameters"]["rules"]
    assert (used["min_score"], used["cross_class_iou"], used["whole_image"]) == (0.2, 1.0, "empty")
    kept = [(graph.labels, graph.scores) for graph in map(strict.graph, strict.images["id"])]
    assert any(scores.max() >= 0.2 for _, scores in kept)
    for labels, scores in kept:  # the whole image only if no score is high enough
        assert (labels == ("scene",)) if "scene" in labels else (scores >= 0.2).all()
    before = [usual.graph(name).labels for name in usual.images["id"]]
    assert all("scene" in labels for labels in before)


def test_another_scheme_keeps_the_parses(graphs, run_luigi):
    assert run_luigi("BuildDataset", graphs, "--jobs", "1")[0] == 0
    before = folders(graphs["--store-dir"])
    assert run_luigi("BuildDataset", graphs, "--jobs", "1", "--scheme", "ud1-basic")[0] == 0
    new = folders(graphs["--store-dir"]) - before
    assert sorted(name.split("-")[0] for name in new) == ["tokens"]
    caption = features.open_store(graphs["--store-dir"]).captions["id"].iloc[0]
    assert features.open_store(graphs["--store-dir"]).text(caption).scheme == "ud1-basic"


def read_latest(options):
    return read_store_manifest(store_manifest_path(Path(options["--store-dir"])))


@pytest.mark.slow
def test_kill_and_resume_gives_the_same_hash(graphs, tmp_path, run_luigi):
    words = [str(word) for pair in graphs.items() for word in pair]
    command = [sys.executable, "-m", "luigi", "--module", "workflows", "BuildDataset"]
    process = subprocess.Popen(
        [*command, "--local-scheduler", "--jobs", "1", *words],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    store = Path(graphs["--store-dir"])
    end = time.monotonic() + 90
    while not list(store.glob("visual-*/*.h5")):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (store / "latest.json").exists()
    assert run_luigi("BuildDataset", graphs, "--jobs", "2")[0] == 0
    killed = read_latest(graphs)
    calm = {**graphs, "--store-dir": tmp_path / "calm"}
    assert run_luigi("BuildDataset", calm, "--jobs", "1")[0] == 0
    assert killed["hash"] == read_latest(calm)["hash"]
    assert not list(store.rglob("*.partial"))


def test_missing_photos_are_an_error_or_left_out(data, run_luigi):
    (data["--images-dir"] / "003.jpg").unlink()
    code, _, err = run_luigi("BuildFlickr30k", data)
    assert code == 30
    assert err.count("\n") == 1
    assert "1 image of the captions file is missing on disk: 003.jpg" in err
    code, out, _ = run_luigi("BuildFlickr30k", data, "--on-error", "skip", "--jobs", "1")
    assert code == 0
    assert "left out" in out
    assert len(features.open_store(data["--store-dir"]).images) == 5


def test_a_truncated_photo_is_an_error_or_skipped(data, run_luigi):
    photo = data["--images-dir"] / "002.jpg"
    photo.write_bytes(photo.read_bytes()[:900])
    code, _, err = run_luigi("BuildFlickr30k", data, "--jobs", "1")
    assert code == 30
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "002.jpg" in errors[0]
    assert "Traceback" not in err
    assert not (data["--store-dir"] / "latest.json").exists()
    code, out, _ = run_luigi("BuildFlickr30k", data, "--on-error", "skip", "--jobs", "1")
    assert code == 0
    assert "skipped       1 images" in out
    store = features.open_store(data["--store-dir"])
    assert "002.jpg" not in set(store.images["id"])
    assert [row[0] for row in store.skipped] == ["002.jpg"] or "002.jpg" in dict(store.skipped)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--captions": "nowhere.json"}, "nowhere.json: no such captions file"),
        ({"--images-dir": "nowhere"}, "nowhere: cannot list this images folder"),
        ({"--detector": "nanodot"}, "unknown detector 'nanodot'. Did you mean 'nanodet'?"),
        ({"--relations": "geo"}, "unknown relation predictor 'geo'"),
        ({"--features": "colour"}, "unknown feature extractor 'colour'"),
        ({"--parser": "spacey"}, "unknown parser 'spacey'. Did you mean 'spacy'?"),
        ({"--profile": "spicy"}, "unknown profile 'spicy'. Did you mean 'spice'?"),
        ({"--scheme": "penn"}, "unknown scheme 'penn'"),
        ({"--max-objects": "0"}, "--max-objects"),
        ({"--max-objects": "many"}, "a parameter cannot be read"),
        ({"--min-score": "1.5"}, "--min-score 1.5 must be in [0, 1]"),
        ({"--whole-image": "never"}, "a parameter cannot be read"),
        ({"--store-dir": ""}, "--store-dir is empty"),
        ({"--detector": "scene-graphs"}, "--detections"),
    ],
)
def test_an_error_is_one_line_and_not_exit_code_0(data, change, words, run_luigi):
    code, _, err = run_luigi("BuildFlickr30k", {**data, **change})
    assert code != 0
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not data["--store-dir"].exists()  # nothing has been built


def test_a_scheduler_that_does_not_answer_is_one_error_and_leaves_no_folder(data, run_luigi):
    code, _, err = run_luigi("BuildFlickr30k", data, "--scheduler-address", "tcp://127.0.0.1:1")
    assert (code, err.count("\n")) == (30, 1)
    assert "no Dask scheduler answers" in err
    assert not data["--store-dir"].exists()


def test_an_unknown_task_is_an_error_of_one_line(run_luigi):
    code, _, err = run_luigi("BuildFlickr30", {})
    assert (code, err.count("\n")) == (40, 1)
    assert "Did you mean: BuildFlickr30k" in err


def test_a_build_says_what_to_do_next(data, graphs, run_luigi):
    _, out, _ = run_luigi("BuildFlickr30k", data, "--jobs", "1")
    store, photos = str(data["--store-dir"]), str(data["--images-dir"])
    steps = [line for line in out.splitlines() if line.startswith("next: ")]
    assert [
        shlex.split(line)[-len(words) :]
        for line, words in zip(
            steps,
            (
                ["show", store],
                ["report", store, "--images-dir", photos],
                ["train", "vse_f8k", "--data.store", store],
            ),
            strict=True,
        )
    ] == [
        ["show", store],
        ["report", store, "--images-dir", photos],
        ["train", "vse_f8k", "--data.store", store],
    ]
    _, out, _ = run_luigi("BuildDataset", {**graphs, "--store-dir": f"{store}2"}, "--jobs", "1")
    assert "scenestore train" not in out  # without features


@pytest.mark.parametrize(
    ("images", "config"),
    [(6_000, "vse_f8k"), (29_000, "sgm_f30k"), (113_287, "sgm_coco")],
)
def test_the_configuration_to_train_next_suits_the_number_of_images(images, config):
    assert summary._configuration(images) == config
    assert config in shipped()


def test_invalid_json_is_an_error_of_one_line(data, run_luigi):
    captions = data["--captions"]
    captions.write_text(captions.read_text()[:-7])
    code, _, err = run_luigi("BuildFlickr30k", data)
    assert code == 30
    assert "broken JSON" in err
    assert err.count("\n") == 1


def test_an_empty_caption_is_an_error_or_counted(data, run_luigi):
    document = json.loads(data["--captions"].read_text())
    document["images"][0]["sentences"][0]["raw"] = "  "
    data["--captions"].write_text(json.dumps(document))
    code, _, err = run_luigi("BuildFlickr30k", data)
    assert code == 30
    assert "empty caption of image 000.jpg" in err
    code, out, _ = run_luigi("BuildFlickr30k", data, "--on-error", "skip", "--jobs", "1")
    assert code == 0
    assert "1 captions or images: 0: empty caption of image 000.jpg" in out
    assert len(features.open_store(data["--store-dir"]).captions) == 11


def test_an_unwritable_folder_is_an_error_of_one_line(data, tmp_path, run_luigi):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, _, err = run_luigi(
        "BuildFlickr30k", {**data, "--store-dir": blocked / "st"}, "--jobs", "1"
    )
    assert code != 0
    assert "cannot be written" in err
    assert "Traceback" not in err


def test_captions_alone_make_a_store(data, run_luigi):
    code, out, _ = run_luigi(
        "BuildDataset",
        {"--captions": data["--captions"], "--store-dir": data["--store-dir"]},
        "--detector",
        "none",
        "--jobs",
        "1",
    )
    assert code == 0
    assert "scene graphs" not in out
    store = features.open_store(data["--store-dir"])
    assert len(store.images) == 6
    table = store.table("relations")
    assert len(table) == 12  # every caption says that a ball lies on grass
    assert set(table["predicate"]) == {"lie on"}
