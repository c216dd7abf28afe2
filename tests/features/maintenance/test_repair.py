"""verify --repair deletes what is damaged for certain, and nothing else."""

from __future__ import annotations

import os
import shutil

import pytest

from features import open_store
from features.commands.app import app
from features.errors import StoreError
from features.format.files import read_sealed, write_sealed
from features.format.group import Group
from features.format.shard import Shard
from features.maintenance import verify as verify_module
from features.maintenance.verify import group_folders, verify_store


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_repair_deletes_what_is_damaged_and_a_second_build_restores_the_hash(tiny_records, flip):
    records = tiny_records(images=140)
    store = records.open()
    folder = records.path.parent
    regions = store.group("regions").manifest.folder
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.h5")}
    flip(regions / "00001.h5", 8 * 9000)
    flip(folder / "latest.json", 100)
    (store.group("text").manifest.folder / "00002.json").unlink()
    assert len(verify_store(folder, repair=True)) == 3
    assert not (regions / "00001.h5").exists()
    assert not Group("regions", Shard(regions, 0).record.key, regions).finished()
    assert verify_store(folder) != []  # not a whole store until it is built again
    again = tiny_records(images=140, folder=folder).open()
    assert again.hash == store.hash
    assert verify_store(folder) == []
    written = {path for path in stamps if path.stat().st_mtime_ns != stamps[path]}
    text = store.group("text").manifest.folder
    assert written == {regions / "00001.h5", text / "00002.h5"}


def test_a_second_repair_deletes_no_store_that_waits_for_a_build(tiny_records, flip):
    records = tiny_records()
    store, folder = records.open(), records.path.parent
    flip(store.group("regions").manifest.folder / "00000.h5", 8 * 9000)
    assert len(verify_store(folder, repair=True)) == 1
    left = files_of(folder)
    (finding,) = verify_store(folder, repair=True)
    assert "which is unfinished" in finding.problem
    assert not finding.damaged
    with pytest.raises(StoreError, match="1 findings that deleting a file does not fix"):
        app.call(["verify", str(folder), "--repair"])
    assert files_of(folder) == left
    tiny_records(folder=folder)
    assert verify_store(folder) == []
    assert open_store(folder).hash == store.hash


@pytest.mark.parametrize("number", [13, 24, 5, 116])  # EACCES, EMFILE, EIO, ESTALE
@pytest.mark.parametrize("name", ["00000.h5", "00000.json", "manifest.json"])
def test_what_cannot_be_read_is_kept(tiny_store, monkeypatch, number, name):
    store = tiny_store()
    folder, before = store.path.parent, files_of(store.path.parent)
    path = folder / store.manifest["groups"]["visual"]["folder"] / name
    plain, plain_bytes = verify_module.Path.open, verify_module.Path.read_bytes

    def refuse(self, *rest, **named):
        if self == path:
            raise OSError(number, os.strerror(number), str(self))
        return plain(self, *rest, **named)

    def refuse_bytes(self):
        if self == path:
            raise OSError(number, os.strerror(number), str(self))
        return plain_bytes(self)

    monkeypatch.setattr(verify_module.Path, "open", refuse)
    monkeypatch.setattr(verify_module.Path, "read_bytes", refuse_bytes)
    found = verify_store(folder, repair=True)
    assert found
    assert {finding.path for finding in found} == {path}
    assert not any(finding.damaged for finding in found)
    assert all("cannot be read" in finding.problem for finding in found)
    monkeypatch.undo()
    assert files_of(folder) == before
    assert verify_store(folder) == []


def test_a_newer_format_is_kept(tiny_store, monkeypatch):
    store = tiny_store()
    folder, before = store.path.parent, files_of(store.path.parent)
    kinds = {folder / "latest.json": "latest", store.path: "store"}
    for path in group_folders(folder):
        kinds |= {path / "manifest.json": "group", path / "00000.json": "shard"}
    documents = {path: dict(read_sealed(path, kind)) for path, kind in kinds.items()}
    monkeypatch.setattr("features.format.files.FORMAT_VERSION", 99)
    for path, document in documents.items():
        own = ("seal", "format", "format_version")
        write_sealed(path, {name: value for name, value in document.items() if name not in own})
    monkeypatch.undo()
    found = verify_store(folder, repair=True)
    assert {finding.path for finding in found} == kinds.keys()
    assert not any(finding.damaged for finding in found)
    assert files_of(folder) == before


def test_a_shard_about_to_get_its_description_is_no_damage(tiny_store):
    """A writer publishes the shard first; a disk may be full before its sidecar."""
    store = tiny_store()
    folder = store.path.parent
    other = folder / ("visual-" + "c" * 12)
    shutil.copytree(store.group("visual").manifest.folder, other)
    (other / "manifest.json").unlink()
    (other / "00000.json").unlink()
    assert verify_store(folder, repair=True) == []
    assert (other / "00000.h5").exists()


def test_a_shard_that_was_written_again_meanwhile_is_kept(tiny_records, flip, monkeypatch):
    records = tiny_records()
    store, folder = records.open(), records.path.parent
    shard = store.group("regions").manifest.folder / "00000.h5"
    whole = shard.read_bytes()
    flip(shard, 8 * 9000)
    plain = verify_module._remove

    def late(finding, manifest):
        shard.unlink()
        shard.write_bytes(whole)
        plain(finding, manifest)

    monkeypatch.setattr(verify_module, "_remove", late)
    assert len(verify_store(folder, repair=True)) == 1
    monkeypatch.undo()
    assert shard.exists()
    assert verify_store(folder) == []
