"""gc deletes what nothing needs, and never what a store, a run or a build still needs."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time

import pytest

from features import open_store
from features.errors import DamagedError, MissingInput, NewerFormatError, StoreError
from features.format import files
from features.format.files import read_sealed, write_sealed
from features.format.group import Group, read_group
from features.format.manifest import bind_store
from features.maintenance import gc as gc_module
from features.maintenance.gc import collect, find_garbage
from features.maintenance.verify import group_folders, verify_store

OTHER = "regions-" + "a" * 12


def folders_of(store):
    return {store.path.parent / entry["folder"] for entry in store.manifest["groups"].values()}


@pytest.fixture
def two(tiny_records):
    """Two stores in one folder: an old one and the latest."""
    first = tiny_records().open()
    return first, tiny_records(seed=1, folder=first.path.parent).open()


def paths(garbage):
    return {item.path for item in garbage}


def test_what_is_bound_and_what_runs_mention_is_kept(two, tmp_path):
    first, second = two
    folder = first.path.parent
    assert second.path != first.path
    unbound = folder / OTHER
    shutil.copytree(first.group("regions").manifest.folder, unbound)
    found = find_garbage(folder, idle_hours=0)
    assert [item.path for item in found] == [unbound]
    assert found[0].nbytes == sum(path.stat().st_size for path in unbound.iterdir())

    run = tmp_path / "elsewhere" / "run1"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"store": {"hash": first.hash}}))
    kept = find_garbage(folder, runs=[tmp_path / "elsewhere"], only_latest=True, idle_hours=0)
    assert [item.path for item in kept] == [unbound]
    more = find_garbage(folder, only_latest=True, idle_hours=0)
    own = {store.group(n).manifest.folder for store in (first,) for n in first.manifest["groups"]}
    assert {item.path for item in more} == {unbound, first.path, *own}
    with pytest.raises(MissingInput, match="training runs"):
        find_garbage(folder, runs=[tmp_path / "absent"])

    collect(folder, more)
    assert {path.name for path in group_folders(folder)} == {
        entry["folder"] for entry in second.manifest["groups"].values()
    }
    assert verify_store(folder) == []
    assert open_store(folder).hash == second.hash


def test_nothing_is_deleted_when_a_manifest_cannot_be_read(tiny_store, flip):
    store = tiny_store()
    bind_store(store.path.parent, "other", {"index": store.group("index").manifest.folder}, {})
    flip(store.path, 999)
    with pytest.raises(DamagedError, match="nothing is deleted"):
        find_garbage(store.path.parent)


def test_a_run_keeps_its_store_by_the_first_digits_and_behind_links(two, tmp_path):
    first, _ = two
    folder = first.path.parent
    real, runs = tmp_path / "scratch" / "run", tmp_path / "runs"
    real.mkdir(parents=True)
    runs.mkdir()
    (runs / "linked").symlink_to(real, target_is_directory=True)
    (real / "again").symlink_to(runs, target_is_directory=True)  # a loop
    (real / "gone.json").symlink_to(tmp_path / "absent.json")
    (real / "folder.json").mkdir()
    assert first.path in paths(find_garbage(folder, runs=[runs], only_latest=True))
    head = json.dumps({"__metadata__": {"keys": json.dumps({"store": first.hash[:12]})}}).encode()
    (real / "best.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(64))
    assert find_garbage(folder, runs=[runs], only_latest=True) == []


def test_a_group_that_a_run_read_is_kept_without_a_manifest(two, tmp_path):
    first, _ = two
    folder = first.path.parent
    regions = read_group(folder / first.manifest["groups"]["regions"]["folder"])
    first.path.unlink()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "store.json").write_text(json.dumps({"regions": regions.key}))
    found = find_garbage(folder, runs=[tmp_path / "run"], idle_hours=0)
    assert paths(found) == folders_of(first) - {regions.folder}


def test_a_file_of_a_run_that_cannot_be_read_stops_gc(two, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: 1")

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(gc_module.Path, "read_text", refuse)
    with pytest.raises(StoreError, match=r"config\.yaml: cannot be read .*Nothing is deleted"):
        find_garbage(two[0].path.parent, runs=[run], only_latest=True)


def test_groups_of_a_build_at_work_are_kept(two):
    first, second = two
    folder = first.path.parent
    shutil.copytree(second.group("regions").manifest.folder, folder / OTHER)
    (item,) = find_garbage(folder)
    assert item.busy
    assert collect(folder, [item]) == ([], [])
    os.utime(folder / OTHER, (0, 0))
    (item,) = find_garbage(folder)
    assert not item.busy
    gone, _ = collect(folder, [item])
    assert [one.path for one in gone] == [folder / OTHER]
    assert not (folder / OTHER).exists()


def test_clocks_that_differ_and_files_that_are_being_written(two, monkeypatch):
    first, second = two
    folder = first.path.parent
    shutil.copytree(second.group("regions").manifest.folder, folder / OTHER)
    late = time.time() + 90 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: late)  # our clock; that of the disk is right
    (item,) = find_garbage(folder)
    assert item.busy
    os.utime(folder / OTHER, (late, late))  # it was copied with the times of another machine
    assert [one.busy for one in find_garbage(folder, idle_hours=0)] == [False]
    os.utime(folder / OTHER, (0, 0))
    partial = files.partial_path(folder / OTHER / "00001.h5")
    (item,) = found = find_garbage(folder)
    partial.touch()
    os.utime(folder / OTHER, (0, 0))
    assert [one.busy for one in find_garbage(folder)] == [True]
    assert collect(folder, found)[0] == []
    partial.unlink()
    Group.open(folder / OTHER).prepare()
    assert [one.busy for one in find_garbage(folder)] == [True]


def test_what_a_build_binds_between_look_and_delete_is_kept(two):
    first, second = two
    folder = first.path.parent
    found = find_garbage(folder, only_latest=True)
    assert paths(found) == {first.path, *folders_of(first)}
    groups = {name: folder / entry["folder"] for name, entry in first.manifest["groups"].items()}
    bind_store(folder, "tiny", groups, {})  # now the latest again
    assert collect(folder, found) == ([], [])
    assert verify_store(folder) == []
    assert open_store(folder).hash == first.hash
    assert second.path.exists()


def test_a_latest_store_that_is_not_there_stops_gc(two):
    first, second = two
    second.path.unlink()
    with pytest.raises(DamagedError, match=rf"refers to {second.path.name}, which does not exist"):
        find_garbage(first.path.parent, only_latest=True)
    assert first.path.exists()


def test_the_youngest_store_of_every_data_set_is_kept(two):
    first, _ = two
    folder = first.path.parent
    groups = {name: folder / entry["folder"] for name, entry in first.manifest["groups"].items()}
    other = bind_store(folder, "other", groups, {})
    found = find_garbage(folder, only_latest=True)
    assert other not in paths(found)
    assert not paths(found) & folders_of(first)
    with pytest.raises(MissingInput):
        find_garbage(folder, runs=[folder / "absent"])


def test_a_newer_format_stops_gc_and_names_no_repair(two, monkeypatch):
    first, _ = two
    document = dict(read_sealed(first.path, "store"))
    for name in ("seal", "format", "format_version"):
        del document[name]
    monkeypatch.setattr("features.format.files.FORMAT_VERSION", 99)
    write_sealed(first.path, document)
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match="Nothing is deleted") as caught:
        find_garbage(first.path.parent, only_latest=True)
    assert "repair" not in str(caught.value)
