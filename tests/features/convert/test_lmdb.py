"""Readers of LMDB files: MMF, ViLBERT and VOLTA."""

import base64
import json
import pickle
import signal
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from features import open_store
from features.convert.importing import import_store
from features.convert.readers.lmdb_files import LmdbFile
from features.errors import (
    InputError,
    MissingDependency,
    MissingInput,
)

D = 8


def image(seed: int, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (n, 4)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    return boxes, rng.normal(size=(n, D)).astype(np.float32)


def b64(array: np.ndarray, dtype: str = "<f4") -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


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
    with closing(LmdbFile(path, objects=tmp_path / "objects.txt")) as source:
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
    with closing(LmdbFile(lmdb_file(tmp_path / "db", {"4": value}))) as source:
        found = source.read("4")
        np.testing.assert_array_equal(found.features, features)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.size == (200, 150)


class Runs:
    """A pickle that creates a file if it is loaded by the standard unpickler."""

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
        mmf_value(1, num_boxes=-1),
        mmf_value(1, objects=np.array(3), cls_prob=np.full((3, 2), None)),
        {"features": np.zeros((3, 4)), "image_w": 5, "image_h": 5},
        {"features": np.zeros((3, 4)), "boxes": np.zeros((2, 4)), "num_boxes": 2},
        {"num_boxes": 9, "boxes": "AAAA", "features": "AAAA"},
        {"num_boxes": 1, "features": "AAAA"},
    ],
)
def test_lmdb_hostile(tmp_path, value):
    path = lmdb_file(tmp_path / "db", {"k": value})
    with closing(LmdbFile(path)) as source, pytest.raises(InputError, match="'k'"):
        source.read("k")
    assert not Runs.mark.exists()


def test_torn_lmdb(tmp_path):
    """Reading a missing page of the map would kill the process with SIGBUS."""
    values = {str(n): mmf_value(n, features=np.ones((3, 700), np.float32)) for n in range(30)}
    path = lmdb_file(tmp_path / "db", values)
    whole = (path / "data.mdb").read_bytes()
    for at, size in enumerate(np.linspace(0, len(whole) - 1, 9).astype(int).tolist()):
        copy = tmp_path / f"copy{at}"
        copy.mkdir()
        (copy / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"LMDB|torn"):
            LmdbFile(copy)
    with closing(LmdbFile(path)) as source:
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


def test_a_failed_import_closes_the_database(tmp_path):
    path = lmdb_file(tmp_path / "db", {"k": {"features": 3}})
    with pytest.raises(InputError) as caught:
        import_store("lmdb", path, tmp_path / "s")
    LmdbFile(path).close()  # LMDB refuses to open a database twice in one process
    assert caught.traceback  # it keeps the frames alive that used the database


def test_vilbert_arrays(tmp_path):
    """The output of convert_to_lmdb.py of ViLBERT's multi-task code."""
    boxes, features = image(4)
    value = {"image_id": "4", "num_boxes": 3, "boxes": boxes, "features": features}
    value |= {"image_w": 200, "image_h": np.int64(150)}
    with closing(LmdbFile(lmdb_file(tmp_path / "db", {"4": value}))) as source:
        found = source.read("4")
        np.testing.assert_array_equal(found.boxes, boxes)
        np.testing.assert_array_equal(found.features, features)
        assert found.size == (200, 150)


def test_mmf_rows_without_a_score(tmp_path):
    """MMF writes 100 rows; num_boxes is how many of them have a score."""
    (tmp_path / "objects.txt").write_text("dog\ncat\n")
    value = mmf_value(1, num_boxes=2)
    none = mmf_value(1, num_boxes=0)
    path = lmdb_file(tmp_path / "db", {"1": value, "2": none})
    with closing(LmdbFile(path, objects=tmp_path / "objects.txt")) as source:
        found = source.read("1")
        assert found.labels == ("dog", "cat")  # the scores are .7 .1; the third row had .8
        np.testing.assert_array_equal(found.boxes, image(1)[0][[1, 0]])
        np.testing.assert_array_equal(found.features, image(1)[1][[1, 0]])
        assert source.read("2").labels == ()


def test_keys_with_a_folder_match_captions_with_that_folder(tmp_path):
    name, folder = "COCO_val2014_000000000042.jpg", "val2014"
    path = lmdb_file(tmp_path / "db", {f"{folder}/{name[:-4]}": mmf_value(1)})
    entry = {"filename": name, "filepath": folder, "split": "val", "sentences": [{"raw": "a dog"}]}
    (tmp_path / "c.json").write_text(json.dumps({"images": [entry]}))
    done = import_store("lmdb", path, tmp_path / "s", captions=tmp_path / "c.json")
    store = open_store(done.manifest)
    assert store.images["id"].tolist() == [name]
    assert store.graph(name).boxes.shape == (3, 4)


def test_mmf_without_a_background(tmp_path):
    """MMF drops column 0 of cls_prob itself; then objects is the best of all columns."""
    (tmp_path / "objects.txt").write_text("yolk\ngoal\ndog\n")
    table = np.float32([[0.1, 0.7, 0.1], [0.9, 0.02, 0.03], [0.2, 0.1, 0.3]])
    plain = mmf_value(1, cls_prob=table, objects=table.argmax(1))
    kept = mmf_value(1, cls_prob=table, objects=table[:, 1:].argmax(1))
    path = lmdb_file(tmp_path / "db", {"plain": plain, "kept": kept})
    with closing(LmdbFile(path, objects=tmp_path / "objects.txt")) as source:
        found = source.read("plain")
        assert found.labels == ("yolk", "goal", "dog")
        np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.3])
        np.testing.assert_allclose(source.read("kept").scores, [0.7, 0.3, 0.03])


def test_a_file_that_ends_the_process_that_reads_it(tmp_path):
    """liblmdb crashes on some damaged pages; ours goes on."""
    lmdb_file(tmp_path / "a", {"1": mmf_value(1), "2": mmf_value(2)})
    with closing(LmdbFile(tmp_path / "a")) as source:
        source.read("1")
        source._file._process.send_signal(signal.SIGBUS)
        with pytest.raises(InputError, match=r"a: .*'2'.* SIGBUS"):
            source.read("2")
    process = source._file._process
    assert process.returncode is not None
    assert process.stdout.closed
