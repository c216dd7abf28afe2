"""Every format end to end: import into a store, and typed errors for changed bytes."""

import base64
import io
import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.convert import IMPORT_FORMATS, open_source
from features.convert.importing import import_store
from features.convert.source import integers
from features.errors import InputError, MissingInput, ScenestoreError
from features.records import Detections
from features.store import open_store

D = 4
BOXES = np.float32([[0, 0, 5, 5], [1, 1, 9, 9]])
FEATURES = np.arange(8, dtype=np.float32).reshape(2, D)


def b64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def bottom_up(folder: Path) -> Path:
    line = "\t".join(["img", "90", "80", "2", b64(BOXES), b64(FEATURES)]) + "\n"
    (folder / "a.tsv").write_text(line + line.replace("img", "two"))
    return folder / "a.tsv"


def scan(folder: Path) -> Path:
    np.save(folder / "train_ims.npy", np.stack([FEATURES, FEATURES + 1]))
    np.save(folder / "train_ims_bbx.npy", np.stack([BOXES, BOXES]))
    sizes = np.array([{"image_h": 80, "image_w": 90}] * 2, dtype=object)
    np.save(folder / "train_ims_size.npy", sizes, allow_pickle=True)
    (folder / "train_caps.txt").write_text("a dog\n" * 10)
    (folder / "train_ids.txt").write_text("7\n8\n")
    (folder / "train_precaps_stan.txt").write_text("1,4,5,2\n" * 10)
    (folder / "train_caps.json").write_text(json.dumps([[[0, 2], [2, 1]]] * 10))
    words = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "a": 4, "dog": 5}
    (folder / "x_vocab.json").write_text(json.dumps({"word2idx": words}))
    return folder


def vinvl(folder: Path) -> Path:
    objects = [
        {"rect": box.tolist(), "class": "x", "conf": 0.5, "feature": b64(feature)}
        for box, feature in zip(BOXES, FEATURES, strict=True)
    ]
    relations = [{"subj_id": 0, "obj_id": 1, "class": "on", "conf": 0.5}]
    line = f"k\t{json.dumps({'objects': objects, 'relations': relations})}\n"
    (folder / "p.tsv").write_text(line)
    (folder / "p.lineidx").write_text("0\n")
    return folder / "p.tsv"


def ban(folder: Path) -> Path:
    with h5py.File(folder / "val36.hdf5", "w") as file:
        file["image_features"] = FEATURES[None]
        file["image_bb"] = BOXES[None]
    (folder / "val36_imgid2idx.pkl").write_bytes(pickle.dumps({5: 0}))
    return folder / "val36.hdf5"


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "1.npz", x=FEATURES, bbox=BOXES, image_h=80, image_w=90)
    np.save(folder / "2.npy", FEATURES)
    info = {"bbox": BOXES, "num_boxes": 2, "image_width": 90, "image_height": np.int64(80)}
    np.save(folder / "2_info.npy", info, allow_pickle=True)
    return folder


def sgb(folder: Path) -> Path:
    entry = {"bbox": BOXES.tolist(), "bbox_labels": [1, 1], "bbox_scores": [0.5, 0.25]}
    entry |= {"rel_pairs": [[0, 1]], "rel_labels": [1], "rel_scores": [0.5]}
    (folder / "custom_prediction.json").write_text(json.dumps({"0": entry}))
    info = {"idx_to_files": ["a.jpg"], "ind_to_classes": ["_", "man"]}
    info["ind_to_predicates"] = ["_", "on"]
    (folder / "custom_data_info.json").write_text(json.dumps(info))
    return folder


def genome(folder: Path) -> Path:
    objects = [{"object_id": n, "x": 1, "y": 2, "w": 3, "h": 4, "names": ["a"]} for n in range(2)]
    relations = [{"predicate": "on", "subject_id": 0, "object_id": 1}]
    graph = {"image_id": 1, "objects": objects, "relationships": relations}
    (folder / "scene_graphs.json").write_text(json.dumps([graph]))
    (folder / "image_data.json").write_text(json.dumps([{"image_id": 1, "width": 9, "height": 9}]))
    return folder / "scene_graphs.json"


def lgsgm(folder: Path) -> Path:
    graph = {"labels": ["a", "b"], "bbox": BOXES.tolist(), "rels": [["a:0", "on", "b:1"]]}
    (folder / "g.json").write_text(json.dumps({"1.jpg": graph}))
    return folder / "g.json"


def sgm(folder: Path) -> Path:
    graph = {"object": [0, 0, -1], "bbox": BOXES.tolist(), "relationship": [[0, 0, 1]]}
    document = {"object_dict": {"a": 0}, "predicate_dict": {"on": 0}}
    document["img_to_sg"] = [{"filename": "1.jpg", "sg": graph}]
    (folder / "g.json").write_text(json.dumps(document))
    return folder / "g.json"


def entities(folder: Path) -> Path:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    size = "<size><width>9</width><height>9</height></size>"
    xml = f"<a><filename>1.jpg</filename>{size}<object><name>1</name>{box}</object></a>"
    (folder / "1.xml").write_text(xml)
    return folder


def lmdb_file(folder: Path) -> Path:
    import lmdb

    value = {"features": FEATURES, "bbox": BOXES, "num_boxes": 2, "cls_prob": np.eye(2, 4, k=1)}
    value |= {"image_width": 90, "image_height": 80}
    with lmdb.open(str(folder / "db"), map_size=1 << 20) as env, env.begin(write=True) as writing:
        writing.put(b"7", pickle.dumps(value))
    return folder / "db"


def coco(folder: Path) -> Path:
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 90, "height": 80}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    return folder / "instances.json"


def psg(folder: Path) -> Path:
    image = {"file_name": "1.jpg", "width": 90, "height": 80, "relations": [[0, 1, 0]]}
    image["annotations"] = [
        {"bbox": [1, 2, 3, 4], "bbox_mode": 0, "category_id": 0},
        {"bbox": [1, 2, 3, 4], "bbox_mode": 1, "category_id": 0},
    ]
    document = {"thing_classes": ["a"], "stuff_classes": [], "predicate_classes": ["on"]}
    (folder / "psg.json").write_text(json.dumps({**document, "data": [image]}))
    return folder / "psg.json"


MAKERS = {
    "coco": coco,
    "psg": psg,
    "bottom-up-tsv": bottom_up,
    "scan-precomp": scan,
    "vinvl": vinvl,
    "ban": ban,
    "npz": npz,
    "sgb": sgb,
    "visual-genome": genome,
    "lgsgm": lgsgm,
    "sgm": sgm,
    "entities": entities,
}


def read_all(name: str, path: Path) -> list[Detections]:
    source = open_source(name, path)
    try:
        found = [source.read(key) for key in source.ids()]
        if hasattr(source, "tokens"):
            source.tokens()
        return found
    finally:
        if hasattr(source, "close"):
            source.close()


@pytest.mark.parametrize("name", IMPORT_FORMATS)
def test_every_format_becomes_a_store(name, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = {**MAKERS, "lmdb": lmdb_file}[name](folder)
    report = import_store(name, path, tmp_path / "s", max_relations=3)
    assert import_store(name, path, tmp_path / "s", max_relations=3).manifest == report.manifest
    source = open_source(name, path)
    store = open_store(report.manifest)
    assert store.images["id"].tolist() == source.ids()
    assert report.skipped == []
    assert store.has("object_features") == ("features" in source.provides)
    for row, image_id in enumerate(source.ids()):
        read, kept = source.read(image_id), store.graph(image_id)
        n = len(read.labels)
        assert n > 0
        assert (kept.labels, kept.size) == (read.labels, read.size)
        assert kept.relations == (read.relations or ())
        np.testing.assert_array_equal(kept.boxes, read.boxes)
        np.testing.assert_array_equal(kept.scores, read.scores)
        assert [tuple(names) for names in kept.attributes][:n] == list(
            read.attributes or kept.attributes
        )
        if read.features is not None:
            got = store.gather("object_features", [row])[0]
            np.testing.assert_array_equal(got[:n], read.features)  # small integers fit float16
            assert not got[n:].any()
    assert store.has("form") == (name == "scan-precomp")
    if hasattr(source, "close"):
        source.close()


@pytest.mark.parametrize("name", MAKERS)
def test_changed_bytes(name, tmp_path):
    path = MAKERS[name](tmp_path)
    assert read_all(name, path)
    rng = np.random.default_rng(len(name))
    files = sorted(file for file in tmp_path.iterdir() if file.is_file())
    refused = 0
    for turn in range(60 * len(files)):
        file = files[turn % len(files)]
        good = file.read_bytes()
        bad = bytearray(good)
        kind = turn // len(files) % 3
        at = int(rng.integers(len(bad)))
        if kind == 0:
            bad[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            bad[at] = int(rng.integers(256))
        else:
            del bad[at:]
        file.write_bytes(bad)
        try:
            for found in read_all(name, path):
                n = len(found.labels)
                assert found.boxes.shape == (n, 4)
                assert np.isfinite(found.boxes).all()
                assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
                assert found.features is None or np.isfinite(found.features).all()
                assert all(max(s, o) < n for s, _, o in found.relations or ())
        except ScenestoreError:
            refused += 1
        finally:
            file.write_bytes(good)
    assert refused > 10


def refuse(monkeypatch, name: str) -> None:
    """Make opening files of this name fail; file modes do not stop root."""

    def refusing(file, *args, **kwargs):
        if Path(str(file)).name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    real = io.open
    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr("builtins.open", refusing)


@pytest.mark.parametrize("name", IMPORT_FORMATS)
def test_a_file_that_may_not_be_read(name, tmp_path, monkeypatch):
    path = {**MAKERS, "lmdb": lmdb_file}[name](tmp_path)
    source = open_source(name, path)
    files = [file for file in source.files if file.is_file()]
    getattr(source, "close", lambda: None)()
    assert files
    for file in files:
        with monkeypatch.context() as patch:
            refuse(patch, file.name)
            with pytest.raises(MissingInput, match="Permission denied") as caught:
                read_all(name, path)
        assert file.name in str(caught.value)
        assert "Check permissions" in str(caught.value)


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    def listdir(_path):
        raise PermissionError(13, "Permission denied")

    np.savez(tmp_path / "1.npz", x=FEATURES)
    monkeypatch.setattr("os.listdir", listdir)
    with pytest.raises(MissingInput, match="Permission denied"):
        open_source("npz", tmp_path)


def test_names_that_are_not_valid_text(tmp_path):
    """Undecodable file names, and JSON with an unpaired surrogate, would break every export."""
    folder = tmp_path / "npz"
    folder.mkdir()
    np.savez(folder / "1.npz", x=FEATURES)
    (folder / "1.npz").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.npz"))
    with pytest.raises(InputError, match=r"caf.udce9.*unpaired surrogate"):
        open_source("npz", folder)
    good = {"labels": ["dog"], "bbox": [[0, 0, 5, 5]], "rels": []}
    (tmp_path / "id.json").write_text(json.dumps({"a\ud800.jpg": good}))
    with pytest.raises(InputError, match=r"a.ud800.*unpaired surrogate"):
        open_source("lgsgm", tmp_path / "id.json")
    (tmp_path / "label.json").write_text(json.dumps({"a": {**good, "labels": ["dog\udfff"]}}))
    with pytest.raises(InputError, match=r"image 'a'.*dog.udfff"):
        open_source("lgsgm", tmp_path / "label.json").read("a")
    links = [{"subj_id": 0, "obj_id": 0, "class": "on\udfff"}]
    entry = {"objects": [{"rect": [0, 0, 1, 1]}], "relations": links}
    (tmp_path / "p.tsv").write_text(f"k\t{json.dumps(entry)}\n")
    with pytest.raises(InputError, match=r"the predicate 'on.udfff"):
        open_source("vinvl", tmp_path / "p.tsv").read("k")


def test_a_refused_source_is_closed(tmp_path, monkeypatch):
    path = lmdb_file(tmp_path)
    monkeypatch.setattr("features.convert.readers.lmdb_files.LmdbFile.ids", lambda _: ["\udfff"])
    for _ in range(2):  # LMDB refuses to open a database twice in one process
        with pytest.raises(InputError, match="unpaired surrogate"):
            open_source("lmdb", path)


@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, {"a": 1}, None, [1], "x" * 999],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_not_numbers(value):
    with pytest.raises(InputError, match=r"file: size .* is (not a number|too large)") as caught:
        integers("file", "size", [value], 1)
    assert len(str(caught.value)) < 140
    with pytest.raises(InputError, match="file: size must be 7 numbers"):
        integers("file", "size", value, 7)
    with pytest.raises(InputError, match="must be 1 numbers, not an array of int64"):
        integers("file", "size", np.array(3), 1)


def test_messages_of_self_referencing_lists_are_short():
    nested: object = [1] * 10
    for _ in range(30):
        nested = [nested] * 10
    boxed = np.empty(1, object)
    boxed[0] = nested
    for value in (nested, boxed):
        with pytest.raises(InputError, match="not a number"):
            integers("file", "size", [value], 1)
