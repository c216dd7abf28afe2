"""A build and an import of the same captions give the same rows, columns and text keys."""

import gzip
import json

import numpy as np
import pytest

import features
from features.convert import import_store, read_captions
from workflows.build.options import BuildOptions, TextOptions
from workflows.build.plan import Plan
from workflows.build.text_plan import StoredTextPlan

MESSY = ["A dog &amp; a cat .", " two\tdogs\n run \x00 .", "half a \ud83d pair", "caf\u00e9 &lt;3"]
NAMES = ["1.jpg", "2.jpg"]


def karpathy(folder):
    images = [
        {
            "filename": name,
            "filepath": "val2014",
            "split": split,
            "sentences": [{"raw": MESSY[0]}, {"raw": MESSY[at], "sentid": None}, {"tokens": ["a"]}],
        }
        for at, (name, split) in enumerate(zip(NAMES, ["validation", "restval"], strict=True), 1)
    ]
    return put(folder / "dataset.json.gz", {"images": images})


def coco(folder):
    for at, split in enumerate(("train", "val")):
        notes = [
            {"id": 10 * at + n, "image_id": at, "caption": text} for n, text in enumerate(MESSY)
        ]
        images = [{"id": at, "file_name": NAMES[at]}]
        put(folder / f"captions_{split}2014.json", {"images": images, "annotations": notes})
    return folder


def token(folder):
    path = folder / "results.token"
    path.write_text("1.jpg#0\tA  dog &amp; a cat .\n1.jpg#1\tA man .\n2.jpg#0\tA hat .\n")
    return path


def entities(folder):
    folder = folder / "Sentences"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name[0]}.txt").write_text("[/EN#1/people/other A man] &amp; a dog .\nOne .\n")
    return folder


def put(path, document):
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("layout", [karpathy, coco, token, entities])
def test_equal_files_give_equal_keys_and_columns(tmp_path, layout):
    folder = tmp_path / "captions"
    folder.mkdir()
    path = layout(folder)
    (tmp_path / "npz").mkdir()
    for name in NAMES:
        np.savez(tmp_path / "npz" / f"{name[0]}.npz", feat=np.ones((2, 4), np.float32))
    built = str(tmp_path / "built")
    plan = Plan(BuildOptions(captions=str(path), store_dir=built, detector="none"))
    report = import_store("npz", tmp_path / "npz", tmp_path / "imported", captions=path)
    stored = StoredTextPlan(TextOptions(store_dir=str(report.manifest)))
    entries = list(read_captions(path).entries)
    assert list(stored.entries) == list(plan.entries) == entries
    assert stored.built_index.key == plan.index.key
    built = features.open_store(features.build_store(tmp_path / "made", "d", plan.entries))
    imported = features.open_store(report.manifest)
    for name in ("image_id", "caption_id", "caption", "image_file"):
        kept = [list(store.group("index").text(name)) for store in (built, imported)]
        assert kept[0] == kept[1]
    assert {k: v.tolist() for k, v in built.splits.items()} == {
        k: v.tolist() for k, v in imported.splits.items()
    }
    assert "validation" not in imported.splits


def test_the_name_of_a_file_counts_where_it_gives_the_split(tmp_path):
    """COCO's files say the split in their names only; other files may be renamed."""
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "1.npz", feat=np.ones((2, 4), np.float32))
    note = {"id": 1, "image_id": 1, "caption": "a dog"}
    document = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [note]}
    splits = []
    for name in ("captions_train.json", "captions_val.json"):
        path = put(tmp_path / name, document)
        report = import_store("npz", tmp_path / "npz", tmp_path / "st", captions=path)
        splits += features.open_store(report.manifest).splits
    assert splits == ["train", "val"]
    plain = {"images": [{"filename": "1.jpg", "sentences": [{"raw": "a dog"}]}]}
    stores = [
        import_store("npz", tmp_path / "npz", tmp_path / "st", captions=put(tmp_path / n, plain))
        for n in ("a.json", "b.json")
    ]
    assert len({features.open_store(report.manifest).hash for report in stores}) == 1
