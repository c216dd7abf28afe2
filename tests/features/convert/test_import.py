"""Import a foreign file into a store: rows, columns, keys, resuming, errors."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from features.commands.app import app
from features.convert.importing import import_store
from features.convert.readers.scene_graphs import SceneGraphFile
from features.errors import (
    FeatureOverflow,
    InputError,
    MissingInput,
    UnknownName,
    UnreadableImage,
    UsageError,
)
from features.store import open_store

D = 16


def line(key: str, boxes: np.ndarray, features: np.ndarray) -> str:
    coded = [base64.b64encode(np.float32(a).tobytes()).decode() for a in (boxes, features)]
    return "\t".join([key, "100", "80", str(len(boxes)), *coded]) + "\n"


def content(row: int, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(row)
    low = rng.uniform(0, 40, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 40, (n, 2))], 1).astype(np.float32)
    return boxes, rng.normal(size=(n, D)).astype(np.float32)


def make_tsv(path: Path, keys: list[str]) -> Path:
    path.write_text("".join(line(key, *content(row)) for row, key in enumerate(keys)))
    return path


def karpathy(path: Path, files: list[str], splits: list[str]) -> Path:
    images = [
        {
            "filename": file,
            "split": split,
            "sentences": [{"sentid": 10 * at + n, "raw": f"a &amp; {n} of {at}"} for n in range(2)],
        }
        for at, (file, split) in enumerate(zip(files, splits, strict=True))
    ]
    path.write_text(json.dumps({"images": images}))
    return path


def run(*arguments: object) -> int:
    return app.call(["import", *map(str, arguments)])


def test_import_tsv_with_captions(tmp_path, capsys):
    keys = ["77", "391895", "12"]
    source = make_tsv(tmp_path / "a.tsv", keys)
    files = ["COCO_val2014_000000391895.jpg", "missing.jpg", "12.jpg"]
    captions = karpathy(tmp_path / "c.json", files, ["restval", "val", "test"])
    code = run("bottom-up-tsv", source, "--store-dir", tmp_path / "s", "--captions", captions)
    assert code == 0
    said = capsys.readouterr().out
    assert "3 images, 6 captions" in said
    assert "1 images of the source have no captions" in said
    assert "skipped missing.jpg: not in the imported file" in said
    store = open_store(tmp_path / "s")
    assert store.images["id"].tolist() == [files[0], files[2]]  # the order of the captions
    assert {name: rows.tolist() for name, rows in store.splits.items()} == {
        "train": [0],
        "test": [2],
    }
    assert store.captions["text"].tolist()[0] == "a & 0 of 0"
    for image_id, row in ((files[0], 1), (files[2], 2)):
        boxes, features = content(row)
        at = store.rows([image_id])
        np.testing.assert_array_equal(store.gather("boxes", at)[0, :4], boxes)
        got = store.gather("object_features", at)[0]
        np.testing.assert_array_equal(got[:4], features.astype(np.float16))
        assert not got[4:].any()
        assert store.graph(image_id).size == (100, 80)
    assert not store.has("form")
    captions.write_text(captions.read_text().replace("of 0", "of zero"))
    run("bottom-up-tsv", source, "--store-dir", tmp_path / "s", "--captions", captions)
    assert open_store(tmp_path / "s").captions["text"].tolist()[0] == "a & 0 of zero"


def test_every_row_of_several_shards(tmp_path):
    keys = [f"{n}.jpg" for n in range(150)]  # 64 rows per shard
    source = make_tsv(tmp_path / "a.tsv", keys)
    report = import_store("bottom-up-tsv", source, tmp_path / "s", split="all", max_objects=3)
    assert report.images == 150
    assert any("150 images have more than 3 boxes" in note for note in report.notes)
    store = open_store(tmp_path / "s")
    rows = np.random.default_rng(0).permutation(150)
    found = store.gather("object_features", rows, dtype=np.float32)
    wanted = np.stack([content(row)[1][:3] for row in rows]).astype(np.float16)
    np.testing.assert_array_equal(found, wanted)
    assert store.splits["all"].tolist() == list(range(150))
    assert store.images["file"].tolist() == keys


def test_same_input_same_hash_and_an_interrupted_import_resumes(tmp_path):
    keys = [str(n) for n in range(130)]
    source = make_tsv(tmp_path / "a.tsv", keys)
    whole = open_store(import_store("bottom-up-tsv", source, tmp_path / "one").manifest)
    text = source.read_text()
    folder = tmp_path / "two"
    lines = text.splitlines(keepends=True)
    report = import_store("bottom-up-tsv", source, folder)
    regions = next(folder.glob("regions-*"))
    kept = (regions / "00000.h5").stat()
    for name in ("00001.h5", "00001.json", "manifest.json"):
        (regions / name).unlink()
    (regions / "00001.h5.partial").write_bytes(b"torn")
    again = open_store(import_store("bottom-up-tsv", source, folder).manifest)
    assert again.hash == whole.hash == open_store(report.manifest).hash
    after = (regions / "00000.h5").stat()
    assert (after.st_ino, after.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    source.write_text("".join([*lines[:-1], line("129", *content(7))]))
    assert open_store(import_store("bottom-up-tsv", source, folder).manifest).hash != whole.hash
    assert len(list(folder.glob("regions-*"))) == 2  # the old variant is still there


@pytest.mark.parametrize(("value", "dtype"), [(7e4, "float16"), (np.inf, "float32")])
def test_overflow_names_image_and_column(tmp_path, value, dtype):
    boxes, features = content(1)
    features[2, 3] = value
    path = make_tsv(tmp_path / "a.tsv", ["0"])
    path.write_text(path.read_text() + line("bad", boxes, features))
    with pytest.raises(FeatureOverflow, match=r"'bad'.*features"):
        import_store("bottom-up-tsv", path, tmp_path / "s", dtype=dtype)
    assert not (tmp_path / "s" / "latest.json").exists()
    report = import_store("bottom-up-tsv", path, tmp_path / "s", dtype=dtype, on_error="skip")
    other = {"float16": "float32", "float32": "float16"}[dtype]
    again = import_store("bottom-up-tsv", path, tmp_path / "s", dtype=other, on_error="skip")
    assert len(again.skipped) == int(value == np.inf)  # a finite value fits float32
    assert [image_id for image_id, _ in report.skipped] == ["bad"]
    store = open_store(report.manifest)
    assert "features" in store.skipped["bad"]
    assert store.images["id"].tolist() == ["0"]


def test_large_values_fit_float32(tmp_path):
    boxes, features = content(1)
    features[2, 3] = 7e4
    (tmp_path / "a.tsv").write_text(line("0", boxes, features))
    report = import_store("bottom-up-tsv", tmp_path / "a.tsv", tmp_path / "s", dtype="float32")
    got = open_store(report.manifest).gather("object_features", [0])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[0, :4], features)


def test_features_of_another_width(tmp_path):
    boxes, features = content(1)
    text = line("0", boxes, features) + line("1", boxes, features[:, :5])
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(
        InputError, match="'1' has object_features of width 5, the images before it 16"
    ):
        import_store("bottom-up-tsv", tmp_path / "a.tsv", tmp_path / "s")


def graph_file(path: Path) -> Path:
    graph = {
        "labels": ["man", "hat", "dog"],
        "bbox": [[0, 0, 30, 10], [5, 5, 90, 95], [1, 2, 3, 4]],
        "rels": [["man:0", "on", "hat:1"], ["dog:2", "near", "man:0"]],
    }
    path.write_text(json.dumps({"a b.png": graph, "c.jpg": graph}))
    return path


def test_graphs_with_sizes_of_photos(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (80, 60)).save(photos / "a b.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (80, 60)).save(photos / "c.jpg", exif=turned)
    source = graph_file(tmp_path / "g.json")
    plain = import_store("lgsgm", source, tmp_path / "s")
    assert any("2 images have the unknown size" in note for note in plain.notes)
    graph = open_store(plain.manifest).graph("a b.png")
    assert graph.size == (0, 0)
    assert graph.relations == ((0, "on", 1), (2, "near", 0))
    assert graph.boxes.tolist() == SceneGraphFile(source).read("a b.png").boxes.tolist()
    assert graph.union_boxes[0].tolist() == [0, 0, 90, 95]
    store = open_store(import_store("lgsgm", source, tmp_path / "s", images_dir=photos).manifest)
    assert (store.graph("a b.png").size, store.graph("c.jpg").size) == ((80, 60), (60, 80))
    assert store.graph("c.jpg").boxes[1].tolist() == [5, 5, 60, 80]
    assert not store.has("object_features")
    Image.new("RGB", (90, 99)).save(photos / "c.jpg")  # another photo is another variant
    store = open_store(import_store("lgsgm", source, tmp_path / "s", images_dir=photos).manifest)
    assert store.graph("c.jpg").size == (90, 99)
    assert len(list((tmp_path / "s").glob("index-*"))) == 1  # the same rows, stored once
    (photos / "c.jpg").unlink()
    with pytest.raises(MissingInput, match=r"c\.jpg"):
        import_store("lgsgm", source, tmp_path / "t", images_dir=photos)
    (photos / "c.jpg").write_bytes(b"no picture")
    report = import_store("lgsgm", source, tmp_path / "t", images_dir=photos, on_error="skip")
    assert [image_id for image_id, _ in report.skipped] == ["c.jpg"]


def test_mistakes(tmp_path):
    source = make_tsv(tmp_path / "a.tsv", ["1"])
    to = ("--store-dir", tmp_path / "s")
    for arguments, error, message in (
        (("tsv", source, *to), UnknownName, "Known: ban"),
        (("bottom-up-tsv", tmp_path / "b.tsv", *to), MissingInput, "b.tsv"),
        (("bottom-up-tsv", source, *to, "--extra", "objects"), UsageError, "KEY=PATH"),
        (("bottom-up-tsv", source, *to, "--extra", "x=y"), UsageError, "no extra file 'x'"),
        (("bottom-up-tsv", source, *to, "--max-objects", "0"), UsageError, "at least 1"),
        (("bottom-up-tsv", source, *to, "--name", "../x"), UsageError, "name"),
        (
            ("bottom-up-tsv", source, *to, "--captions", tmp_path / "c"),
            MissingInput,
            "no such captions file",
        ),
    ):
        with pytest.raises(error, match=message):
            run(*arguments)


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        '{"images": 3}',
        '{"images": [{"split": "x"}]}',
        '{"images": []}',
        '{"images": [{"filename": "1.jpg", "split": "val"}, {"filename": "1.jpg"}]}',
        '{"images": [{"filename": "9.jpg", "sentences": []}]}',
        '{"images": [{"filename": "1.jpg", "sentences": [{"raw": " "}]}]}',
        '{"images": [{"filename": "1.jpg"}, {"filename": "1.png"}]}',  # both are image 1
    ],
)
def test_captions_that_do_not_match_the_source(tmp_path, document):
    source = make_tsv(tmp_path / "a.tsv", ["1", "2"])
    captions = tmp_path / "c.json"
    captions.write_text(document)
    with pytest.raises(InputError, match=r"c\.json"):
        import_store("bottom-up-tsv", source, tmp_path / "s", captions=captions)


def test_sgm_provides_union_features(tmp_path):
    rng = np.random.default_rng(0)
    folders = [tmp_path / name for name in ("objects", "relations")]
    images, wanted = [], []
    for row in range(3):
        counts = (3 + row, 2 + row)
        graph = {
            "object": [row % 2] * counts[0] + [-1] * 4,
            "bbox": [[0, 0, 10 + i, 10 + row] for i in range(counts[0] + 4)],
            # relations of the last boxes come first: they are dropped with those boxes
            "relationship": [[i + 1, 0, i] for i in reversed(range(counts[1]))] + [[-1, -1, -1]],
        }
        images.append({"filename": f"{row}.jpg", "imageid": 7, "sg": graph})
        wanted.append([rng.normal(size=(n, D)).astype(np.float32) for n in counts])
        for folder, values in zip(folders, wanted[-1], strict=True):
            folder.mkdir(exist_ok=True)
            padded = np.concatenate([values, np.full((5, D), 9, np.float32)])
            np.save(folder / f"{row}.npy", padded)
    graphs = tmp_path / "sg.json"
    dicts = {"object_dict": {"man": 0, "hat": 1}, "predicate_dict": {"on": 0}}
    graphs.write_text(json.dumps({**dicts, "img_to_sg": images}))
    extras = ["--extra", f"objects_dir={folders[0]}", "--extra", f"unions_dir={folders[1]}"]
    sizes = ["--max-objects", 4, "--max-relations", 3]
    assert run("sgm", graphs, "--store-dir", tmp_path / "s", *sizes, *extras) == 0
    store = open_store(tmp_path / "s")
    for row in range(3):
        graph = store.graph(f"{row}.jpg")
        n = min(3 + row, 4)
        kept = [i for i in reversed(range(2 + row)) if i + 1 < 4][:3]
        assert graph.labels == (("man", "hat")[row % 2],) * n
        assert graph.relations == tuple((i + 1, "on", i) for i in kept)
        assert graph.boxes.tolist() == [[0, 0, 10 + i, 10 + row] for i in range(n)]
        objects, unions = wanted[row]
        for name, values in (
            ("object_features", objects[:n]),
            ("union_features", unions[2 + row - 1 - np.array(kept)]),
        ):
            got = store.gather(name, [row])[0]
            np.testing.assert_array_equal(got[: len(values)], values.astype(np.float16))
            assert not got[len(values) :].any()
    np.save(folders[1] / "2.npy", np.zeros((3, D), np.float32))
    with pytest.raises(InputError, match=r"2\.npy.*expected \(4 or more"):
        import_store(
            "sgm",
            graphs,
            tmp_path / "t",
            extras={"objects_dir": str(folders[0]), "unions_dir": str(folders[1])},
        )


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg"])
def test_photos_outside_their_folder(tmp_path, name):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    graph = {"labels": [], "bbox": [], "rels": []}
    (tmp_path / "g.json").write_text(json.dumps({name: graph}))
    with pytest.raises(InputError, match="leads out"):
        import_store("lgsgm", tmp_path / "g.json", tmp_path / "s", images_dir=tmp_path / "photos")


def test_a_photo_that_cannot_be_read_now_is_never_stored_as_skipped(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a b.png", "c.jpg"):
        Image.new("RGB", (80, 60)).save(photos / name)

    def locked(self, found, entry):
        raise UnreadableImage(f"{entry.id}: cannot be read now")

    monkeypatch.setattr("features.convert.photos.Photos.sized", locked)
    source = graph_file(tmp_path / "g.json")
    with pytest.raises(UnreadableImage, match="cannot be read now"):
        import_store("lgsgm", source, tmp_path / "s", images_dir=photos, on_error="skip")
    monkeypatch.undo()
    report = import_store("lgsgm", source, tmp_path / "s", images_dir=photos, on_error="skip")
    assert not report.skipped
