"""Damage: every flipped bit is found, every broken file a typed error."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from features import open_store
from features.errors import (
    DamagedError,
    FormatError,
    ScenestoreError,
    StoreError,
    WriteError,
)
from features.format.files import read_sealed, write_sealed
from features.format.group import Group, read_group
from features.format.manifest import bind_store
from features.format.shard import Shard
from features.maintenance.verify import group_folders, store_manifests, verify_store


def replace_bytes(path, data):
    path.unlink(missing_ok=True)  # the files are read-only
    path.write_bytes(data)


def test_verify_finds_1000_flipped_bits_and_names_the_column(tiny_store, flip):
    folder = tiny_store(images=66, dim=32).path.parent
    assert verify_store(folder) == []
    dice = random.Random(0)
    groups = group_folders(folder)
    outside = [folder / "latest.json", *store_manifests(folder)]
    flipped, columns = 0, set()
    while flipped < 1000:
        chosen = [dice.choice(sorted(group.iterdir())) for group in groups] + outside
        before = {path: path.read_bytes() for path in chosen}
        wanted = {}
        for path in chosen:
            bit = dice.randrange(8 * len(before[path]))
            wanted[path] = ""
            if path.suffix == ".h5":
                for name, part in Shard(path.parent, int(path.stem)).record.parts.items():
                    if part.offset <= bit // 8 < part.offset + part.nbytes:
                        wanted[path] = name
            flip(path, bit)
        found = {(finding.path, finding.column) for finding in verify_store(folder)}
        assert set(wanted.items()) <= found
        flipped += len(wanted)
        columns |= set(wanted.values())
        for path, data in before.items():
            replace_bytes(path, data)
    assert verify_store(folder) == []
    assert {"object_features", "boxes", "form/codes", "caption/bytes", ""} <= columns


def contents(store):
    """Everything a store says, as something that can be compared."""
    said = {"splits": {name: rows.tolist() for name, rows in store.splits.items()}}
    for name in (
        "object_features",
        "union_features",
        "boxes",
        "union_boxes",
        "scores",
        "relations",
    ):
        said[name] = store.column(name).tobytes()
        said[f"gathered {name}"] = store.gather(name, [1, 0]).tobytes()
    for name in ("image_id", "caption"):
        said[name] = store.column(name).tolist()
    said["graph"] = [
        (g.labels, g.relations, g.size) for g in map(store.graph, store.images["id"].tolist())
    ]
    said["texts"] = [store.text(name) for name in store.captions["id"].tolist()]
    return said


def use(folder, wanted, backend):
    """Open and read everything; say which typed error came, or check that nothing is wrong."""
    try:
        assert contents(open_store(folder, backend=backend)) == wanted
    except ScenestoreError as error:
        return type(error).__name__
    return "right"


def mutate_bytes(dice, data):
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 3, 30))):
        kind, at = dice.randrange(4), dice.randrange(max(len(data), 1))
        if kind == 0 and data:
            data[at] = dice.randrange(256)
        elif kind == 1:
            del data[at : at + dice.randrange(1, 40)]
        elif kind == 2:
            data[at:at] = dice.choice((b"\x00", b"9" * 30, b"[[[[", b'"', b"\xff\xff", b"null"))
        elif data:
            data = data[:at]
    return bytes(data)


VALUES = (None, -1, 0, 1, 2**31, 2**63, 2**70, 1.5, True, "", "..", "../x", "x" * 70, [], {}, [[]])


def mutate_document(dice, document):
    """Change one value somewhere in a JSON document, to be sealed again."""
    document = copy.deepcopy(document)
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = dice.choice(keys)
        inner = node[key]
        if isinstance(inner, dict | list) and inner and dice.random() < 0.9:
            node = inner
            continue
        if dice.random() < 0.2:
            del node[key]
        elif isinstance(inner, int) and dice.random() < 0.5:
            node[key] = inner + dice.choice((-4096, -1, 1, 4096))
        else:
            node[key] = dice.choice(VALUES)
        return document


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mmap", "pread", "h5py"])
def test_fuzzed_manifests_and_headers_never_give_wrong_data(tiny_store, backend):
    store = tiny_store(images=3, captions=2, dim=8)
    folder, wanted = store.path.parent, contents(store)
    dice = random.Random(backend)
    results = []
    json_files = [store.path, folder / "latest.json"]
    json_files += [group / "manifest.json" for group in group_folders(folder)]
    for case in range(300):
        path = dice.choice(json_files)
        before = path.read_bytes()
        if case % 2:
            replace_bytes(path, mutate_bytes(dice, before))
        else:
            kind = json.loads(before)["kind"]
            document = read_sealed(path, kind)
            del document["seal"]
            path.unlink()
            write_sealed(path, mutate_document(dice, document))
        results.append(use(folder, wanted, backend))
        replace_bytes(path, before)
    assert results.count("right") < 75  # a summary or parameter may change without harm
    assert use(folder, wanted, backend) == "right"


def outside(path):
    """Return the places of all bytes of a shard that belong to no dataset."""
    free = set(range(path.stat().st_size))
    for part in Shard(path.parent, int(path.stem)).record.parts.values():
        free -= set(range(part.offset, part.offset + part.nbytes))
    return sorted(free)


@pytest.mark.parametrize("backend", ["mmap", "pread", "h5py"])
def test_every_byte_outside_the_data_is_checked_before_anything_is_read(tiny_store, backend):
    store = tiny_store(images=3, captions=2, dim=8)
    folder, wanted = store.path.parent, contents(store)
    dice = random.Random(backend)
    for case in range(120):
        group = group_folders(folder)[case % 5]
        path = group / "00000.h5"
        before, places = path.read_bytes(), outside(path)
        data = bytearray(before)
        for at in dice.sample(places, dice.choice((1, 1, 8, 64))):
            data[at] ^= dice.randrange(1, 256)
        replace_bytes(path, data)
        assert use(folder, wanted, backend) == "DamagedError", (case, path)
        with pytest.raises(DamagedError, match="the HDF5 headers"):
            Shard(group, 0).columns()
        replace_bytes(path, before)
    assert use(folder, wanted, backend) == "right"


@pytest.mark.parametrize("backend", ["mmap", "pread", "h5py"])
def test_a_damaged_shard_is_told_by_whoever_touches_it_first(tiny_store, flip, backend):
    """The byte lies behind the first dataset, where opening the store does not look."""
    folder = tiny_store(images=130, captions=1, dim=32).path.parent
    for group, name in (("regions", "object_features"), ("visual", "boxes")):
        path = next(folder.glob(f"{group}-*")) / "00001.h5"
        spans = [part.offset for part in Shard(path.parent, 1).record.parts.values() if part.nbytes]
        before, at = path.read_bytes(), next(at for at in outside(path) if at > min(spans))
        flip(path, 8 * at + 3)
        store = open_store(folder, backend=backend)
        if group == "regions":
            store.gather(name, [0, 63, 128, 129])  # shards 0 and 2
        for rows in ([0, 64], [127], [64]):
            with pytest.raises(DamagedError, match=r"00001\.h5: the HDF5 headers differ"):
                store.gather(name, rows)
        with pytest.raises(DamagedError, match=r"00001\.h5"):
            store.column(name)
        with pytest.raises(DamagedError, match=r"00001\.h5"):
            list(open_store(folder, backend=backend).loader("train", batch_size=16))
        replace_bytes(path, before)
        store.gather(name, [64])  # repaired: what failed is looked at again


def test_fuzzed_sidecars_are_never_taken_for_a_finished_shard(tiny_store):
    store = tiny_store(images=3, captions=2, dim=8)
    dice = random.Random(1)
    right = {
        group: {name: data.tobytes() for name, data in Shard(group, 0).columns().items()}
        for group in group_folders(store.path.parent)
    }
    for _ in range(150):
        group = dice.choice(group_folders(store.path.parent))
        path, key = group / "00000.json", read_group(group).key
        before = path.read_bytes()
        replace_bytes(path, mutate_bytes(dice, before))
        if path.read_bytes() != before:
            assert Shard(group, 0).finished(key) is None
            with pytest.raises(StoreError):
                _ = Shard(group, 0).record
        document = json.loads(before)
        del document["seal"]
        path.unlink()
        write_sealed(path, mutate_document(dice, document))
        with contextlib.suppress(ScenestoreError):  # any other error fails the test
            columns = Shard(group, 0).columns()
            assert {name: data.tobytes() for name, data in columns.items()} == right[group]
        replace_bytes(path, before)


def test_a_flipped_data_bit_is_told_when_a_small_column_is_read(tiny_store, flip):
    store = tiny_store()
    group = store.group("tokens").manifest.folder
    part = Shard(group, 0).record.parts["form/codes"]
    flip(group / "00000.h5", 8 * part.offset)
    with pytest.raises(DamagedError, match=r"00000\.h5: column 'form/codes'"):
        open_store(store.path).text("1000.jpg#0")


def test_verify_reads_the_meaning_not_only_the_bytes(tiny_store):
    """A union box that is wrong since it was written has a right hash; verify finds it."""
    store = tiny_store()
    group = store.group("visual").manifest.folder
    columns = Shard(group, 0).columns()
    columns["union_boxes"] = columns["union_boxes"].copy()
    row = int(np.flatnonzero(columns["num_relations"])[-1])
    columns["union_boxes"][row, 0, 2] += 1
    key = read_group(group).key
    for path in group.iterdir():
        path.unlink()
    Group("visual", key, group).write(0, range(12), columns)
    Group("visual", key, group).finish(1)
    found = [(f.column, f.problem) for f in verify_store(store.path.parent) if f.shard == 0]
    assert found == [("union_boxes", f"image row {row}: not the box around subject and object")]


def test_verify_names_missing_and_truncated_files(tiny_store):
    store = tiny_store()
    folder = store.path.parent
    regions, visual = (store.group(name).manifest.folder for name in ("regions", "visual"))
    (regions / "00000.h5").unlink()
    replace_bytes(visual / "00000.h5", (visual / "00000.h5").read_bytes()[:-10])
    found = {(f.path, f.problem.split(",")[0].split()[0]) for f in verify_store(folder)}
    assert found == {(regions / "00000.h5", "is"), (visual / "00000.h5", "has")}
    shutil.rmtree(regions)
    problems = [f.problem for f in verify_store(folder) if f.path == store.path]
    assert problems == [f"binds {regions.name}, which is unfinished: it has no manifest.json"]
    with pytest.raises(FormatError, match="not a store"):
        verify_store(Path(__file__).parent)


def test_a_manifest_that_cannot_be_written_leaves_the_store(tiny_store, monkeypatch):
    store = tiny_store()
    groups = {
        name: store.path.parent / entry["folder"]
        for name, entry in store.manifest["groups"].items()
    }
    before = {path: path.read_bytes() for path in store.path.parent.glob("*.json")}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="disk is full"):
        bind_store(store.path.parent, "next", groups, {})
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in store.path.parent.glob("*.json")} == before
    assert list(store.path.parent.glob("*.partial")) == []
