"""Variants of groups: what can be joined to a store, what is refused, what is detected."""

from __future__ import annotations

import numpy as np
import pytest

from features import open_store
from features.errors import DamagedError, MismatchError, UnknownName
from features.format.codec import pack_regions, pack_text
from features.format.group import Group, read_group
from features.format.manifest import bind_store
from features.format.schema import shard_ranges


def add_regions(store, name, *, rows=None, index=None, dim=8):
    """Write another variant of the regions of a tiny store."""
    count = len(store) if rows is None else rows
    folder = store.path.parent / f"regions-{name:0>12}"
    key = f"{name:0>64}"
    ranges = shard_ranges(count)
    for number, part in enumerate(ranges):
        columns = pack_regions(
            [np.full((1, dim), row, np.float32) for row in part],
            [np.zeros((0, dim))] * len(part),
            6,
            4,
        )
        Group("regions", key, folder).write(
            number, range(part.start, part.start + len(part)), columns
        )
    own = read_group(store.group("index").manifest.folder).image_index
    Group("regions", key, folder).finish(len(ranges), index=own if index is None else index)
    return folder


def bound_groups(store):
    return {
        name: store.path.parent / entry["folder"]
        for name, entry in store.manifest["groups"].items()
    }


def test_two_variants_of_a_group_in_one_store(tiny_store):
    store = tiny_store()
    groups = {**bound_groups(store), "regions@clip": add_regions(store, "c")}
    both = open_store(bind_store(store.path.parent, "tiny", groups, {"why": "clip"}))
    assert both.row_shape("object_features") == (6, 16)
    assert both.row_shape("object_features", variant="clip") == (6, 8)
    assert both.gather("object_features", [5], variant="clip")[0, 0].tolist() == [5.0] * 8
    assert both.key != store.key
    assert open_store(store.path.parent).path == both.path
    assert open_store(store.path).hash == store.hash  # the first manifest is unchanged
    images, _ = next(iter(both.loader("train", batch_size=4, variant="clip", shuffle=False)))
    assert images.objects.shape == (4, 6, 8)
    with pytest.raises(UnknownName, match="no 'regions@dino'"):
        both.column("object_features", variant="dino")


def test_a_group_of_another_image_index_is_refused(tiny_store):
    store = tiny_store()
    other = add_regions(store, "d", index="0" * 64)
    with pytest.raises(MismatchError, match="another image index"):
        bind_store(store.path.parent, "tiny", {**bound_groups(store), "regions": other}, {})
    short = add_regions(store, "e", rows=11)
    with pytest.raises(MismatchError, match="another image index"):
        bind_store(store.path.parent, "tiny", {**bound_groups(store), "regions": short}, {})
    swapped = {**bound_groups(store), "regions": bound_groups(store)["visual"]}
    with pytest.raises(MismatchError, match="holds 'visual', bound as 'regions'"):
        bind_store(store.path.parent, "tiny", swapped, {})


def test_text_of_another_parse_is_refused(tiny_records):
    first, second = tiny_records(seed=0), tiny_records(seed=1)
    store = first.open()
    graphs = second.texts
    folder = store.path.parent / ("text-" + "0" * 12)
    Group("text", "0" * 64, folder).write(0, range(12), pack_text(graphs))
    Group("text", "0" * 64, folder).finish(1)
    with pytest.raises(MismatchError, match="'text' and 'tokens' differ in the number of token"):
        bind_store(store.path.parent, "tiny", {**bound_groups(store), "text": folder}, {})


def test_a_group_that_was_built_again_is_detected(tiny_store):
    store = tiny_store()
    folder = bound_groups(store)["regions"]
    manifest = read_group(folder)
    for path in folder.glob("*.json"):
        path.unlink()
    columns = pack_regions([np.ones((1, 16))] * 12, [np.ones((1, 16))] * 12, 6, 4)
    Group("regions", manifest.key, folder).write(0, range(12), columns)
    Group("regions", manifest.key, folder).finish(1)
    with pytest.raises(MismatchError, match="built again"):
        open_store(store.path).column("object_features")


def test_a_truncated_or_missing_shard_is_an_error_before_any_read(tiny_store):
    store = tiny_store()
    path = bound_groups(store)["regions"] / "00000.h5"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedError, match="bytes"):
        open_store(store.path).column("object_features")
    path.unlink()
    with pytest.raises(DamagedError, match="the file is missing"):
        open_store(store.path).gather("object_features", [0])
