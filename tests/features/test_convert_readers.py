"""Readers of feature files: bottom-up TSV, SCAN, LMDB, VinVL, BAN and npz folders."""

import base64
import json
import pickle
import random
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.convert.ban import BanFile
from features.convert.bottom_up_tsv import LXMERT, PLAIN, BottomUpFile
from features.convert.formats import IMPORT_FORMATS, open_source
from features.convert.lmdb_files import LmdbFile
from features.convert.npz_folder import NpzFolder
from features.convert.scan import ScanData, ScanFolder
from features.convert.vinvl import VinvlFile
from features.errors import (
    FeatureOverflow,
    InputError,
    MissingDependency,
    MissingInput,
    UnknownName,
    UsageError,
)

D = 8


def image(seed: int, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (n, 4)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    return boxes, rng.normal(size=(n, D)).astype(np.float32)


def b64(array: np.ndarray, dtype: str = "<f4") -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def plain_line(key: str, seed: int, n: int = 3, **change: object) -> str:
    boxes, features = image(seed, n)
    row = {"image_id": key, "image_w": 200, "image_h": 150, "num_boxes": n}
    row |= {"boxes": b64(boxes), "features": b64(features), **change}
    return "\t".join(str(row[name]) for name in PLAIN) + "\n"


# Bottom-up-attention


def test_tsv(tmp_path):
    lines = [plain_line(str(key), key, key % 4) for key in range(20)]
    random.Random(1).shuffle(lines)
    path = tmp_path / "a.tsv"
    path.write_text("".join(lines))
    source = BottomUpFile(path)
    assert sorted(source.ids(), key=int) == [str(key) for key in range(20)]
    assert source.ids()[0] == lines[0].split("\t")[0]  # the order of the file
    for key in (7, 0, 19):
        boxes, features = image(key, key % 4)
        found = source.read(str(key))
        np.testing.assert_array_equal(found.boxes, boxes)
        np.testing.assert_array_equal(found.features, features if key % 4 else np.zeros((0, 0)))
        assert found.size == (200, 150)
    assert source.notes == []


def test_tsv_duplicates_torn_line_and_parts(tmp_path):
    (tmp_path / "a.tsv.0").write_text(plain_line("1", 1) + plain_line("2", 2))
    torn = plain_line("4", 4)
    for cut in (3, 20, 60, len(torn) - 10):
        body = plain_line("1", 9) + plain_line("3", 3) + plain_line("3", 3) + torn[:cut]
        (tmp_path / "a.tsv.1").write_text(body)
        source = BottomUpFile(tmp_path / "a.tsv")
        assert source.ids() == ["1", "2", "3"]
        np.testing.assert_array_equal(source.read("1").features, image(1)[1])  # the first counts
        assert any("2 lines repeat" in note for note in source.notes)
        assert any("torn" in note for note in source.notes)
    (tmp_path / "a.tsv.1").write_text(plain_line("4", 4)[:-1])  # whole, only the line end is gone
    assert BottomUpFile(tmp_path / "a.tsv").ids() == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_boxes": 4}, "expected 64 for 4 boxes"),
        ({"num_boxes": 2}, "expected 32 for 2 boxes"),
        ({"num_boxes": 10**12}, "makes no sense"),
        ({"num_boxes": -1}, "makes no sense"),
        ({"num_boxes": "x"}, "no number"),
        ({"image_w": "nan"}, "no whole number"),
        ({"image_w": 10**9}, "makes no sense"),
        ({"boxes": "####"}, "expected 48"),
        ({"boxes": "AAA"}, "not base64"),
        ({"features": b64(np.zeros(25))}, "expected 96"),
    ],
)
def test_tsv_hostile(tmp_path, change, message):
    path = tmp_path / "a.tsv"
    path.write_text(plain_line("1", 1) + plain_line("img7", 7, **change))
    source = BottomUpFile(path)
    with pytest.raises(InputError, match=message) as caught:
        source.read("img7")
    for part in ("a.tsv", "line 2", "img7"):
        assert part in str(caught.value)
    assert len(source.read("1").labels) == 3


def test_tsv_not_finite(tmp_path):
    values = np.zeros((3, D), np.float32)
    values[1, 2] = np.inf
    (tmp_path / "a.tsv").write_text(plain_line("7", 7, features=b64(values)))
    with pytest.raises(FeatureOverflow, match="'7': features"):
        BottomUpFile(tmp_path / "a.tsv").read("7")


def test_tsv_wrong_columns(tmp_path):
    path = tmp_path / "a.tsv"
    for text in (plain_line("1", 1) + "a\tb\n", "a\tb\nc\td\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="columns"):
            BottomUpFile(path)
    path.write_text("")
    with pytest.raises(InputError, match="no whole line"):
        BottomUpFile(path)
    with pytest.raises(MissingInput):
        BottomUpFile(tmp_path / "none.tsv")


@pytest.mark.parametrize("id_type", ["<i8", "<i4"])
def test_lxmert_tsv(tmp_path, id_type):
    boxes, features = image(5)
    row = dict.fromkeys(LXMERT, "")
    row |= {"img_id": "x", "img_h": 150, "img_w": 200, "num_boxes": 3}
    row |= {"boxes": b64(boxes), "features": b64(features)}
    row |= {"objects_id": b64([2, 0, 1], id_type), "objects_conf": b64([0.25, 0.75, 0.5])}
    row |= {"attrs_id": b64([1, 1, 0], id_type), "attrs_conf": b64([0.5, 0.5, 0.5])}
    line = "\t".join(str(row[name]) for name in LXMERT) + "\n"
    (tmp_path / "a.tsv").write_text(line)
    (tmp_path / "objects.txt").write_text("dog,puppy\ncat\nman\n")
    (tmp_path / "attributes.txt").write_text("red\nold\n")
    source = BottomUpFile(
        tmp_path / "a.tsv",
        objects=tmp_path / "objects.txt",
        attributes=tmp_path / "attributes.txt",
    )
    found = source.read("x")
    assert found.labels == ("dog", "cat", "man")  # by score
    assert found.attributes == (("old",), ("red",), ("old",))
    np.testing.assert_array_equal(found.features, features[[1, 2, 0]])
    assert found.size == (200, 150)
    assert source.brings == {"features", "size", "scores", "labels", "attributes"}
    (tmp_path / "objects.txt").write_text("dog\ncat\n")
    with pytest.raises(InputError, match="object class 2 is not in a list of 2"):
        BottomUpFile(tmp_path / "a.tsv", objects=tmp_path / "objects.txt").read("x")


# SCAN and GSMN


def scan(folder: Path, split: str, images: int, copies: int, *, gsmn: bool = False) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(images)
    features = rng.normal(size=(images, 4, D)).astype(np.float32)
    np.save(folder / f"{split}_ims.npy", np.repeat(features, copies, axis=0))
    captions = [f"caption {n} of {i} \u00e9" for i in range(images) for n in range(5)]
    (folder / f"{split}_caps.txt").write_bytes("".join(f"{c}\n" for c in captions).encode())
    (folder / f"{split}_ids.txt").write_text("".join(f"{split}{i}\n" for i in range(images)))
    if gsmn:
        boxes = np.stack([image(i, 4)[0] for i in range(images)])
        np.save(folder / f"{split}_ims_bbx.npy", np.repeat(boxes, copies, axis=0))
        sizes = np.empty(images * copies, object)
        for row in range(images * copies):
            sizes[row] = {"image_h": 100 + row // copies, "image_w": 200}
        np.save(folder / f"{split}_ims_size.npy", sizes, allow_pickle=True)
    return features


@pytest.mark.parametrize("copies", [1, 5])
def test_scan(tmp_path, copies):
    features = scan(tmp_path / "p", "dev", 6, copies, gsmn=True)
    source = ScanFolder(tmp_path / "p", "dev")
    assert source.ids() == [f"dev{i}" for i in range(6)]
    for row in (0, 5, 2):
        found = source.read(f"dev{row}")
        np.testing.assert_array_equal(found.features, features[row])
        np.testing.assert_array_equal(found.boxes, image(row, 4)[0])
        assert found.size == (200, 100 + row)
    entry = source.images()[2]
    assert (entry.id, entry.split) == ("dev2", "val")
    assert [c.text for c in entry.captions] == [f"caption {n} of 2 \u00e9" for n in range(5)]


def test_scan_splits(tmp_path):
    folder = tmp_path / "p"
    for split, images in (("testall", 3), ("train", 4), ("test", 1), ("dev", 2)):
        scan(folder, split, images, 1 if split == "train" else 5)
    source = ScanData(folder)
    assert len(source.ids()) == 9  # test is part of testall
    assert [e.split for e in source.images()] == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    for split in ("train", "dev", "testall"):
        n = len((folder / f"{split}_ids.txt").read_text().split())
        (folder / f"{split}_ids.txt").write_text("".join(f"{i}\n" for i in range(n)))
    source = ScanData(folder)
    assert source.ids()[:5] == ["train-0", "train-1", "train-2", "train-3", "dev-0"]
    assert any("share ids" in note for note in source.notes)
    assert not source.read("dev-1").boxes.any()


def test_scan_ids_per_caption_or_none(tmp_path):
    scan(tmp_path, "train", 3, 1)
    (tmp_path / "train_ids.txt").write_text("".join(f"{i}\n" * 5 for i in "abc"))
    assert ScanFolder(tmp_path).ids() == ["a", "b", "c"]
    (tmp_path / "train_ids.txt").unlink()
    assert ScanFolder(tmp_path).ids() == ["train-0", "train-1", "train-2"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("caps.txt", b"one\n" * 14),
        ("caps.txt", b"one\n" * 20),
        ("caps.txt", b"\xff\xfe\n" * 15),
        ("caps.txt", b""),
        ("ids.txt", b"a\nb\n"),
        ("ids.txt", b"a\nb\na\n"),
        ("ims_bbx.npy", np.zeros((3, 4, 3), np.float32)),
        ("ims_bbx.npy", np.zeros((2, 4, 4), np.float32)),
        ("ims_size.npy", np.zeros((4,))),
        ("ims.npy", np.zeros((3, 4), np.float32)),
        ("ims.npy", np.zeros((3, 4, D), np.int64)),
    ],
)
def test_scan_hostile(tmp_path, name, data):
    scan(tmp_path, "train", 3, 1, gsmn=True)
    path = tmp_path / f"train_{name}"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        np.save(path, data)
    with pytest.raises(InputError):
        ScanFolder(tmp_path)


def test_scan_sizes_that_are_no_sizes(tmp_path):
    scan(tmp_path, "train", 3, 1, gsmn=True)
    for entry in ({"image_h": 3}, [3, 4], {"image_h": "x", "image_w": 3}):
        sizes = np.empty(3, object)
        sizes[:] = [entry] * 3
        np.save(tmp_path / "train_ims_size.npy", sizes, allow_pickle=True)
        with pytest.raises(InputError):
            ScanFolder(tmp_path).read("train0")
    with pytest.raises(MissingInput, match=r"no \*_ims\.npy"):
        ScanData(tmp_path / ".." / tmp_path.name / "..")


# LMDB


def lmdb_file(path: Path, values: dict[str, object]) -> Path:
    import lmdb

    with lmdb.open(str(path), map_size=1 << 22) as env, env.begin(write=True) as transaction:
        for key, value in values.items():
            data = value if isinstance(value, bytes) else pickle.dumps(value)
            transaction.put(key.encode(), data)
        transaction.put(b"keys", pickle.dumps([key.encode() for key in values]))
    return path


def mmf_value(seed: int, **change: object) -> dict[str, object]:
    boxes, features = image(seed)
    return {
        "features": features,
        "bbox": boxes,
        "num_boxes": 3,
        "objects": np.array([1, 0, 1]),
        "cls_prob": np.float32([[0.9, 0.1, 0.0], [0.1, 0.7, 0.2], [0.2, 0.0, 0.8]]),
        "image_width": 200,
        "image_height": np.int64(150),
        "feature_path": "x",
        **change,
    }


def test_mmf_lmdb(tmp_path):
    (tmp_path / "objects.txt").write_text("dog\ncat\n")
    path = lmdb_file(tmp_path / "db", {"val/1": mmf_value(1), "val/2": mmf_value(2)})
    with LmdbFile(path, objects=tmp_path / "objects.txt") as source:
        assert source.ids() == ["val/1", "val/2"]
        found = source.read("val/2")
        order = [2, 1, 0]  # best real class: .1 .7 .8
        np.testing.assert_array_equal(found.features, image(2)[1][order])
        np.testing.assert_array_equal(found.boxes, image(2)[0][order])
        np.testing.assert_allclose(found.scores, [0.8, 0.7, 0.1])
        assert found.labels == ("cat", "dog", "cat")
        assert found.size == (200, 150)


@pytest.mark.parametrize("names", [("image_w", "image_h"), ("img_w", "img_h")])
def test_vilbert_lmdb(tmp_path, names):
    boxes, features = image(4)
    value = {"image_id": 4, "num_boxes": 3, "boxes": b64(boxes), "features": b64(features).encode()}
    value |= {names[0]: 200, names[1]: 150}
    with LmdbFile(lmdb_file(tmp_path / "db", {"4": value})) as source:
        found = source.read("4")
        np.testing.assert_array_equal(found.features, features)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.size == (200, 150)


class Runs:
    """A pickle that leaves a mark where it is loaded without care."""

    mark = Path(tempfile.mkdtemp()) / "ran"

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "value",
    [
        Runs(),
        b"not a pickle",
        b"",
        [1, 2],
        {"bbox": 3},
        mmf_value(1, num_boxes=4),
        mmf_value(1, bbox=np.zeros((2, 4))),
        mmf_value(1, features=np.zeros(3)),
        mmf_value(1, features=np.array([None, 1])),
        {"num_boxes": 9, "boxes": "AAAA", "features": "AAAA"},
        {"num_boxes": 1, "features": "AAAA"},
    ],
)
def test_lmdb_hostile(tmp_path, value):
    path = lmdb_file(tmp_path / "db", {"k": value})
    with LmdbFile(path) as source, pytest.raises(InputError, match="'k'"):
        source.read("k")
    assert not Runs.mark.exists()


def test_torn_lmdb(tmp_path):
    """A missing page of the map would kill the process with SIGBUS."""
    values = {str(n): mmf_value(n, features=np.ones((3, 700), np.float32)) for n in range(30)}
    path = lmdb_file(tmp_path / "db", values)
    whole = (path / "data.mdb").read_bytes()
    for at, size in enumerate(np.linspace(0, len(whole) - 1, 9).astype(int).tolist()):
        copy = tmp_path / f"copy{at}"
        copy.mkdir()
        (copy / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"LMDB|torn"):
            LmdbFile(copy)
    with LmdbFile(path) as source:
        assert [len(source.read(key).labels) for key in source.ids()] == [3] * 30


def test_lmdb_missing(tmp_path, monkeypatch):
    with pytest.raises(MissingInput):
        LmdbFile(tmp_path / "none")
    (tmp_path / "data.mdb").write_bytes(b"x" * 8192)
    with pytest.raises(InputError, match="LMDB"):
        LmdbFile(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(MissingDependency, match="pip install lmdb"):
        LmdbFile(tmp_path)


# VinVL and Oscar


def vinvl_object(seed: int, **change: object) -> dict[str, object]:
    boxes, features = image(seed, 1)
    value = {"rect": boxes[0].tolist(), "class": f"c{seed}", "conf": 0.5, "feature": b64(features)}
    return {**value, "attributes": ["a"], **change}


def tsv(path: Path, rows: dict[str, object], *, index: bool = True) -> Path:
    lines = [f"{key}\t{json.dumps(value)}\n" for key, value in rows.items()]
    path.write_text("".join(lines))
    offsets = np.cumsum([0, *(len(line.encode()) for line in lines)])[:-1]
    if index:
        path.with_suffix(".lineidx").write_text("".join(f"{n}\n" for n in offsets))
    return path


def test_vinvl_predictions(tmp_path):
    relations = [{"subj_id": 1, "obj_id": 0, "class": "on", "conf": 0.25}]
    objects = [vinvl_object(1), vinvl_object(2, conf=0.75)]
    rows = {
        "a": {"objects": objects, "relations": relations},
        "b": {"objects": [], "relations": None},
    }
    source = VinvlFile(tsv(tmp_path / "p.tsv", rows))
    assert source.ids() == ["a", "b"]
    found = source.read("a")
    assert found.labels == ("c2", "c1")
    assert found.relations == ((0, "on", 1),)
    assert found.relation_scores.tolist() == [0.25]
    np.testing.assert_array_equal(found.features[0], image(2, 1)[1][0])
    assert source.brings == {"labels", "scores", "features", "attributes", "relations"}
    assert source.read("b").labels == ()


@pytest.mark.parametrize("index", ["good", "none", "wrong", "short", "text"])
def test_oscar_features(tmp_path, index):
    boxes, features = image(3)
    fraction = boxes / np.float32([200, 150, 200, 150])
    size = fraction[:, 2:] - fraction[:, :2]
    wide = np.concatenate([features, fraction, size], 1)
    rows = {key: {"num_boxes": 3, "features": b64(wide)} for key in ("1", "2", "3")}
    path = tsv(tmp_path / "train.feature.tsv", rows, index=index == "good")
    texts = {"wrong": "0\n5\n9\n", "short": "0\n", "text": "x"}
    if index in texts:
        path.with_suffix(".lineidx").write_text(texts[index])
    hw = {key: [{"height": 150, "width": 200}] for key in rows}
    tsv(tmp_path / "train.hw.tsv", hw)
    source = VinvlFile(path)
    assert source.ids() == ["1", "2", "3"]
    found = source.read("3")
    np.testing.assert_allclose(found.boxes, boxes, rtol=1e-5)
    np.testing.assert_array_equal(found.features, features)
    assert bool(source.notes) == (index in texts)
    rects = [{"rect": box.tolist(), "class": "x", "conf": 0.5} for box in boxes]
    tsv(tmp_path / "train.label.tsv", dict.fromkeys(rows, rects))
    assert VinvlFile(path).read("1").labels == ("x", "x", "x")


@pytest.mark.parametrize(
    "value",
    [
        {"objects": [vinvl_object(1, rect=[1, 2, 3])]},
        {"objects": [vinvl_object(1, rect=[1, 2, "x", 4])]},
        {"objects": [vinvl_object(1, feature="AAAAA")]},
        {"objects": [vinvl_object(1), vinvl_object(2, feature="AAAA")]},
        {"objects": [vinvl_object(1, conf="high")]},
        {"objects": 3},
        {"objects": [3]},
        {"objects": [vinvl_object(1)], "relations": [{"subj_id": 0, "obj_id": 1}]},
        [],
        None,
    ],
)
def test_vinvl_hostile(tmp_path, value):
    good = {"objects": [vinvl_object(1)], "relations": None}
    source = VinvlFile(tsv(tmp_path / "p.tsv", {"good": good, "bad": value}))
    with pytest.raises(InputError, match="'bad'"):
        source.read("bad")


def test_oscar_hostile(tmp_path):
    for value in (
        {"num_boxes": 3, "features": b64(np.zeros((2, 14)))[:-1]},
        {"num_boxes": 10**9, "features": ""},
        {"num_boxes": 1, "features": b64(np.zeros((1, 6)))},
        {"num_boxes": 1},
    ):
        with pytest.raises(InputError):
            VinvlFile(tsv(tmp_path / "p.tsv", {"a": value})).read("a")
    path = tsv(tmp_path / "p.tsv", {"a": {"objects": []}, "b": {"objects": []}}, index=False)
    path.write_text(path.read_text()[:-6])
    path.with_suffix(".lineidx").unlink()
    with pytest.raises(InputError, match="torn"):
        VinvlFile(path).read("b")


# BAN and ReGAT


def ban(folder: Path, *, adaptive: bool, **change: object) -> Path:
    path = folder / "val36.hdf5"
    counts = [3, 3, 3] if not adaptive else [2, 0, 4]
    parts = [image(at, n) for at, n in enumerate(counts)]
    join = np.concatenate if adaptive else np.stack
    data = {"image_bb": join([p[0] for p in parts]), "image_features": join([p[1] for p in parts])}
    if adaptive:
        ends = np.cumsum([0, *counts])
        data["pos_boxes"] = np.stack([ends[:-1], ends[1:]], 1)
    with h5py.File(path, "w") as file:
        for name, values in {**data, **change}.items():
            file[name] = values
    table = {10: 2, 20: 0, 30: 1}
    path.with_name("val36_imgid2idx.pkl").write_bytes(pickle.dumps(table, protocol=2))
    return path


@pytest.mark.parametrize("adaptive", [False, True])
def test_ban(tmp_path, adaptive):
    source = BanFile(ban(tmp_path, adaptive=adaptive))
    assert source.ids() == ["20", "30", "10"]
    for key, row in (("10", 2), ("20", 0), ("30", 1)):
        boxes, features = image(row, [2, 0, 4][row] if adaptive else 3)
        found = source.read(key)
        np.testing.assert_array_equal(found.boxes, boxes)
        np.testing.assert_array_equal(found.features, features)


def test_ban_hostile(tmp_path):
    source = BanFile(ban(tmp_path, adaptive=True, pos_boxes=np.array([[0, 2], [2, 99], [3, 1]])))
    for key in ("30", "10"):
        with pytest.raises(InputError, match="pos_boxes"):
            source.read(key)
    source.close()
    with pytest.raises(InputError, match="does not fit"):
        BanFile(ban(tmp_path, adaptive=False, image_bb=np.zeros((2, 3, 4))))
    with pytest.raises(InputError, match="is a link"):
        BanFile(ban(tmp_path, adaptive=False, image_bb=h5py.ExternalLink("/etc/passwd", "x")))
    with pytest.raises(InputError, match="no dataset"):
        BanFile(ban(tmp_path, adaptive=False, image_features=np.zeros(3)))
    path = ban(tmp_path, adaptive=False)
    with h5py.File(path, "r+") as file:
        del file["image_features"]
        file.create_dataset("image_features", (3, 1 << 20, 1 << 10), "f4")  # takes no space
    with pytest.raises(InputError, match="refused"):
        BanFile(path)
    path = ban(tmp_path, adaptive=False)
    table = path.with_name("val36_imgid2idx.pkl")
    for bad in ({1: 9}, {1: 0, 2: 0}, {1: -1}, [1], {1: "x"}, Runs()):
        table.write_bytes(pickle.dumps(bad))
        with pytest.raises(InputError):
            BanFile(path)
    table.unlink()
    with pytest.raises(MissingInput, match="imgid2idx"):
        BanFile(path)
    path.write_bytes(path.read_bytes()[:200])
    table.write_bytes(pickle.dumps({1: 0}))
    with pytest.raises(InputError, match="HDF5"):
        BanFile(path)


# Folders of arrays


def test_npz_folders(tmp_path):
    att, box, milvlg, mmf = (tmp_path / n for n in ("x_att", "x_box", "milvlg", "mmf"))
    for folder in (att, box, milvlg, mmf):
        folder.mkdir()
    boxes, features = image(1)
    np.savez_compressed(att / "9.npz", feat=features)
    np.save(box / "9.npy", boxes)
    extra = {"bbox": boxes, "num_bbox": 3, "image_h": 150, "image_w": 200, "info": {"a": 1}}
    np.savez(milvlg / "9.npz", x=features.T, **extra)
    np.save(mmf / "9.npy", features)
    info = {"bbox": boxes, "num_boxes": 3, "image_width": 200, "image_height": 150}
    np.save(mmf / "9_info.npy", info, allow_pickle=True)
    for folder in (att, milvlg, mmf):
        source = NpzFolder(folder)
        assert source.ids() == ["9"]
        found = source.read("9")
        np.testing.assert_array_equal(found.features, features)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.size == ((0, 0) if folder == att else (200, 150))


def test_npz_hostile(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no \.npz"):
        NpzFolder(folder)
    boxes, features = image(1)
    evil = np.empty(1, object)
    evil[0] = Runs()
    np.savez(folder / "pickle.npz", feat=evil)
    np.savez(folder / "count.npz", feat=features, num_bbox=7)
    np.savez(folder / "boxes.npz", feat=features, bbox=boxes[:2])
    np.savez(folder / "none.npz", other=features)
    np.savez(folder / "many.npz", feat=features, num_bbox=[1, 2])
    whole = (folder / "none.npz").read_bytes()
    (folder / "torn.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npz").write_bytes(b"hello")
    (folder / "zero.npz").write_bytes(b"")
    source = NpzFolder(folder)
    assert len(source.ids()) == 8
    for key in source.ids():
        with pytest.raises(InputError, match=key):
            source.read(key)
    assert not Runs.mark.exists()


def test_formats_by_name(tmp_path):
    (tmp_path / "a.tsv").write_text(plain_line("1", 1))
    assert open_source("bottom-up-tsv", tmp_path / "a.tsv").ids() == ["1"]
    with pytest.raises(UnknownName, match="bottom-up-tsv"):
        open_source("bottom-up", tmp_path)
    with pytest.raises(UsageError, match="it takes: objects, attributes"):
        open_source("bottom-up-tsv", tmp_path / "a.tsv", {"labels": "x"})
    assert len(IMPORT_FORMATS) == 11
