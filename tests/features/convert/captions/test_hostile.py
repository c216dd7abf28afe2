"""Untrusted caption files: names that lead out of a folder, broken text, duplicate ids, bombs."""

import gzip
import json
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from features.convert.captions import check_entries, read_captions
from features.convert.importing import import_store
from features.errors import InputError, UsageError
from features.records import Caption, ImageEntry
from features.store import open_store


def write(path, *images, **changes):
    """Write a captions file of ``images``, or of one image with ``changes``."""
    plain = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog", "sentid": 1}]}
    path.write_text(json.dumps({"images": list(images) or [{**plain, **changes}]}))
    return path


OUTSIDE = ["../../evil", "/tmp/evil", "a\\b", "..", "a\0b", "a\nb", "a\x1b[31m", "a\ud800"]


@pytest.mark.parametrize("split", OUTSIDE)
def test_splits_must_be_plain_names(tmp_path, split):
    path = write(tmp_path / "c.json", split=split)
    with pytest.raises(InputError, match=r"c\.json: image '1\.jpg': .* is not a plain name"):
        read_captions(path)
    write(path, split="my split-2")
    assert Counter(e.split for e in read_captions(path).entries) == {"my split-2": 1}
    with pytest.raises(UsageError, match="--split"):
        import_store("npz", tmp_path, tmp_path / "s", split=split)


@pytest.mark.parametrize(
    "names",
    [
        {"filename": "../1.jpg"},
        {"filename": "/etc/1.jpg"},
        {"filename": "1.jpg", "filepath": "../secret"},
        {"filename": "1.jpg", "filepath": "/secret"},
        {"filename": "1.jpg", "filepath": "..\\secret"},
    ],
)
def test_image_files_outside_the_folder(tmp_path, names):
    path = write(tmp_path / "c.json", **names)
    with pytest.raises(InputError, match=r"c\.json.*leads out of its folder"):
        read_captions(path)


def test_folders_inside_are_kept(tmp_path):
    path = write(tmp_path / "c.json", filepath="val2014")
    assert read_captions(path).entries[0].file == "val2014/1.jpg"


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "a\ud800.jpg"},
        {"filename": "a\n.jpg"},
        {"filename": ""},
        {"sentences": [{"raw": "a", "sentid": "\ud800"}]},
        {"sentences": [{"raw": "a", "sentid": "1\n2"}]},
    ],
)
def test_ids_that_cannot_be_exported(tmp_path, changes):
    with pytest.raises(InputError, match=r"c\.json: (image|caption) .*(unpaired|control|empty)"):
        read_captions(write(tmp_path / "c.json", **changes))


@pytest.mark.parametrize("sentences", [["a dog"], "a dog", [3], [["a"]], {"a": 1}])
def test_sentences_that_are_not_objects(tmp_path, sentences):
    with pytest.raises(InputError, match=r"\[0\]: caption 0 of '1\.jpg' is no object with 'raw'"):
        read_captions(write(tmp_path / "c.json", sentences=sentences))


def test_an_image_that_is_not_an_object(tmp_path):
    for image in ("1.jpg", 3, None, ["filename"]):
        with pytest.raises(InputError, match=r"images\[0\]: .*known layout"):
            read_captions(write(tmp_path / "c.json", image))


def test_duplicate_caption_ids(tmp_path):
    images = [
        {"filename": f"{at}.jpg", "sentences": [{"raw": "a", "sentid": n} for n in range(2)]}
        for at in range(2)
    ]
    with pytest.raises(InputError, match=r"caption '0': .*used twice \(image 1\.jpg\)"):
        read_captions(write(tmp_path / "c.json", *images))
    for image in images:  # no ids: they are made from the file's name
        image["sentences"] = [{"raw": "a", "sentid": None}, {"raw": "a"}]
    entries = read_captions(write(tmp_path / "c.json", *images)).entries
    assert [c.id for e in entries for c in e.captions] == [
        f"{at}.jpg#{n}" for at in range(2) for n in range(2)
    ]


def test_images_of_a_source_are_checked_too():
    entry = ImageEntry("a", "", "../x", (Caption("1", "a"),))
    with pytest.raises(InputError, match=r"folder: image 'a': split '\.\./x'"):
        check_entries([entry], "folder")
    found = check_entries([entry, replace(entry, split="dev")], "folder", on_error="skip")
    assert Counter(e.split for e in found.entries) == {"val": 1}
    assert found.dropped == (("a", "split '../x' is not a plain name"),)


def test_gzip_bombs_stop_at_a_limit(tmp_path):
    path = tmp_path / "c.json.gz"
    whole = write(tmp_path / "c.json").read_bytes()
    path.write_bytes(gzip.compress(whole))
    assert read_captions(path).entries[0].id == "1.jpg"
    path.write_bytes(gzip.compress(b" " * (200 << 20) + whole))  # 200 kB
    tracemalloc.start()
    with pytest.raises(InputError, match=r"c\.json\.gz: unpacks to more than 67,108,864 bytes"):
        read_captions(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    path.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(InputError, match=r"c\.json\.gz"):
        read_captions(path)


def test_ids_that_are_absolute_paths_are_not_file_names(tmp_path):
    graph = {"labels": ["dog"], "bbox": [[0, 0, 5, 5]], "rels": []}
    names = ["/data/x/1.jpg", "../2.jpg", "a/3.jpg"]
    (tmp_path / "g.json").write_text(json.dumps(dict.fromkeys(names, graph)))
    store = open_store(import_store("lgsgm", tmp_path / "g.json", tmp_path / "s").manifest)
    assert store.images["id"].tolist() == names
    assert store.images["file"].tolist() == ["", "", "a/3.jpg"]
    assert np.array_equal(store.column("num_objects"), [1, 1, 1])


def test_source_ids_must_be_valid_text(tmp_path):
    graph = {"labels": ["dog"], "bbox": [[0, 0, 5, 5]], "rels": []}
    (tmp_path / "g.json").write_text(json.dumps({"1.jpg": graph, "a\ud800.jpg": graph}))
    with pytest.raises(
        InputError, match=r"g\.json: the image id 'a.*jpg': it contains an unpaired"
    ):
        import_store("lgsgm", tmp_path / "g.json", tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("sentences", [5, True, 1.5])
def test_sentences_that_are_no_list(tmp_path, sentences):
    with pytest.raises(InputError, match=r"images\[0\]: 'sentences' is"):
        read_captions(write(tmp_path / "c.json", sentences=sentences))


WORDLESS = [None, float("nan"), ["a"], True, {"a": 1}]


@pytest.mark.parametrize("value", WORDLESS, ids=repr)
@pytest.mark.parametrize("key", ["raw", "filename", "filepath", "split", "sentid"])
def test_no_value_of_karpathys_files_becomes_a_word(tmp_path, key, value):
    sentence = {"raw": "a dog", "sentid": 1}
    change = {key: value}
    if key in sentence:
        change = {"sentences": [{**sentence, key: value}]}
    path = write(tmp_path / "c.json", **change)
    word = str(value)
    found = check_safely(path)
    assert word not in found
    tokens = {"sentences": [{"raw": value, "tokens": ["a", "cat"], "sentid": 1}]}
    entry = read_captions(write(tmp_path / "t.json", **tokens)).entries[0]
    assert entry.captions[0].text == "a cat"


def check_safely(path):
    """Return all texts, names and splits that a file gives with any policy."""
    try:
        entries = read_captions(path, on_error="skip").entries
    except InputError:
        return []
    return [
        text
        for e in entries
        for text in (e.id, e.split, *e.file.split("/"), *(t for c in e.captions for t in (c.text,)))
    ]
