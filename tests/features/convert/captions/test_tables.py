"""Captions in tables: CSV, TSV, JSON lines, Parquet; bad rows are named and counted."""

import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.convert.captions import collection, parse_shares, read_captions
from features.errors import InputError, UsageError

ROWS = [("a.jpg", "A dog runs .", "train"), ("a.jpg", 'A dog, "Rex"', "train")]
ROWS += [("sub/b.png", "Two cats", "val"), ("c.webp", "caf\u00e9 | bar; x\ty", "test")]


def quoted(text, delimiter):
    escaped = text.replace('"', '""')
    return f'"{escaped}"' if delimiter in text or '"' in text or "\n" in text else text


def table(kind, rows=ROWS, header=("file_name", "text", "split")):
    """Return a table as bytes."""
    if kind in ("jsonl", "json"):
        objects = [dict(zip(header, row, strict=True)) for row in rows]
        if kind == "json":
            return json.dumps(objects).encode()
        return "".join(json.dumps(row) + "\n" for row in objects).encode()
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        columns = {
            name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)
        }
        pq.write_table(pa.table(columns), sink)
        return sink.getvalue().to_pybytes()
    delimiter = {"csv": ",", "tsv": "\t", "semicolon": ";"}[kind]
    lines = [delimiter.join(quoted(value, delimiter) for value in row) for row in (header, *rows)]
    return ("\n".join(lines) + "\n").encode()


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def plain(found):
    return [(e.id, e.split, [c.text for c in e.captions]) for e in found.entries]


WHOLE = [
    ("a.jpg", "train", ["A dog runs .", 'A dog, "Rex"']),
    ("sub/b.png", "val", ["Two cats"]),
    ("c.webp", "test", ["caf\u00e9 | bar; x y"]),
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolon", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("form", ["plain", "bom", "crlf", "gz"])
def test_every_table_has_the_same_contents(tmp_path, kind, form):
    rows = ROWS if kind != "tsv" else [*ROWS[:3], ("c.webp", "caf\u00e9 | bar; x y", "test")]
    raw = table(kind, rows)
    name = f"t.{'csv' if kind == 'semicolon' else kind}"
    if kind == "parquet" and form != "plain":
        pytest.skip("Parquet is no text")
    if form == "bom" and kind != "json":
        raw = b"\xef\xbb\xbf" + raw
    if form == "crlf":
        raw = raw.replace(b"\n", b"\r\n")
    if form == "gz":
        raw, name = gzip.compress(raw), name + ".gz"
    found = read_captions(put(tmp_path / name, raw))
    assert plain(found) == WHOLE
    assert found.n_captions == 4
    assert found.entries[0].captions[1].id == "a.jpg#1"


def test_published_layouts(tmp_path):
    flickr8k = put(
        tmp_path / "captions.txt", 'image,caption\na.jpg,A dog .\na.jpg,"A dog, a cat"\n'
    )
    assert plain(read_captions(flickr8k)) == [("a.jpg", "unsplit", ["A dog .", "A dog, a cat"])]
    bars = "image_name| comment_number| comment\na.jpg| 0| A dog\na.jpg| 4   A cat | runs .\n"
    found = read_captions(put(tmp_path / "results.csv", bars))
    assert [(c.id, c.text) for c in found.entries[0].captions] == [
        ("a.jpg#0", "A dog"),
        ("a.jpg#4", "A cat | runs ."),
    ]
    listed = json.dumps([{"image": "val2014/1.jpg", "caption": ["a", "b"], "image_id": 7}])
    assert plain(read_captions(put(tmp_path / "coco_karpathy_test.json", listed))) == [
        ("val2014/1.jpg", "unsplit", ["a", "b"])
    ]
    lines = '{"image": {"path": "x/1.jpg", "bytes": null}, "text": "a"}\n'
    assert plain(read_captions(put(tmp_path / "lines.json", lines + lines)))[0][0] == "x/1.jpg"
    bare = put(tmp_path / "bare.tsv", "1.jpg\tA dog\n2.JPG\tA cat\n")
    assert [e.id for e in read_captions(bare).entries] == ["1.jpg", "2.JPG"]


@pytest.mark.parametrize(
    ("header", "image", "text"),
    [
        ("File Name,Caption", "File Name", "Caption"),
        ("id,image_path,sentence", "image_path", "sentence"),
        ("filepath,file_name,raw", "file_name", "raw"),
        ("IMAGE-FILE,Comment,set", "IMAGE-FILE", "Comment"),
    ],
)
def test_columns_are_known_by_their_names(tmp_path, header, image, text):
    names = header.split(",")
    row = ["1.jpg" if name == image else "a dog" if name == text else "x" for name in names]
    path = put(tmp_path / "t.csv", header + "\n" + ",".join(row) + "\n")
    assert plain(read_captions(path))[0][0] == "1.jpg"


BAD = {
    "no text": ({"text": None}, "not text"),
    "NaN": ({"text": float("nan")}, "not"),
    "a list in a list": ({"text": [["a"]]}, "not text"),
    "an empty list": ({"text": []}, "empty list"),
    "a number": ({"text": 3}, "not text"),
    "an empty caption": ({"text": " \u200b "}, "empty caption"),
    "the word None": ({"text": "None"}, "the word 'None'"),
    "the word nan": ({"text": "nan"}, "the word 'nan'"),
    "no image": ({"file_name": None}, "not text"),
    "an empty image": ({"file_name": " "}, "empty"),
    "an image that is a list": ({"file_name": ["1.jpg"]}, "not text"),
    "true": ({"file_name": True}, "not text"),
    "outside": ({"file_name": "../1.jpg"}, "leads out"),
    "absolute": ({"file_name": "/data/1.jpg"}, "leads out"),
    "control": ({"file_name": "1\u202e.jpg"}, "control character"),
    "a split that is a list": ({"split": ["train"]}, "not text"),
    "a split that is a path": ({"split": "../x"}, "not a plain name"),
    "another split of the same image": ({"file_name": "good.jpg", "split": "val"}, "listed twice"),
    "a caption id twice": ({"caption_id": "7"}, "used twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_of_json_lines(tmp_path, name):
    change, reason = BAD[name]
    good = {"file_name": "good.jpg", "text": "a dog", "split": "train", "caption_id": "7"}
    bad = {"file_name": "bad.jpg", "text": "a cat", "split": "train", "caption_id": "8", **change}
    last = {**good, "file_name": "last.jpg", "caption_id": "9"}
    path = put(tmp_path / "m.jsonl", "".join(json.dumps(row) + "\n" for row in (good, bad, last)))
    with pytest.raises(InputError, match=r"m\.jsonl.*--on-error skip") as caught:
        read_captions(path)
    assert reason in str(caught.value)
    found = read_captions(path, on_error="skip")
    assert found.n_dropped == len(found.dropped) == 1
    assert [e.id for e in found.entries if e.captions] == ["good.jpg", "last.jpg"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not usable JSON"),
        ("[1]", "no row with named values"),
        ('{"file_name": "b.jpg", "text": "a", "text": "b"}', "listed twice"),
        ('{"file_name": "b.jpg", "text": NaN}', "NaN is not a number"),
        ('{"file_name": "b.jpg", "text": "a", "n": ' + "9" * 10_000 + "}", "digits"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ('{"file_name": "b.jpg"}', "no column of captions"),
        ('{"text": "b"}', "no column of image files"),
        ('{"file_name": "b.jpg", "text": "a\x07"}', "control character"),
    ],
)
def test_bad_lines_of_json(tmp_path, line, reason):
    good = '{"file_name": "a.jpg", "text": "a dog"}\n'
    path = put(tmp_path / "m.jsonl", good + line + "\n" + good.replace("a.jpg", "c.jpg"))
    with pytest.raises(InputError, match=r"m\.jsonl: line 2") as caught:
        read_captions(path)
    assert reason in str(caught.value)
    found = read_captions(path, on_error="skip")
    assert [e.id for e in found.entries] == ["a.jpg", "c.jpg"]
    assert [key for key, _ in found.dropped] == ["line 2"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('b.jpg,"A dog', "a quote is not closed"),
        ('b.jpg,"A "dog""', "no CSV"),
        ("b.jpg,A dog, a cat", "3 fields, the header has 2"),
        ("b.jpg", "1 fields"),
        (b"b.jpg,caf\xe9", "not UTF-8"),
        ("b.jpg,", "empty caption"),
        (",A dog", "empty"),
        ("b.jpg,nan", "the word 'nan'"),
    ],
)
def test_a_bad_row_of_csv_hides_no_other(tmp_path, bad, reason):
    raw = bad if isinstance(bad, bytes) else bad.encode()
    lines = [b"image,caption", b'a.jpg,"A dog\nin two lines"', raw, b'c.jpg,"A, cat"', b"d.jpg,x"]
    path = put(tmp_path / "t.csv", b"\n".join(lines) + b"\n")
    with pytest.raises(InputError, match=r"t\.csv: (line 4|image|caption)") as caught:
        read_captions(path)
    assert reason in str(caught.value)
    found = read_captions(path, on_error="skip")
    assert [(e.id, *[c.text for c in e.captions]) for e in found.entries if e.captions] == [
        ("a.jpg", "A dog in two lines"),
        ("c.jpg", "A, cat"),
        ("d.jpg", "x"),
    ]
    assert found.n_dropped == 1


def test_a_quote_that_is_open_at_the_end(tmp_path):
    path = put(tmp_path / "t.csv", 'image,caption\na.jpg,"A dog\nc.png,x\nb,y\n')
    found = read_captions(path, on_error="skip")
    assert [e.id for e in found.entries] == ["c.png", "b"]
    assert found.dropped == (("line 2", "a quote is not closed"),)


def test_quotes_in_tsv_are_text_unless_they_are_around_a_field(tmp_path):
    text = 'image\tcaption\na.jpg\t"A dog" runs\nb.jpg\t"A 12"" dog"\nc.jpg\ta 5" pipe\n'
    found = read_captions(put(tmp_path / "t.tsv", text))
    assert [e.captions[0].text for e in found.entries] == ['"A dog" runs', 'A 12" dog', 'a 5" pipe']


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "x,y\n1,2\n"),
        ("t.csv", ""),
        ("t.txt", "no table at all\n"),
        ("t.csv", "image,caption,image\na,b,c\n"),
        ("t.csv", "image,caption\na.jpg,b\n".encode("utf-16")),
        ("t.parquet", b"PAR1 nothing PAR1"),
        ("t.parquet", table("parquet", [("a", "b", "c")], ("x", "y", "z"))),
        ("t.csv.gz", gzip.compress(b"image,caption\n" + b"a.jpg," + b" " * (80 << 20))),
        ("t.jsonl.gz", gzip.compress(b" " * (80 << 20) + b"\n")),
        ("t.csv.gz", gzip.compress(table("csv"))[:-12]),
    ],
)
def test_files_without_a_table(tmp_path, name, content):
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read_captions(put(tmp_path / name, content), on_error="skip")


@pytest.mark.parametrize("limit", [64 << 20, 200])
def test_rows_of_one_image_may_lie_apart(tmp_path, limit, monkeypatch):
    """With a small limit the same table goes through a temporary file."""
    monkeypatch.setattr(collection, "IN_MEMORY", limit)
    rows = [(f"{n % 40}.jpg", f"caption {n}", "train" if n % 40 else "val") for n in range(200)]
    rows[120] = ("3.jpg", "another split", "test")
    found = read_captions(put(tmp_path / "t.csv", table("csv", rows)), on_error="skip")
    assert [e.id for e in found.entries] == [f"{n}.jpg" for n in range(40)]
    assert found.entries[0].split == "val"
    assert [c.text for c in found.entries[0].captions] == [f"caption {n}" for n in (0, 40, 80, 160)]
    assert [c.id for c in found.entries[1].captions] == [f"1.jpg#{k}" for k in range(5)]
    assert Counter(e.split for e in found.entries[5:8]) == {"train": 3}
    assert found.n_captions == sum(len(e.captions) for e in found.entries) == 199
    assert found.dropped == (("3.jpg", "listed twice, as train and as test"),)
    assert found.entries[-1].id == "39.jpg"


def test_caption_ids_twice_in_a_large_table(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "IN_MEMORY", 100)
    rows = [(f"{n}.jpg", f"caption {n}", str(n % 90)) for n in range(100)]
    raw = table("jsonl", rows, ("file_name", "text", "caption_id"))
    with pytest.raises(InputError, match="used twice"):
        read_captions(put(tmp_path / "t.jsonl", raw))
    found = read_captions(tmp_path / "t.jsonl", on_error="skip")
    assert (found.n_captions, found.n_dropped) == (90, 10)


# ---- splits


def test_split_by_is_stable_and_near_its_shares(tmp_path):
    ids = [f"{n}.jpg" for n in range(2000)]
    raw = table("csv", [(name, "a dog") for name in ids], ("image", "caption"))
    found = read_captions(put(tmp_path / "t.csv", raw), split_by="80/10/10")
    counts = Counter(e.split for e in found.entries)
    assert abs(counts["train"] - 1600) < 60
    assert abs(counts["val"] - 200) < 45
    few = table("csv", [(name, "a cat") for name in reversed(ids[:50])], ("image", "caption"))
    again = read_captions(put(tmp_path / "u.csv", few), split_by="80/10/10")
    known = {e.id: e.split for e in found.entries}
    assert all(known[e.id] == e.split for e in again.entries)
    some = table("csv", [("1.jpg", "a", "test"), ("2.jpg", "b", "")])
    mixed = read_captions(put(tmp_path / "v.csv", some), split_by="a=1/b=1")
    assert mixed.entries[0].split == "test"  # a split of its own stays
    assert mixed.entries[1].split in ("a", "b")


@pytest.mark.parametrize(
    "text", ["80", "80/0", "a/b", "80/10/5/5", "1/nan", "x=1/x=2", "../=1/b=2"]
)
def test_shares_that_are_none(text):
    with pytest.raises(UsageError, match="--split-by"):
        parse_shares(text)


def test_names_of_splits(tmp_path):
    names = ["Train", "TRAINING", "restval", "Validation", "dev", "Testing", "", "nan", "fold 1"]
    rows = [(f"{n}.jpg", "a", name) for n, name in enumerate(names)]
    found = read_captions(put(tmp_path / "t.csv", table("csv", rows)))
    assert [e.split for e in found.entries] == [
        *("train",) * 3,
        *("val",) * 2,
        "test",
        *("unsplit",) * 2,
        "fold 1",
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_val2014.json", "val"),
        ("captions_train2017.json", "train"),
        ("Test-captions.json", "test"),
        ("captionsTrain.json", "train"),
        ("captions_trainval2014.json", "unsplit"),
        ("flickr_retrieval.json", "unsplit"),
        ("latest.json", "unsplit"),
        ("train_and_test.json", "unsplit"),
        ("evaluation.json", "unsplit"),
        ("contest.json", "unsplit"),
    ],
)
def test_splits_are_words_of_file_names(tmp_path, name, split):
    (tmp_path / "val").mkdir()  # a folder says nothing about a file in it
    document = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a"}],
    }
    found = read_captions(put(tmp_path / "val" / name, json.dumps(document)))
    assert found.entries[0].split == split


def test_lists_and_bytes_that_were_written_as_text(tmp_path):
    """Hugging Face's flickr_annotations_30k.csv has a JSON list of five captions in a field."""
    lists = ('["A dog.", "Two, dogs."]', "['A cat.', \"A dog's cat.\"]", "[A sign]", "[1, 2]")
    rows = [(text, f"{at}.jpg", "train") for at, text in enumerate(lists)]
    raw = b"\n" + table("csv", rows, ("raw", "filename", "split"))
    found = read_captions(put(tmp_path / "t.csv", raw))
    assert [[c.text for c in e.captions] for e in found.entries] == [
        ["A dog.", "Two, dogs."],
        ["A cat.", "A dog's cat."],
        ["[A sign]"],
        ["[1, 2]"],
    ]
    raw = table("csv", [("a.jpg", "b'A dog'", ""), ("b.jpg", "A dog", "")])
    with pytest.raises(InputError, match="bytes written as text"):
        read_captions(put(tmp_path / "u.csv", raw))
    found = read_captions(tmp_path / "u.csv", on_error="skip")
    assert [e.id for e in found.entries if e.captions] == ["b.jpg"]


def test_two_columns_of_one_name_in_parquet(tmp_path):
    columns = [pa.array(["1.jpg"]), pa.array(["A dog."]), pa.array(["A cat."])]
    pq.write_table(pa.table(columns, names=["image", "caption", "caption"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: two columns are named 'caption'"):
        read_captions(tmp_path / "t.parquet")


@pytest.mark.parametrize("form", ["./a/b.jpg", "a//b.jpg", "a/./b.jpg", ".//a/.//b.jpg"])
def test_forms_of_one_path_are_one_image(tmp_path, form):
    rows = [("a/b.jpg", "A dog runs .", "train"), (form, "A cat sits .", "train")]
    listed = {"file_name": form, "id": 1}, {"file_name": "a/b.jpg", "id": 2}
    notes = [{"image_id": k, "id": k, "caption": "A dog runs ."} for k in (1, 2)]
    coco = tmp_path / "captions_train.json"
    coco.write_text(json.dumps({"images": listed, "annotations": notes}))
    path = tmp_path / "c.csv"
    path.write_bytes(table("csv", rows))
    for file in (path, coco):
        (image,) = read_captions(file).entries
        assert (image.id, image.file, len(image.captions)) == ("a/b.jpg", "a/b.jpg", 2)
    path.write_bytes(table("csv", [rows[0], (form, "A cat sits .", "test")]))
    with pytest.raises(InputError, match=r"'a/b\.jpg': listed twice, as train and as test"):
        read_captions(path)
