"""Readers of TSV files: bottom-up-attention, LXMERT, VinVL and Oscar."""

import base64
import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

from features.convert.formats import IMPORT_FORMATS, open_source
from features.convert.importing import import_store
from features.convert.readers.bottom_up_tsv import LXMERT, PLAIN, BottomUpFile
from features.convert.readers.vinvl import VinvlFile
from features.errors import (
    FeatureOverflow,
    InputError,
    MissingInput,
    UnknownName,
    UsageError,
)
from features.store import open_store

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
    (tmp_path / "a.tsv.1").write_text(
        plain_line("4", 4)[:-1]
    )  # complete, only the line end is missing
    assert BottomUpFile(tmp_path / "a.tsv").ids() == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_boxes": 4}, "expected 64 for 4 boxes"),
        ({"num_boxes": 2}, "expected 32 for 2 boxes"),
        ({"num_boxes": 10**12}, "is not possible"),
        ({"num_boxes": -1}, "is not possible"),
        ({"num_boxes": "x"}, "not a number"),
        ({"image_w": "nan"}, "not a number"),
        ({"image_w": 10**9}, "is not possible"),
        ({"boxes": "####"}, "not base64"),
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
    path.write_text("a\tb\nc\td\n")
    with pytest.raises(InputError, match=r"line 1, image 'a': 2 columns"):
        BottomUpFile(path)
    path.write_text(plain_line("1", 1) + "a\tb\n" + plain_line("2", 2))
    source = BottomUpFile(path)
    assert source.ids() == ["1", "2", "a"]  # "a" can be skipped, but not silently
    assert any("line 2, image 'a': 2 columns" in note for note in source.notes)
    with pytest.raises(InputError, match=r"line 2, image 'a': 2 columns.*Delete the line"):
        source.read("a")
    np.testing.assert_array_equal(source.read("2").features, image(2)[1])
    path.write_text("")
    with pytest.raises(InputError, match="no complete line"):
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
    assert source.provides == {"features", "size", "scores", "labels", "attributes"}
    (tmp_path / "objects.txt").write_text("dog\ncat\n")
    with pytest.raises(InputError, match="object class 2 is not in a list of 2"):
        BottomUpFile(tmp_path / "a.tsv", objects=tmp_path / "objects.txt").read("x")


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
    assert source.provides == {"labels", "scores", "features", "attributes", "relations"}
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


def test_formats_by_name(tmp_path):
    (tmp_path / "a.tsv").write_text(plain_line("1", 1))
    assert open_source("bottom-up-tsv", tmp_path / "a.tsv").ids() == ["1"]
    with pytest.raises(UnknownName, match="bottom-up-tsv"):
        open_source("bottom-up", tmp_path)
    with pytest.raises(UsageError, match="it takes: objects, attributes"):
        open_source("bottom-up-tsv", tmp_path / "a.tsv", {"labels": "x"})
    assert len(IMPORT_FORMATS) == 13


def test_csv_field_limit_does_not_matter(tmp_path):
    """Python's csv has a limit of 131,072 characters; a line of 100 boxes of 2048 has a million."""
    features, boxes = b64(np.ones((100, 2048))), b64(np.tile([0, 0, 1, 1], (100, 1)))
    (tmp_path / "a.tsv").write_text("\t".join(["1", "9", "9", "100", boxes, features]) + "\n")
    assert len(features) > csv.field_size_limit()
    assert float(BottomUpFile(tmp_path / "a.tsv").read("1").features.sum()) == 100 * 2048


def test_tsv_from_windows(tmp_path):
    (tmp_path / "a.tsv").write_text("\ufeff" + plain_line("1", 1), encoding="utf-8")
    assert BottomUpFile(tmp_path / "a.tsv").ids() == ["1"]
    line = json.dumps({"objects": [vinvl_object(1)]})
    (tmp_path / "p.tsv").write_text(f"\ufeff7\t{line}\n", encoding="utf-8")
    source = VinvlFile(tmp_path / "p.tsv")
    assert source.ids() == ["7"]
    assert source.read("7").labels == ("c1",)


RELATIONS = [{"subj_id": 1, "obj_id": 0, "class": "on", "conf": 0.25}]
FULL = {"objects": [vinvl_object(1), vinvl_object(2)], "relations": RELATIONS}


@pytest.mark.parametrize("objects", [[], [vinvl_object(1)]])
@pytest.mark.parametrize("relations", [None, []])
def test_vinvl_first_image_is_empty(tmp_path, objects, relations):
    first = {"objects": objects, "relations": relations}
    rows = {"1": first, "2": {"objects": [], "relations": None}, "3": FULL}
    source = VinvlFile(tsv(tmp_path / "p.tsv", rows))
    assert source.provides == {"labels", "scores", "features", "attributes", "relations"}


def test_vinvl_without_relations_or_objects(tmp_path):
    empty = {"objects": [], "relations": None}
    source = VinvlFile(tsv(tmp_path / "p.tsv", {"1": empty, "2": empty}))
    assert source.provides == {"labels", "scores"}
    rows = {"1": {"objects": []}, "2": {"objects": [vinvl_object(1)]}}
    source = VinvlFile(tsv(tmp_path / "p.tsv", rows))
    assert source.provides == {"labels", "scores", "features", "attributes"}


def test_vinvl_first_line_torn(tmp_path):
    path = tsv(tmp_path / "p.tsv", {"1": FULL, "2": FULL}, index=False)
    lines = path.read_text().splitlines()
    path.write_text(f"{lines[0][:50]}\n{lines[1]}\n")
    report = import_store("vinvl", path, tmp_path / "s", on_error="skip")
    assert [key for key, _ in report.skipped] == ["1"]
    assert "torn" in report.skipped[0][1]
    store = open_store(report.manifest)
    assert store.graph("2").relations == ((1, "on", 0),)
    assert store.has("object_features")
    path.write_text(lines[0][:50])
    with pytest.raises(InputError, match="torn"):
        VinvlFile(path)


def test_vinvl_attributes_that_are_padding(tmp_path):
    def read(**change: object) -> object:
        entry = {"objects": [vinvl_object(1, **change)], "relations": []}
        return VinvlFile(tsv(tmp_path / "p.tsv", {"1": entry})).read("1").attributes

    names = ["brown", "__no_attribute__", "wooden", "blue"]
    assert read(attributes=names, attr_scores=[0.5, 0.0, 0.0, 0.0]) == (("brown",),)
    assert read(attributes=names, attr_scores=[0.5, 0.4, 0.0, 0.1]) == (("brown", "blue"),)
    assert read(attributes=names) == (("brown", "wooden", "blue"),)
    for scores in ([0.5], 3, ["x"] * 4):
        with pytest.raises(InputError, match="image '1'"):
            read(attributes=names, attr_scores=scores)


def test_vinvl_numbers_of_any_length(tmp_path):
    for value in (10**400, float("inf")):
        entry = {"objects": [vinvl_object(1, rect=[0, 0, value, 1])]}
        with pytest.raises(InputError, match=r"a rect holds|is not a number"):
            VinvlFile(tsv(tmp_path / "p.tsv", {"1": entry})).read("1")
