"""Captions that a build keeps are those of its files, or they are read again."""

import csv
import json
import os

import pytest

from features.convert.captions import KeptCaptions, kept, read_captions

ROWS = [
    ("a.jpg", "train", "A dog & a cat."),
    ("b.jpg", "", "Ein H\u00fcndchen \u2019s."),
    ("a.jpg", "train", "Two dogs."),
    ("b.jpg", "", ""),  # dropped
]


def karpathy(path):
    images = [
        {"filename": name, "split": split, "imgid": number,
         "sentences": [{"raw": text, "sentid": number}]}
        for number, (name, split, text) in enumerate(ROWS[:2] + ROWS[3:3])
    ]  # fmt: skip
    path.write_text(json.dumps({"images": images}))


def table(path):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "split", "caption"), *ROWS])


def lines(path):
    rows = (dict(zip(("image", "split", "text"), row, strict=True)) for row in ROWS)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def unread(monkeypatch):
    """Forbid reading captions files."""

    def forbid():
        monkeypatch.setattr(kept, "read_captions", lambda *_, **__: pytest.fail("was read again"))

    return forbid


def write(folder, name, make, **options):
    """Write a file, read it and keep its captions; return what to read again with."""
    path = folder / name
    make(path)
    options = {"on_error": "skip", "split_by": "", **options}
    first = KeptCaptions(folder / ".captions", str(path), **options)
    first.keep(first.read())
    return path, options


@pytest.mark.parametrize(
    ("name", "make"), [("d.json", karpathy), ("d.csv", table), ("d.jsonl", lines)]
)
def test_kept_captions_are_those_of_the_files(tmp_path, unread, name, make):
    path, options = write(tmp_path, name, make, split_by="80/10/10")
    wanted = read_captions(str(path), **options)
    unread()
    assert KeptCaptions(tmp_path / ".captions", str(path), **options).read() == wanted
    assert wanted.n_captions == sum(len(entry.captions) for entry in wanted.entries) >= 2
    if name == "d.csv":
        assert wanted.n_dropped == 1


@pytest.mark.parametrize("changed", ["bytes", "options", "code", "damage", "cut", "name"])
def test_anything_that_changes_is_read_again(tmp_path, monkeypatch, changed):
    path, options = write(tmp_path, "d.csv", table)
    cache = tmp_path / ".captions"
    if changed == "bytes":  # of equal number, and with the time of before
        before = path.stat()
        path.write_bytes(path.read_bytes().replace(b"Two dogs.", b"Six cats."))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif changed == "options":
        options["split_by"] = "80/10/10"
    elif changed == "code":
        monkeypatch.setattr(kept, "_code", lambda: "another")
    elif changed == "damage":
        cache.write_bytes(cache.read_bytes().replace(b"Two dogs.", b"Two cats."))
    elif changed == "cut":
        cache.write_bytes(cache.read_bytes()[:-9])
    else:
        path = path.rename(tmp_path / "e.csv")
    reads = []

    def count(*given, **named):
        reads.append(given)
        return read_captions(*given, **named)

    monkeypatch.setattr(kept, "read_captions", count)
    again = KeptCaptions(cache, str(path), **options)
    found = again.read()
    assert len(reads) == 1
    assert found == read_captions(str(path), **options)
    again.keep(found)
    assert KeptCaptions(cache, str(path), **options).read() == found
    assert len(reads) == 1


def test_what_other_files_decide_is_not_kept(tmp_path):
    write(tmp_path, "results.token", lambda path: path.write_text("a.jpg#0\tA dog.\n"))
    assert not (tmp_path / ".captions").exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path):
    path = tmp_path / "d.csv"
    table(path)
    first = KeptCaptions(tmp_path / ".captions", str(path), "skip", "")
    found = first.read()
    path.write_text("image,caption\na.jpg,Another.\n")
    first.keep(found)
    assert not (tmp_path / ".captions").exists()
