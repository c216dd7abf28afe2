"""Read caption files: every layout, its pitfalls, and broken files."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from features.convert.captions import NO_SPLIT, clean_text, read_captions
from features.errors import InputError, MissingInput, UsageError

SHARED = Path(__file__).resolve().parents[4].parent / "shared"


def karpathy(images):
    return {"dataset": "tiny", "images": images}


def image(name="a.jpg", split="train", sentences=("A dog runs .",), first=0, **more):
    raws = [{"raw": text, "sentid": first + k} for k, text in enumerate(sentences)]
    return {"filename": name, "split": split, "sentences": raws, **more}


def write(path, document):
    text = json.dumps(document)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["d.json", "d.json.gz"])
def test_karpathy_keeps_ids_splits_and_any_number_of_captions(tmp_path, name):
    images = [
        image("a.jpg", "train", ["one", "two", "three"], 0),
        image("b.jpg", "restval", ["four"], 10, filepath="val2014"),
        image("c.jpg", "test", [], 20),
        image("d.jpg", "val", [f"c{k}" for k in range(7)], 30),
    ]
    found = read_captions(write(tmp_path / name, karpathy(images)))
    assert [e.id for e in found.entries] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [e.split for e in found.entries] == ["train", "train", "test", "val"]
    assert [len(e.captions) for e in found.entries] == [3, 1, 0, 7]
    assert found.entries[1].file == "val2014/b.jpg"
    assert found.entries[1].captions[0].id == "10"
    assert found.n_captions == 11


def test_html_entities_controls_and_surrogates_are_cleaned():
    assert clean_text("Fish &amp; chips &lt;3\x00\x07 now") == "Fish & chips <3 now"
    assert clean_text("bad \ud800 half") == "bad \N{REPLACEMENT CHARACTER} half"
    clean_text("bad \ud800 half").encode()  # must be storable
    assert clean_text(" \t\r\n ") == ""


def test_karpathy_without_raw_uses_tokens_and_without_split_is_unsplit(tmp_path):
    document = karpathy([{"filename": "a.jpg", "sentences": [{"tokens": ["a", "dog"]}]}])
    entry = read_captions(write(tmp_path / "d.json", document)).entries[0]
    assert entry.split == NO_SPLIT
    assert entry.captions[0].text == "a dog"
    assert entry.captions[0].id == "a.jpg#0"


def test_coco_files_in_a_folder_take_the_split_from_their_names(tmp_path):
    for split, number in (("train", 1), ("val", 2)):
        document = {
            "images": [{"id": number, "file_name": f"{number}.jpg"}],
            "annotations": [
                {"id": 10 * number + k, "image_id": number, "caption": f"caption {k}\n"}
                for k in range(6)
            ],
        }
        write(tmp_path / f"captions_{split}2017.json", document)
    found = read_captions(tmp_path)
    assert Counter(e.split for e in found.entries) == {"train": 1, "val": 1}
    assert [c.id for c in found.entries[0].captions] == [str(10 + k) for k in range(6)]
    assert found.entries[0].captions[0].text == "caption 0"


def test_token_file_and_entities_sentences_agree(tmp_path):
    token = tmp_path / "results.token"
    token.write_text("7.jpg#0\tA man in a hat .\n7.jpg#1\tTwo dogs run .\n\n")
    folder = tmp_path / "Sentences"
    folder.mkdir()
    (folder / "7.txt").write_text(
        "[/EN#1/people A man] in [/EN#2/clothing/other a hat] .\n[/EN#3/animals Two dogs] run .\n"
    )
    assert read_captions(token).entries == read_captions(folder).entries


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.json", '{"images": [', "broken JSON .*line 1 column"),
        ("d.json", "[]", "no image with captions"),
        ("d.json", "{}", "no list 'images'"),
        ("d.json", '{"images": [{"split": "train"}]}', r"images\[0\].*'filename'"),
        ("d.json", '{"images": [7]}', r"images\[0\]"),
        ("d.json", '{"images": []}', "no image with captions"),
        (
            "d.json",
            '{"images": [], "annotations": [{"image_id": 1, "id": 2}]}',
            "image_id 1 is not",
        ),
        ("c.token", "no tab here", r"c\.token: line 1: not 'image"),
    ],
)
def test_broken_files_name_file_and_place(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_captions(path)
    assert str(path) in str(caught.value)


def test_torn_gzip_and_binary_files_are_input_errors(tmp_path):
    whole = gzip.compress(json.dumps(karpathy([image()])).encode())
    (tmp_path / "torn.json.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8\xff\xe0 not text")
    with pytest.raises(InputError, match="damaged gzip"):
        read_captions(tmp_path / "torn.json.gz")
    with pytest.raises(InputError, match="not UTF-8 text at byte 0"):
        read_captions(tmp_path / "photo.json")


def test_missing_paths_and_unknown_policy(tmp_path):
    with pytest.raises(MissingInput, match="no such captions file"):
        read_captions(tmp_path / "nothing.json")
    with pytest.raises(MissingInput, match="Entities sentences"):
        read_captions(tmp_path)
    with pytest.raises(UsageError, match="fail or skip"):
        read_captions(tmp_path, on_error="ignore")


@pytest.mark.parametrize(
    ("images", "item"),
    [
        ([image(sentences=["fine", " \x00 "])], "1"),
        ([image(), image("b.jpg")], "0"),  # the caption id 0 again
        ([image(), image("../../etc/passwd", first=5)], "../../etc/passwd"),
        ([image(), image("/root.jpg", first=5)], "/root.jpg"),
        ([image(), image(split="test", first=5)], "a.jpg"),
    ],
)
def test_bad_entries_fail_or_are_listed(tmp_path, images, item):
    path = write(tmp_path / "d.json", karpathy(images))
    with pytest.raises(InputError, match="--on-error skip"):
        read_captions(path)
    found = read_captions(path, on_error="skip")
    assert [name for name, _ in found.dropped] == [item]
    assert sum(len(e.captions) for e in found.entries) == 1


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.exists(), reason="development data is not beside this checkout")
def test_real_flickr30k_files_agree_with_each_other():
    folder = SHARED / "data" / "flickr30k-dev"
    full = read_captions(folder / "dataset_flickr30k_trainval.json.gz")
    assert Counter(e.split for e in full.entries) == {"train": 29_000, "val": 1_014}
    assert full.n_captions == 150_070
    texts = {e.id: [c.text for c in e.captions] for e in full.entries}
    token = read_captions(folder / "results_20130124.token.subset")
    assert token.n_captions == 6_150

    def letters(captions):
        return [re.sub(r"[^a-z]", "", text.lower()) for text in captions]

    same = sum(letters(texts[e.id]) == letters(c.text for c in e.captions) for e in token.entries)
    assert same >= 0.95 * len(token.entries)
    entities = read_captions(folder / "flickr30k_entities" / "Sentences")
    assert {e.id for e in entities.entries} == {e.id for e in token.entries}
