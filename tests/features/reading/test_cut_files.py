"""Shards that are cut, deleted or replaced while a store is open."""

import numpy as np
import pytest

from features.errors import DamagedError
from features.reading import group_reader

BACKENDS = ["mmap", "pread", "h5py"]
COLUMNS = ["object_features", "boxes"]


def shard_of(store, group="regions", number=0):
    return store.group(group).manifest.folder / f"{number:05d}.h5"


def cut(path, size):
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(size)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("left", [0, 4096])
def test_a_file_cut_while_it_is_open_is_an_error(tiny_records, backend, column, left, monkeypatch):
    monkeypatch.setattr(group_reader, "SMALL_COLUMN", 0)  # nothing is copied to memory
    store = tiny_records(images=70, dim=512).open(backend=backend)
    before = store.gather(column, [0, 69, 3])
    path = shard_of(store, "regions" if column == "object_features" else "visual")
    cut(path, left)
    with pytest.raises(DamagedError, match=rf"{path.name}: .*were written|{path.name}: ends at"):
        store.gather(column, [0, 69, 3])
    np.testing.assert_array_equal(store.gather(column, [69]), before[1:2])  # another shard


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loader_raises_when_a_file_is_cut(tiny_records, backend):
    store = tiny_records(images=70, dim=512).open(backend=backend)
    batches = iter(store.loader("train", batch_size=4, seed=1))
    next(batches)
    cut(shard_of(store), 4096)
    with pytest.raises(DamagedError, match=r"were written|ends at"):
        list(batches)


@pytest.mark.parametrize("backend", BACKENDS)
def test_deleted_and_replaced_files_are_still_read(tiny_records, backend):
    store = tiny_records(images=70, dim=512).open(backend=backend)
    before = store.gather("object_features", [0, 69])
    path = shard_of(store)
    raw = path.read_bytes()
    path.unlink()
    np.testing.assert_array_equal(store.gather("object_features", [0, 69]), before)
    path.write_bytes(raw)
    np.testing.assert_array_equal(store.gather("object_features", [0, 69]), before)
