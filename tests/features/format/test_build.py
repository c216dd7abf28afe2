"""Groups as they are finished: whose rows they follow, what is kept, what is refused."""

import dataclasses

import numpy as np
import pytest

from features.errors import MismatchError, NewerFormatError, StageError, UsageError
from features.format import files as atomic
from features.format.build import build_store
from features.format.codec import pack_regions
from features.format.group import Group, read_group
from features.format.shard import Shard
from features.maintenance.verify import verify_store
from features.records import Caption, ImageEntry
from features.store import open_store

KEY = "k" * 64


def columns(seed, rows=4):
    random = np.random.default_rng(seed)
    part = [random.random((2, 8), np.float32) for _ in range(rows)]
    return pack_regions(part, part, 2, 2)


def write(folder, number, seed=None, row0=None):
    data = columns(number if seed is None else seed)
    first = 4 * number if row0 is None else row0
    return Group("regions", KEY, folder).write(number, range(first, first + 4), data)


def finished(folder, index="i"):
    """Write a group of three shards; return its folder."""
    for number in range(3):
        write(folder, number)
    Group("regions", KEY, folder, {"dim": 8}).finish(3, index=index)
    return folder


def state(folder):
    """What would change if any file were written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def said(path):
    store = open_store(path)
    texts = [store.text(name) for name in store.captions["id"].tolist()]
    return texts, store.gather("object_features", [0, 69]).tolist()


def test_equal_columns_of_other_images_are_another_variant(tiny_records):
    """One data set under two names of its images: neither build disturbs the other's store."""
    first = tiny_records(images=70)
    folder, wanted = first.path.parent, said(first.path)

    def renamed(entry):
        captions = [dataclasses.replace(c, id=f"x/{c.id}") for c in entry.captions]
        return dataclasses.replace(entry, id=f"x/{entry.id}", captions=tuple(captions))

    records = {"visual": first.visual, "regions": first.regions, "texts": first.texts}
    sizes = {"max_objects": 6, "max_relations": 4}
    second = build_store(folder, "other", [*map(renamed, first.entries)], **records, **sizes)
    assert said(first.path) == wanted
    assert said(second) == wanted
    tiny_records(images=70, folder=folder)
    assert said(second) == wanted
    assert verify_store(folder) == []


def test_equal_captions_of_fewer_images_are_another_variant(tiny_records, tmp_path):
    texts = tiny_records(images=1, captions=4).texts

    def build(name, per_image):
        captions = [Caption(f"{at}", graph.caption) for at, graph in enumerate(texts)]
        parts = [captions[at : at + per_image] for at in range(0, 4, per_image)]
        entries = [ImageEntry(f"{n}.jpg", "", "train", tuple(c)) for n, c in enumerate(parts)]
        return build_store(tmp_path / "both", name, entries, texts=texts)

    paths = [build("two", 2), build("four", 1), build("two", 2)]
    for path in paths:
        assert [open_store(path).text(str(at)) for at in range(4)] == texts


@pytest.mark.parametrize("what", ["image", "caption"])
def test_an_id_given_twice_is_refused_by_name(tmp_path, what):
    ids = {"image": [("a", "0"), ("b", "1"), ("a", "2")], "caption": [("a", "0"), ("b", "0")]}
    entries = [ImageEntry(i, "", "train", (Caption(c, "A dog"),)) for i, c in ids[what]]
    twice = {"image": "a", "caption": "0"}[what]
    with pytest.raises(UsageError, match=f"{what} id '{twice}' is given more than once"):
        build_store(tmp_path / "st", "twice", entries)
    assert not (tmp_path / "st").exists()


def test_lone_surrogates_may_be_in_captions_and_provenance(tmp_path):
    entries = [ImageEntry("a", "a", "train", (Caption("0", "A \ud83d dog"),))]
    path = build_store(tmp_path / "st", "odd", entries, provenance={"file": "\udcff.json"})
    assert open_store(path).column("caption").tolist() == ["A \ud83d dog"]


def test_a_finished_group_is_not_replaced_by_another(tmp_path):
    folder = finished(tmp_path / "regions")
    before = state(folder)
    with pytest.raises(MismatchError, match=r"manifest\.json: finished with index 'i'"):
        Group("regions", KEY, folder, {"dim": 8}).finish(3, index="other")
    with pytest.raises(MismatchError, match="stores are bound to it"):
        Group("regions", KEY, folder, {"dim": 8}).finish(2, index="i")
    assert state(folder) == before


def test_a_manifest_that_says_the_same_is_not_written_again(tmp_path):
    """A store on a read-only mount can be built again."""
    folder = finished(tmp_path / "regions")
    before = state(folder)
    params = {"dim": 8, "built": {"seconds": 2.5}}
    assert Group("regions", KEY, folder, params).finish(3, index="i").params == {"dim": 8}
    assert state(folder) == before
    Group("regions", KEY, folder, {"dim": 8, "about": "new"}).finish(3, index="i")
    assert read_group(folder).params == {"dim": 8, "about": "new"}


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_group_without_one_of_its_files_is_not_finished(tmp_path, damage):
    folder = finished(tmp_path / "regions")
    before = state(folder)
    path = Shard(folder, 1).path
    data = path.read_bytes()
    path.unlink()
    if damage == "short":
        path.write_bytes(data[:-1])
    assert not Group("regions", KEY, folder).finished()
    with pytest.raises(StageError, match=r"00001\.h5: the file is missing"):
        Group("regions", KEY, folder, {"dim": 8}).finish(3, index="i")
    for number in range(3):
        write(folder, number)
    assert Group("regions", KEY, folder).finished()
    assert path.read_bytes() == data
    made = {path for path, stamp in state(folder).items() if before[path] != stamp}
    assert made == {path, path.with_suffix(".json")}


def test_a_shard_made_anew_must_be_the_one_that_is_listed(tmp_path):
    """What made it gives other results now: stores and runs are bound to the old ones."""
    folder = finished(tmp_path / "regions")
    for name in ("00001.h5", "00001.json"):
        (folder / name).unlink()
    with pytest.raises(MismatchError, match=r"the new shard 1 differs .*'object_features'"):
        write(folder, 1, seed=7)
    assert not Shard(folder, 1).path.exists()
    assert not Group("regions", KEY, folder).finished()
    (folder / "manifest.json").unlink()  # as the message says
    write(folder, 1, seed=7)
    Group("regions", KEY, folder, {"dim": 8}).finish(3, index="i")
    assert Group("regions", KEY, folder).finished()


def test_a_shard_of_other_rows_is_not_adopted(tmp_path):
    write(tmp_path, 1, row0=64)
    assert Shard(tmp_path, 1).finished(KEY, range(4, 8)) is None
    assert write(tmp_path, 1).row0 == 4
    assert Shard(tmp_path, 1).record.row0 == 4
    write(tmp_path, 0)
    Group("regions", KEY, tmp_path).finish(2)
    before = state(tmp_path)
    with pytest.raises(MismatchError, match="image rows"):
        write(tmp_path, 1, row0=64)
    assert state(tmp_path) == before


def test_what_a_newer_release_wrote_is_not_built_over(tiny_store, monkeypatch):
    store = tiny_store()
    folder = store.group("regions").manifest.folder
    key, records = store.group("regions").manifest.key, [Shard(folder, 0).record]
    index = read_group(store.group("index").manifest.folder).image_index
    data = columns(0, rows=12)
    with monkeypatch.context() as newer:
        newer.setattr(atomic, "FORMAT_VERSION", 2)
        for name in ("manifest", "00000"):
            (folder / f"{name}.json").unlink()
        atomic.write_sealed(folder / "00000.json", records[0].document())
        Group("regions", key, folder).finish(records, index=index)
    before = state(folder)
    attempts = {
        "done": lambda: Group("regions", key, folder).finished(),
        "shard": lambda: Shard(folder, 0).finished(key),
        "write": lambda: Group("regions", key, folder).write(0, range(12), data),
        "write lost": lambda: Group("regions", key, folder).write(1, range(12, 24), data),
        "finish": lambda: Group("regions", key, folder).finish(records, index=index),
    }
    for name, attempt in attempts.items():
        with pytest.raises(NewerFormatError, match="reads versions up to 1"):
            attempt()
        assert state(folder) == before, name
