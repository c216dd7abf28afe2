"""Search with photo files: a photo of a stored image ranks like the stored image."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from features import build_store, open_store
from features.batches.image_encoder import ImageEncoder, image_batch
from features.errors import MismatchError, UnknownName, UsageError
from features.format.photo_file import Photo, read_photos, write_photos
from features.records import Caption, Detections, ImageEntry
from features.web import Shelf, create_app, listen
from models import search
from models.configuration.config import from_dict
from models.train import train
from models.training.run import load_run
from models.web import Runs, add_runs
from pipeline.detect import create_detector
from pipeline.vision.extraction import create_extractor
from pipeline.vision.graph_builder import GraphBuilder
from pipeline.vision.relations import create_relations
from pipeline.vision.store_recipe import recipe_of
from workflows.build.options import BuildOptions
from workflows.build.plan import Plan

REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = (
    "A grey cat looks at the camera.",
    "A woman in an orange suit smiles.",
    "A cup on a table.",
)


def write_pictures(folder: Path) -> list[str]:
    """Six crops of the pictures that come with scikit-image."""
    import skimage

    folder.mkdir()
    names = []
    for number in range(6):
        source = ("chelsea", "astronaut", "coffee")[number % 3]
        picture = Image.open(f"{skimage.__path__[0]}/data/{source}.png").convert("RGB")
        cut = 20 * (number // 3)
        names.append(f"{number}.jpg")
        picture.crop((cut, cut, picture.width, picture.height)).save(folder / names[-1], quality=90)
    return names


def build_like_luigi(tmp: Path, names: list[str], **given: str):
    """Build a store in this process, with the parameters that a real build's plan records."""
    entries = [
        ImageEntry(
            name,
            name,
            ("train", "train", "val")[number % 3],
            (Caption(f"{name}#0", TEXTS[number % 3]), Caption(f"{name}#1", f"Photo {number}.")),
        )
        for number, name in enumerate(names)
    ]
    listed = [
        {"filename": e.file, "split": e.split, "sentences": [{"raw": c.text} for c in e.captions]}
        for e in entries
    ]
    captions = tmp / "captions.json"
    captions.write_text(json.dumps({"dataset": "x", "images": listed}))
    photos = str(tmp / "photos")
    options = {"dataset": "x", "images_dir": photos, "captions": str(captions), **given}
    plan = Plan(BuildOptions(store_dir=str(tmp / "plan"), max_objects=12, **options))
    builder = GraphBuilder(
        plan.detector,
        create_relations(plan.relations),
        create_extractor(plan.features, plan.detector),
        plan.rules,
        Path(photos),
    )
    graphs, objects, unions = builder.build_all(entries)
    made = {
        **plan.visual.params["parameters"],
        **plan.regions.params["parameters"],
        **plan.text.params["parameters"],
    }
    path = build_store(
        tmp / "store",
        "x",
        entries,
        visual=graphs,
        regions=list(zip(objects, unions, strict=True)),
        texts=pipeline.parse([c.text for e in entries for c in e.captions]),
        max_objects=12,
        provenance={"parameters": made},
    )
    return open_store(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return (store, run folder, folder of the pictures)."""
    tmp = tmp_path_factory.mktemp("photos")
    store = build_like_luigi(tmp, write_pictures(tmp / "photos"), relations="prior")
    tree = {
        "model": {"name": "sgm", "options": {"embed_dim": 16, "word_dim": 8}},
        "data": {"store": str(store.path), "batch_size": 4},
        "run": {"folder": str(tmp / "run"), "max_steps": 2},
    }
    train(from_dict(tree))
    return store, tmp / "run", tmp / "photos"


@pytest.fixture
def here(monkeypatch):
    """Run ``python -m pipeline`` inside this process, which has its networks loaded already."""
    from pipeline.commands.app import app

    def run(words):
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            try:
                app.call(list(words))
            except Exception as error:
                return subprocess.CompletedProcess(words, 1, "", f"noise\nerror: {error}\n")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(search, "_pipeline", run)


def test_a_photo_of_the_store_gets_the_stored_graph_and_features(photos, here):
    store, folder, pictures = photos
    names = store.images.id.tolist()
    seen, notes = search.detect_photos([str(pictures / name) for name in names], store)
    assert notes == []
    run = load_run(folder, store)
    stored = ImageEncoder(store, run.codebook).batch(store.rows(names))
    outside = image_batch([photo[1:] for photo in seen], run.codebook)
    assert stored.object_mask.sum() > 20
    assert stored.relation_mask.sum() > 20
    for name in ("object_mask", "boxes", "labels", "scores", "objects", "sizes"):
        one, other = getattr(stored, name), getattr(outside, name)
        assert torch.equal(one[:, : other.shape[1]], other), name
    for name in ("relation_mask", "relations", "predicates", "union_boxes", "unions"):
        one, other = getattr(stored, name), getattr(outside, name)
        assert torch.equal(one[:, : other.shape[1]], other), name


def test_a_photo_of_the_store_ranks_like_its_image(photos, here, capsys):
    store, folder, pictures = photos
    files = [str(pictures / name) for name in ("1.jpg", "4.jpg")]
    words = [str(store.path), str(folder), "--split", "train", "--top", "20", "--json"]
    search.app.call([*words, "--image", files[0], "1.jpg", "--image", files[1]])
    photo, stored, other = json.loads(capsys.readouterr().out)
    assert [photo["image"], stored["image"], other["image"]] == [files[0], "1.jpg", files[1]]
    assert len(photo["captions"]) == 8
    assert [text for text, _ in photo["captions"]] == [text for text, _ in stored["captions"]]
    scores = [[score for _, score in found["captions"]] for found in (photo, stored, other)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0] != pytest.approx(scores[2], abs=1e-4)


def test_the_table_names_photo_objects_and_captions(photos, here, capsys):
    store, folder, pictures = photos
    search.app.call(
        [str(store.path), str(folder), "--image", str(pictures / "0.jpg"), "--top", "3"]
    )
    said = capsys.readouterr().out
    assert f"{pictures / '0.jpg'} in train" in said
    assert "objects: " in said
    assert "cat" in said
    assert re.search(r"^3  -?\d\.\d+  \S", said, re.MULTILINE)


def test_the_real_process_and_a_broken_photo(photos, tmp_path):
    store, _, pictures = photos
    (seen,), notes = search.detect_photos([str(pictures / "2.jpg")], store)
    with Image.open(pictures / "2.jpg") as image:
        assert seen.found.size == image.size
    assert notes == []
    broken = tmp_path / "broken photo.jpg"
    broken.write_bytes((pictures / "2.jpg").read_bytes()[:700])
    with pytest.raises(UsageError, match=r"^\S*/broken photo\.jpg: damaged") as caught:
        search.detect_photos([str(pictures / "2.jpg"), str(broken)], store)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_neither_id_nor_file_is_refused(photos):
    store, folder, _ = photos
    with pytest.raises(
        UnknownName, match=r"unknown image id.*'nowhere.jpg' is not a photo file either"
    ):
        search.app.call([str(store.path), str(folder), "--image", "nowhere.jpg"])


def test_other_parts_are_notes_and_other_widths_are_refused(photos, here, tmp_path):
    store, _, pictures = photos
    path = str(pictures / "1.jpg")
    (seen,), notes = search.detect_photos([path], store, {"relations": "geometric"})
    assert notes == [
        "relations: geometric instead of the store's prior; scores of the photo may be less "
        "accurate."
    ]
    assert {name for _, name, _ in seen.found.relations} <= {"on", "inside", "next to", "above",
        "below", "in front of", "behind", "overlapping"}  # fmt: skip
    with pytest.raises(UsageError, match="features have width 384, those of the store 1860"):
        search.detect_photos([path], store, {"features": "label"})
    with pytest.raises(UsageError, match="unknown detector 'nanodett'"):
        search.detect_photos([path], store, {"detector": "nanodett"})


def test_a_store_from_a_file_names_its_detector_and_the_way_out(tmp_path):
    names = ("a.jpg", "b.jpg")
    pictures = tmp_path / "photos"
    for at, name in enumerate(write_pictures(pictures)[:2]):
        (pictures / name).rename(pictures / names[at])
    boxes = {"labels": ["cat", "sofa"], "bbox": [[10, 10, 90, 90], [5, 5, 200, 200]],
             "rels": [["cat:0", "on", "sofa:1"]]}  # fmt: skip
    graphs = tmp_path / "graphs.json"
    graphs.write_text(json.dumps(dict.fromkeys(names, boxes)))
    store = build_like_luigi(
        tmp_path, list(names), detector="scene-graphs", detections=str(graphs), features="label"
    )
    with pytest.raises(UsageError, match=r"detector 'scene-graphs'.*--detector nanodet"):
        recipe_of(store)
    again = recipe_of(store, detections=str(graphs))
    assert again.notes == ()
    assert again.photo(str(pictures / "a.jpg")).found.labels == ("cat", "sofa")
    with pytest.raises(ValueError, match=r"0\.jpg|does not have this image"):
        again.photo(str(pictures / "2.jpg"))
    other = recipe_of(store, detector="nanodet")
    assert [note.split(";")[0] for note in other.notes] == [
        "detector: nanodet instead of the store's scene-graphs",
        "relations: geometric instead of the store's precomputed",
    ]
    assert other.builder.rules.whole_image == "always"
    assert other.photo(str(pictures / "a.jpg")).object_features.shape[1] == 384
    wide = recipe_of(store, detector="nanodet", features="detector")
    with pytest.raises(MismatchError, match="width 576, those of the store 384"):
        wide.photo(str(pictures / "a.jpg"))


def test_a_store_that_was_imported_says_so(tiny_store):
    with pytest.raises(UsageError, match="does not record how its graphs were made"):
        recipe_of(tiny_store(images=6))


def test_the_stores_own_thresholds_are_used(photos, monkeypatch):
    store = open_store(photos[0].path)
    made = store.group("visual").manifest.params["parameters"]
    made["detector"] = create_detector("nanodet", min_score=0.5, candidates=99).identity()
    assert recipe_of(store).builder.detector.identity() == made["detector"]
    made["detector"]["shown"] = 0.9  # of an earlier release
    assert recipe_of(store).notes == ()
    made["detector"]["weights"] = "other"
    with pytest.raises(MismatchError, match=r"this nanodet differs from the store's \(weights\)"):
        recipe_of(store)
    assert "(weights); scores of the photo" in recipe_of(store, detector="nanodet").notes[0]


def test_photos_round_trip_through_their_file(tmp_path):
    found = Detections(
        boxes=np.float32([[0, 0, 5, 5], [1, 1, 9, 9]]),
        labels=("dog", "ball"),
        scores=np.float32([0.9, 0.25]),
        size=(10, 12),
        relations=((0, "has", 1),),
        relation_scores=np.float32([0.5]),
    )
    random = np.random.default_rng(0).random((3, 4), np.float32)
    path = tmp_path / "deep" / "photos.npz"
    empty = Detections(np.zeros((0, 4), np.float32), (), np.zeros(0, np.float32), (3, 4))
    nothing = np.zeros((0, 4), np.float32)
    photos = [Photo("a ü.jpg", found, random[:2], random[2:]), Photo("b", empty, nothing, nothing)]
    write_photos(path, photos, ["a note"])
    (first, second), notes = read_photos(path)
    assert notes == ["a note"]
    assert (first.name, first.found.labels, first.found.size) == ("a ü.jpg", found.labels, (10, 12))
    assert first.found.relations == found.relations
    np.testing.assert_array_equal(first.found.boxes, found.boxes)
    assert first.object_features.dtype == np.float16
    np.testing.assert_array_equal(first.object_features, random[:2].astype(np.float16))
    assert second.found.relations == ()
    with pytest.raises(OverflowError, match=r"^a: a feature is not finite"):
        write_photos(path, [Photo("a", found, random[:2] * 1e6, random[2:])])
    assert read_photos(path)[1] == ["a note"]  # what stood there still stands
    for junk in (b"", b"no zip", path.read_bytes()[:-40]):
        other = tmp_path / "other.npz"
        other.write_bytes(junk)
        with pytest.raises(ValueError, match="not a file of photos"):
            read_photos(other)
    np.savez(other, about=np.array([{"format": 1}], object))
    with pytest.raises(ValueError, match="not a file of photos"):
        read_photos(other)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_photos(tmp_path / "nowhere.npz")


def test_the_command_line_of_the_pipeline(photos, tmp_path):
    store, _, pictures = photos
    command = [sys.executable, "-m", "pipeline", "photo", "--like", str(store.path)]
    command += ["--out", str(tmp_path / "x.npz"), "--", str(pictures / "nowhere.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {pictures}/nowhere.jpg: no such file. Check the images folder.\n"
    )
    assert not (tmp_path / "x.npz").exists()


@pytest.fixture
def browsed(photos):
    """The app with the store and its run."""
    shelf = Shelf([photos[0].path], [photos[2]])
    runs = Runs([photos[1]], shelf)
    return create_app(shelf, extensions=[add_runs(lambda _: runs)])


def test_a_photo_that_is_handed_in_ranks_like_its_file(photos, here, browsed, tmp_path, capsys,
                                                       monkeypatch):  # fmt: skip
    store, folder, pictures = photos
    search.app.call([str(store.path), str(folder), "--split", "val", "--top", "15", "--json",
                     "--image", str(pictures / "1.jpg")])  # fmt: skip
    (wanted,) = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, pipeline = [], search._pipeline

    def watched(words):
        seen.append(Path(words[-1]))
        assert seen[-1].read_bytes() == (pictures / "1.jpg").read_bytes()
        assert seen[-1].parent.stat().st_mode & 0o77 == 0
        return pipeline(words)

    monkeypatch.setattr(search, "_pipeline", watched)
    client, local = browsed.test_client(), {"Origin": "http://localhost"}
    (mark,) = re.findall(r'name="mark" value="([^"]*)"', client.get("/x/photo").text)

    def send(data, headers=local, mark=mark, name="<b>/../../me.jpg"):
        form = {"mark": mark, "photo": (io.BytesIO(data), name)}
        return client.post("/x/photo", data=form, headers=headers)

    answer = send((pictures / "1.jpg").read_bytes())
    assert answer.status_code == 303
    shown = client.get(answer.location).text
    scores = re.findall(r'class="score">(-?[\d.]+)<', shown)
    assert scores == [f"{score:.3f}" for _, score in wanted["captions"]]
    assert all(text in shown for text, _ in wanted["captions"])
    assert "&lt;b&gt;/../../me.jpg" in shown
    assert shown.count('class="box ') >= 5
    (small,) = re.findall(r'<image href="([^"]*)"', shown)
    with Image.open(io.BytesIO(client.get(small).data)) as image:
        assert image.format == "JPEG"
    (path,) = seen
    assert path.name == "photo"
    assert list(tmp_path.iterdir()) == []  # nothing is left

    good = (pictures / "1.jpg").read_bytes()
    for headers in ({}, {"Origin": "null"}, {"Origin": "http://evil.example"}):
        assert send(good, headers).status_code == 403
    for data in (b"", b"no photo", b"%!PS-Adobe-3.0 EPSF-3.0", good[:300]):
        assert send(data).status_code == 400
    assert send(good, mark="other").status_code == 400
    large = {"CONTENT_LENGTH": str(30 << 20), "HTTP_ORIGIN": "http://localhost"}
    assert client.post("/x/photo", environ_overrides=large).status_code == 413
    for elsewhere in ("/x/", "/x/runs/", answer.location):
        assert client.post(elsewhere, headers=local).status_code == 405
    assert client.get("/x/photo/other").status_code == 404
    assert len(seen) == 1


@pytest.mark.slow
def test_a_photo_is_chosen_in_a_browser(photos, here, browsed, open_page):
    server = listen(browsed, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        visit = open_page(f"http://127.0.0.1:{server.port}/x/photo")
        assert visit.faults() == []
        visit.page.set_input_files("input[name=photo]", photos[2] / "0.jpg")
        visit.page.wait_for_url("**/x/photo/*")
        assert visit.page.locator("h1").text_content() == "Captions that fit 0.jpg"
        assert visit.page.locator(".box").count() >= 5
        assert visit.faults() == []
    finally:
        server.shutdown()
        server.server_close()
