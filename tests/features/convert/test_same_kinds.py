"""Values that programs write in the place of others, in every reader: each is read, or refused."""

import base64
import gzip
import json

import numpy as np
import pytest

from features.convert import read_captions
from features.convert.captions import check_entries, clean_text
from features.convert.formats import open_source
from features.errors import InputError

RNG = np.random.default_rng(0)
BOXES = np.array([[0, 0, 10, 10], [5, 5, 30, 40]], np.float32)
FEATURES = np.maximum(RNG.normal(size=(2, 64)), 0).astype(np.float32)
HEADER = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


def b64(array, dtype="<f4"):
    return base64.b64encode(array.astype(dtype).tobytes())


def line(key=b"1", count=b"2", boxes=None, features=None):
    parts = [key, b"100", b"80", count, boxes or b64(BOXES), features or b64(FEATURES)]
    return b"\t".join(parts) + b"\n"


def tsv(tmp_path, raw):
    (tmp_path / "f.tsv").write_bytes(raw)
    return open_source("bottom-up-tsv", tmp_path / "f.tsv")


NUMBERS = [">f4", ">f8", ">f2", "<i4", "<i8", "<i2", "|u1", ">i4", "|b1"]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("column", ["boxes", "features"])
def test_numbers_of_other_types_are_no_float32(tmp_path, column, dtype):
    values = BOXES if column == "boxes" else 50 * FEATURES
    source = tsv(tmp_path, line(**{column: b64(values, dtype)}))
    with pytest.raises(InputError, match=f"'{column}'|finite"):
        source.read("1")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("scale", [1, 1e-3])
@pytest.mark.parametrize("dense", [True, False])
def test_floats_of_every_width(tmp_path, dtype, scale, dense):
    values = scale * (np.abs(RNG.normal(size=(2, 64))) if dense else FEATURES)
    source = tsv(tmp_path, line(boxes=b64(BOXES, dtype), features=b64(values, dtype)))
    found = source.read("1")
    np.testing.assert_allclose(found.features, values, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.boxes, BOXES)


def test_a_wrong_number_of_boxes(tmp_path):
    with pytest.raises(InputError, match="num_boxes may be wrong"):
        tsv(tmp_path, line(count=b"1")).read("1")


def test_headers_name_the_columns(tmp_path):
    header = "\t".join([HEADER[0].upper(), HEADER[2], HEADER[1], *HEADER[3:]]).encode()
    assert tsv(tmp_path, header + b"\n" + line()).read("1").size == (80, 100)
    with pytest.raises(InputError, match="the header is"):
        tsv(tmp_path, header.replace(b"boxes\t", b"rois\t") + b"\n" + line())


def test_what_surrounds_base64_and_ids(tmp_path):
    packed = b64(BOXES)
    for boxes in (b"B'%s'" % packed, b"\"b''%s''\"" % packed, packed[:8] + b"\\n" + packed[8:]):
        for key in (b" 1 ", b"b'1'", b'"1"', b"\0\0" + b"1"):
            found = tsv(tmp_path, b"\0\0\0\n" + line(key, boxes=boxes)).read("1")
            np.testing.assert_array_equal(found.boxes, BOXES)


def coco(**box):
    annotation = {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], **box}
    image = {"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}
    categories = [{"id": 3, "name": box.pop("name", "dog")}]
    return {"images": [image], "annotations": [annotation], "categories": categories}


def genome(**change):
    item = {"object_id": 1, "x": 1, "y": 2, "w": 3, "h": 4, "names": ["dog"]}
    link = {"predicate": "on", "subject_id": 1, "object_id": 1}
    for where in (item, link):
        where.update({key: value for key, value in change.items() if key in where})
    return [{"image_id": 1, "objects": [item], "relationships": [link]}]


def psg(**change):
    item = {"bbox": [0, 0, 9, 9], "category_id": 0, "bbox_mode": 0} | change
    image = {"file_name": "1.jpg", "width": 100, "height": 80, "annotations": [item]}
    names = {"thing_classes": ["dog"], "stuff_classes": [], "predicate_classes": ["on"]}
    return {"data": [{**image, "relations": [[0, 0, 0]]}], **names}


def graph(label="dog", predicate="on", corner=0):
    entry = {"labels": [label], "bbox": [[corner, 0, 9, 9]], "rels": []}
    if isinstance(label, str):
        entry["rels"] = [[f"{label}:0", predicate, f"{label}:0"]]
    return {"1.jpg": entry}


WRONG = {
    "coco": [coco(name=""), coco(score=True), coco(score=7), coco(iscrowd="no"), coco(name="nan")],
    "visual-genome": [
        *(genome(**{key: True}) for key in ("x", "w", "object_id", "subject_id")),
        *(genome(names=[name]) for name in ("", " ")),
        genome(predicate=None),
    ],
    "psg": [psg(category_id=True), *(psg(bbox_mode=mode) for mode in (2, True, "xyxy", [1]))],
    "lgsgm": [
        *(graph(label=name) for name in ("", "None", True, None)),
        *(graph(predicate=name) for name in ("", " ", "nan")),
        graph(corner=True),
    ],
}


@pytest.mark.parametrize(
    ("name", "document"), [(name, one) for name, several in WRONG.items() for one in several]
)
def test_values_that_are_no_names_and_no_numbers(tmp_path, name, document):
    path = tmp_path / "f.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"f\.json"):
        [source.read(key) for source in [open_source(name, path)] for key in source.ids()]


def test_right_documents_are_read(tmp_path):
    path = tmp_path / "f.json"
    for name, document in {
        "coco": coco(),
        "visual-genome": genome(),
        "psg": psg(bbox_mode=1),
        "lgsgm": graph(),
    }.items():
        path.write_text(json.dumps(document))
        source = open_source(name, path)
        assert source.read(source.ids()[0]).labels == ("dog",)


def test_half_a_size_is_none(tmp_path):
    document = coco()
    document["images"][0]["width"] = None
    (tmp_path / "f.json").write_text(json.dumps(document))
    assert open_source("coco", tmp_path / "f.json").read("1.jpg").size == (0, 0)


NO_WORDS = ["none", "NAN", "N/A", "#N/A", "NaT", "undefined", "None.", "['a', None]", "[nan]"]
NO_WORDS += ["{'raw': 'a'}", 'B"a dog"']


@pytest.mark.parametrize("text", NO_WORDS)
def test_words_that_stand_for_nothing(tmp_path, text):
    path = tmp_path / "c.json"
    for name, caption in (("1.jpg", text), (text, "A dog.")):
        image = {"filename": name, "split": "train", "sentences": [{"raw": caption}]}
        path.write_text(json.dumps({"images": [image]}))
        with pytest.raises(InputError, match=r"the word|written as text"):
            read_captions(path)
    assert clean_text("[A dog] (sic), {x}") == "[A dog] (sic), {x}"


def test_true_is_not_image_1(tmp_path):
    images = [{"id": 1, "file_name": "1.jpg"}]
    for owner, key in ((True, 1), (1, True)):
        note = {"id": 5, "image_id": owner, "caption": "A dog."}
        document = {"images": [{**images[0], "id": key}], "annotations": [note]}
        (tmp_path / "captions_val.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"captions_val\.json"):
            read_captions(tmp_path)


def test_numbers_of_karpathy_may_be_text(tmp_path):
    path = tmp_path / "c.json"
    for number, known in ((3, {"1.jpg": "3"}), ("3", {"1.jpg": "3"}), (True, {}), (None, {})):
        image = {"filename": "1.jpg", "imgid": number, "sentences": [{"raw": "A dog."}]}
        path.write_text(json.dumps({"images": [image]}))
        assert read_captions(path).numbers == known


def test_results_without_a_header(tmp_path):
    (tmp_path / "results.csv").write_text("1.jpg| 0| A dog .\n1.jpg| 1| A cat .\n")
    (entry,) = read_captions(tmp_path / "results.csv").entries
    assert [caption.text for caption in entry.captions] == ["A dog .", "A cat ."]


def test_windows_paths_in_token_files(tmp_path):
    (tmp_path / "r.token").write_text("imgs\\1.jpg#0\tA dog.\n./2.jpg#0\tA cat.\n")
    assert [e.file for e in read_captions(tmp_path / "r.token").entries] == ["imgs/1.jpg", "2.jpg"]


def test_files_that_a_browser_unpacked(tmp_path):
    raw = b"image,caption\n1.jpg,A dog.\n"
    for packed in (raw, gzip.compress(raw[:14]) + gzip.compress(raw[14:])):
        (tmp_path / "c.csv.gz").write_bytes(packed)
        assert len(read_captions(tmp_path / "c.csv.gz").entries) == 1


@pytest.mark.parametrize("system", ["__MACOSX", "@eaDir", ".Trashes"])
def test_folders_of_systems(tmp_path, system):
    for folder in (tmp_path, tmp_path / system):
        folder.mkdir(exist_ok=True)
        (folder / "1.jpg").write_bytes(b"")
        (folder / "1.txt").write_text("A dog.")
    assert [entry.id for entry in read_captions(tmp_path).entries] == ["1.jpg"]


@pytest.mark.parametrize(
    ("ids", "rows"),
    [("", [0, 0, 1, 1]), ("nan\nNone\n", [0, 1])],
)
def test_precomputed_rows_that_say_too_little(tmp_path, ids, rows):
    features = RNG.normal(size=(2, 3, 4)).astype(np.float32)[rows]
    np.save(tmp_path / "train_ims.npy", features)
    (tmp_path / "train_caps.txt").write_text("a dog\n" * (10 if ids else 4))
    if ids:
        (tmp_path / "train_ids.txt").write_text(ids)
    with pytest.raises(InputError, match=r"first two are equal|the word 'nan'"):
        check_entries(open_source("scan-precomp", tmp_path).images(), tmp_path)


SAME = {
    "A man's watch": [
        "A man&amp;#39;s watch",
        "A man\u00e2\u20ac\u2122s watch",
        "A man\u02bbs wat\u034fch\ufe0f",
        "\u202eA man\u2032s\u061c watch\u202c",
        "A\u00a0man\u275cs\u2003watch",
    ],
    'A "dog" runs': ["A \u201edog\u201c runs", "A \u00e2\u20ac\u0153dog\u00e2\u20ac\u009d runs"],
    "black-and-white": ["black\u2013and\u2012white", "black\u2010and\u2212white"],
    "A man - in a hat": ["A man \u2013 in a hat", "A man\u2014in a hat"],
    "na\u00efve caf\u00e9 \u00e2": ["nai\u0308ve cafe\u0301 \u00e2"],
}


@pytest.mark.parametrize(("plain", "typed"), [(k, one) for k, v in SAME.items() for one in v])
def test_typographic_marks_become_those_of_a_keyboard(plain, typed):
    assert clean_text(typed) == plain
