"""Values that a reader must not turn into something else: names, floats, torn lines, folders."""

import base64
import json
import pickle

import h5py
import numpy as np
import pytest

from features.convert.formats import open_source
from features.convert.importing import import_store
from features.convert.readers.bottom_up_tsv import BottomUpFile
from features.convert.safe.values import decode_base64, decode_floats, integers, text_of
from features.convert.source import make_detections
from features.errors import InputError, UnknownName
from features.store import open_store

BOXES = np.float32([[0, 0, 40, 30], [5, 5, 60, 50], [1, 1, 9, 9]])
RNG = np.random.default_rng(5)


def b64(array, dtype="<f4"):
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def pooled(width=64, dtype=np.float32):
    """Return features as a pooled network gives them: not negative, many small."""
    values = np.maximum(RNG.normal(size=(3, width)), 0.01)
    return values.astype(dtype)


def line(key, features, **changes):
    row = {"id": key, "w": 100, "h": 80, "n": 3, "boxes": b64(BOXES), "features": features}
    return "\t".join(str(value) for value in {**row, **changes}.values()) + "\n"


def tsv(path, *lines):
    path.write_text("".join(lines))
    return BottomUpFile(path)


# ---- names


def repr_of(value):
    return type(value).__name__  # pytest cannot print 6,000 digits


@pytest.mark.parametrize(
    "value", [None, float("nan"), True, ["dog"], {"a": 1}, 0.5, 1 << 20_000], ids=repr_of
)
def test_no_value_becomes_a_word(value):
    with pytest.raises(InputError, match="f: a label is"):
        make_detections("f", [[0, 0, 1, 1]], labels=[value])
    with pytest.raises(InputError, match="f: an attribute is"):
        make_detections("f", [[0, 0, 1, 1]], attributes=[[value]])


def test_bytes_and_whole_numbers_are_text():
    assert [text_of("f", "x", v) for v in (b"caf\xc3\xa9", 7, 3.0, np.int64(4))] == [
        "caf\u00e9",
        "7",
        "3",
        "4",
    ]
    with pytest.raises(InputError, match="not UTF-8"):
        text_of("f", "x", b"\xff")


def test_large_numbers_stay_what_they_are():
    assert integers("f", "x", [2**53 + 1, str(7), b"8"], 3) == (2**53 + 1, 7, 8)
    assert text_of("f", "x", 2**60 + 1) == str(2**60 + 1)
    for value in (2.0**53, 1e300):  # another integer may have been rounded to it
        with pytest.raises(InputError, match="f: x"):
            text_of("f", "x", value)
    for text in ("1_0", "\u0663"):
        with pytest.raises(InputError, match="is not a number"):
            integers("f", "x", [text], 1)


def test_ids_of_bytes_in_ban(tmp_path):
    with h5py.File(tmp_path / "t.hdf5", "w") as file:
        file["image_features"] = np.ones((1, 3, 4), np.float32)
        file["image_bb"] = BOXES[None]
    (tmp_path / "t_imgid2idx.pkl").write_bytes(pickle.dumps({b"123": 0}, protocol=2))
    source = open_source("ban", tmp_path / "t.hdf5")
    assert source.ids() == ["123"]
    source.close()


@pytest.mark.parametrize("name", [None, ["dog"], True])
def test_names_of_vinvl_visual_genome_and_sgm(tmp_path, name):
    box = {"rect": [0, 0, 9, 9], "class": "dog", "conf": 0.5}
    relation = {"subj_id": 0, "obj_id": 0, "class": "on", "conf": 0.5}
    bad = [
        ({**box, "class": name}, relation),
        ({**box, "attributes": [name]}, relation),
        (box, {**relation, "class": name}),
    ]
    for item, link in bad:
        text = json.dumps({"objects": [item], "relations": [link]})
        (tmp_path / "p.tsv").write_text(f"1\t{text}\n")
        with pytest.raises(InputError, match="not text"):
            open_source("vinvl", tmp_path / "p.tsv").read("1")
    thing = {"object_id": 1, "x": 0, "y": 0, "w": 5, "h": 5, "names": ["dog"]}
    entry = {"image_id": 1, "objects": [thing], "relationships": []}
    link = {"predicate": name, "subject_id": 1, "object_id": 1}
    path = tmp_path / "scene_graphs.json"
    for change in ({"relationships": [link]}, {"objects": [{**thing, "attributes": [name]}]}):
        path.write_text(json.dumps([{**entry, **change}]))
        with pytest.raises(InputError, match="not text"):
            open_source("visual-genome", path).read("1")
    path.write_text(json.dumps([{**entry, "image_id": name}]))
    with pytest.raises(InputError, match="image_id"):
        open_source("visual-genome", path)


# ---- floats and base64


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("kind", ["pooled", "normal", "large", "sparse"])
def test_the_type_of_features_is_found(dtype, kind):
    values = {
        "pooled": pooled(),
        "normal": RNG.normal(size=(3, 64)),
        "large": RNG.uniform(0, 40, (3, 64)),
        "sparse": np.where(RNG.random((3, 256)) < 0.6, 0, RNG.gamma(1.0, 2.0, (3, 256))),
    }[kind]
    found = decode_floats(b64(values, dtype), (3, -1), "f")
    np.testing.assert_array_equal(found, values.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_boxes_of_other_floats_are_known_by_their_length(dtype):
    np.testing.assert_array_equal(decode_floats(b64(BOXES, dtype), (3, 4), "f"), BOXES)
    with pytest.raises(InputError, match="expected 48"):
        decode_floats(b64(BOXES[:2], dtype)[:-1] + "=", (3, 4), "f")


@pytest.mark.parametrize("narrow", [np.float16, np.float32, np.int8])
def test_widened_and_constant_features_are_what_they_are(narrow):
    """Numbers widened from a shorter type have few bits, and so have constant ones."""
    values = (RNG.normal(size=(3, 2048)) * 20).astype(narrow)
    for dtype in ("<f4", "<f8") if narrow == np.float32 else ("<f4",):
        found = decode_floats(b64(values, dtype), (3, -1), "f")
        np.testing.assert_array_equal(found, values.astype(np.float32))
    constant = np.full((3, 500), 0.3, np.float32)
    np.testing.assert_array_equal(decode_floats(b64(constant), (3, -1), "f"), constant)


@pytest.mark.parametrize("form", ["b'{}'", 'b"{}"', '"{}"', "\"b'{}'\"", "{}\r", " {} "])
def test_base64_in_quotes(form, tmp_path):
    features = pooled()
    source = tsv(
        tmp_path / "a.tsv",
        line("1", form.format(b64(features)), boxes=form.strip("\r ").format(b64(BOXES))),
    )
    np.testing.assert_array_equal(source.read("1").features, features)


def test_base64_with_other_letters():
    raw = bytes(range(250, 256)) * 2
    assert decode_base64(base64.urlsafe_b64encode(raw), "f") == raw
    for bad in ("AAA!A===", "AA\u00e9A", "A", "AAAA====AAAA"):
        with pytest.raises(InputError, match="not base64"):
            decode_base64(bad, "f")


# ---- repeated lines


def test_the_first_whole_line_of_an_image_counts(tmp_path):
    one, two = pooled(), pooled()
    torn = b64(one)[:-7]
    source = tsv(tmp_path / "a.tsv", line("1", torn), line("2", b64(two)), line("1", b64(one)))
    np.testing.assert_array_equal(source.read("1").features, one)
    source = tsv(tmp_path / "b.tsv", line("1", b64(one)), line("1", b64(two)))
    np.testing.assert_array_equal(source.read("1").features, one)
    source = tsv(tmp_path / "c.tsv", line("1", torn), line("1", torn))
    with pytest.raises(InputError, match="line 1"):
        source.read("1")
    nan = b64(np.full((3, 64), np.nan))
    source = tsv(tmp_path / "d.tsv", line("1", nan), line("1", b64(one)))
    np.testing.assert_array_equal(source.read("1").features, one)


def test_lines_that_ran_together_are_named(tmp_path):
    torn = line("1", "AAAA").rstrip("\n")[:-9]
    path = tmp_path / "a.tsv"
    source = tsv(path, line("3", b64(pooled())), torn + line("2", b64(pooled())))
    assert any("line 2" in note and "may hide the image" in note for note in source.notes)
    with pytest.raises(InputError, match=r"line 2.* columns, expected 6"):
        source.read("1")


def test_vinvl_takes_the_first_whole_line(tmp_path):
    text = json.dumps({"objects": [{"rect": [0, 0, 9, 9], "class": "dog", "conf": 0.5}]})
    (tmp_path / "p.tsv").write_text(f"1\t{text[:-9]}\n1\t{text}\n2\t{text}\n")
    assert open_source("vinvl", tmp_path / "p.tsv").read("1").labels == ("dog",)


# ---- names of images


def captions(path, *names, **more):
    images = [
        {"filename": n, "split": "train", "sentences": [{"raw": "a", "sentid": at}], **more}
        for at, n in enumerate(names)
    ]
    path.write_text(json.dumps({"images": images}))
    return path


@pytest.mark.parametrize(
    "form", ["/data/imgs/{}.jpg", "imgs\\{}.jpg", "C:\\x\\{}.JPG", "./{}.jpg", "/f/{}"]
)
def test_a_source_may_name_images_with_their_folder(tmp_path, form):
    source = tmp_path / "a.tsv"
    tsv(source, *(line(form.format(n), b64(np.full((3, 8), n))) for n in (7, 8)))
    said = captions(tmp_path / "c.json", "8.jpg", "7.jpg")
    report = import_store("bottom-up-tsv", source, tmp_path / "s", captions=said)
    assert report.skipped == []
    assert open_store(report.manifest).column("object_features")[:, 0, 0].tolist() == [8, 7]


def test_folders_that_contradict_or_do_not_decide(tmp_path):
    source = tsv(tmp_path / "a.tsv", line("/x/train/1.jpg", b64(pooled())))
    assert source.find("val/1.jpg") is None
    assert source.find("1.jpg", "val/1.jpg") is None
    assert source.find("1.jpg") == "/x/train/1.jpg"
    with pytest.raises(UnknownName):
        source.read("val/1.jpg")
    both = tsv(tmp_path / "b.tsv", *(line(f"/x/{s}/1.jpg", b64(pooled())) for s in ("a", "b")))
    assert both.find("b/1.jpg") == "/x/b/1.jpg"
    with pytest.raises(InputError, match=r"can be '/x/a/1\.jpg' or '/x/b/1\.jpg'"):
        both.find("1.jpg")


def test_ids_in_another_unicode_form(tmp_path):
    folder = tmp_path / "n"
    folder.mkdir()
    np.save(folder / "cafe\u0301.npy", np.ones((2, 4), np.float32))
    np.save(folder / "._cafe\u0301.npy", np.ones((9, 4), np.float32))
    source = open_source("npz", folder)
    assert len(source.ids()) == 1
    assert source.find("caf\u00e9.jpg") == "cafe\u0301"


# ---- SCAN


def scan(folder, rows, texts, ids=None, split="train"):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{split}_ims.npy", np.asarray(rows, np.float32))
    (folder / f"{split}_caps.txt").write_text("\n".join(texts) + "\n")
    if ids is not None:
        (folder / f"{split}_ids.txt").write_text("\n".join(ids) + "\n")
    return folder


def test_scan_with_one_caption_per_image(tmp_path):
    rows = RNG.normal(size=(10, 2, 4))
    texts = [f"caption {at}" for at in range(10)]
    for name, ids in (("a", [f"p{at}" for at in range(10)]), ("b", None)):
        entries = open_source("scan-precomp", scan(tmp_path / name, rows, texts, ids)).images()
        assert [[c.text for c in e.captions] for e in entries] == [[text] for text in texts]
    fives = scan(tmp_path / "c", rows, texts, [f"p{at // 5}" for at in range(10)])
    with pytest.raises(InputError, match="the five rows of an image differ"):
        open_source("scan-precomp", fives)
    shuffled = [f"p{at % 2}" for at in range(10)]
    with pytest.raises(InputError, match="10 ids, 2 different"):
        open_source("scan-precomp", scan(tmp_path / "d", rows.repeat(5, 0)[:10], texts, shuffled))


def test_scan_with_five_equal_rows_stays_five(tmp_path):
    rows = RNG.normal(size=(2, 2, 4)).repeat(5, axis=0)
    texts = [f"caption {at}" for at in range(10)]
    for name, ids in (("a", None), ("b", ["p", "q"]), ("c", ["p"] * 5 + ["q"] * 5)):
        entries = open_source("scan-precomp", scan(tmp_path / name, rows, texts, ids)).images()
        assert [len(entry.captions) for entry in entries] == [5, 5]


# ---- Visual Genome


def thing(at, **more):
    return {"object_id": at, "x": 1, "y": 2, "w": 3, "h": 4, "name": f"n{at}", **more}


def vg(path, *entries):
    path.write_text(json.dumps(list(entries)))
    return open_source("visual-genome", path)


def test_the_parts_of_visual_genome(tmp_path):
    link = {"predicate": "ON", "subject": thing(1), "object": thing(2)}
    back = {"predicate": "by", "subject": thing(2), "object": thing(1)}
    source = vg(tmp_path / "r.json", {"image_id": 1, "relationships": [link, back]})
    found = source.read("1")
    assert found.labels == ("n1", "n2")
    assert found.relations == ((0, "on", 1), (1, "by", 0))
    wide = {"id": 5, "x": 1, "y": 2, "width": 3, "height": 4, "names": ["cat"]}
    source = vg(tmp_path / "o.json", {"id": 1, "objects": [wide]})
    assert source.provides == {"labels"}
    assert source.read("1").boxes.tolist() == [[1, 2, 4, 6]]
    assert source.read("1").relations is None
    source = vg(tmp_path / "a.json", {"image_id": 1, "attributes": [thing(1, attributes=["red"])]})
    assert source.read("1").attributes == (("red",),)
    with pytest.raises(InputError, match="neither 'objects' nor 'relationships'"):
        vg(tmp_path / "d.json", {"id": 1, "regions": [{"phrase": "a"}]}).read("1")


# ---- arrays of no axes


@pytest.mark.parametrize(
    "value",
    [np.array({"a": 1}, dtype=object), np.float32(3), np.array("text"), np.zeros((1, 1, 1))],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_no_table(tmp_path, value, suffix):
    (tmp_path / "n").mkdir()
    save = np.save if suffix == ".npy" else lambda path, array: np.savez(path, feat=array)
    save(tmp_path / "n" / f"a{suffix}", value)
    with pytest.raises(InputError, match=rf"a\{suffix}"):
        open_source("npz", tmp_path / "n").read("a")
