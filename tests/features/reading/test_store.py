"""An opened store returns the records that it was built from: columns, rows, graphs, tables."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import features
from features import Caption, ImageEntry, Skipped, TextGraph, build_store, open_store
from features.errors import (
    FeatureOverflow,
    FormatError,
    InputError,
    MissingInput,
    UnknownName,
    UsageError,
)
from features.format.codec import pack_regions, pack_text, pack_tokens
from features.format.files import write_sealed
from features.format.schema import shard_ranges, shard_rows
from features.reading import group_reader, row_readers

BACKENDS = ("auto", "mmap", "pread", "h5py")


def padded(parts, most, dim):
    out = np.zeros((len(parts), most, dim), np.float32)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part[:most]
    return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_returns_the_features_that_were_stored(tiny_records, backend):
    # 32 x 6 x 16 halves are one page and a half per 4 images: one map over three shards
    records = tiny_records(images=150, dim=64)
    store = records.open(backend=backend)
    wanted = padded([pair[0] for pair in records.regions], 6, 64).astype(np.float16)
    np.testing.assert_array_equal(store.column("object_features"), wanted)
    rows = np.random.default_rng(0).integers(0, 150, 40)
    np.testing.assert_array_equal(store.gather("object_features", rows), wanted[rows])
    wide = store.gather("object_features", rows, dtype=np.float32)
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide, wanted[rows].astype(np.float32))
    out = np.empty((40, 6, 64), np.float32)
    assert store.gather("object_features", rows, out=out) is out
    np.testing.assert_array_equal(out, wide)
    store.prefetch("object_features", rows)
    boxes = store.gather("boxes", rows)
    for row, found in zip(rows, boxes, strict=True):
        given = records.visual[row].boxes
        np.testing.assert_array_equal(found[: len(given)], given)
        assert not found[len(given) :].any()


@pytest.mark.parametrize("dim", [16, 17, 64])
def test_one_map_over_all_shards_equals_a_map_per_shard(tiny_records, dim, monkeypatch):
    records = tiny_records(images=200, dim=dim, dtype="float32")
    whole = padded([pair[1] for pair in records.regions], 4, dim)
    rows = np.arange(199, -1, -3)
    for small in (0, 64 << 20):
        monkeypatch.setattr("features.reading.group_reader.SMALL_COLUMN", small)
        store = records.open(backend="mmap")
        np.testing.assert_array_equal(store.column("union_features"), whole)
        np.testing.assert_array_equal(store.gather("union_features", rows), whole[rows])


def test_casts_by_torch_and_by_numpy_are_equal(tiny_records):
    records = tiny_records(images=70, dim=512)
    code = """
import sys, numpy as np
from features import open_store
store = open_store(sys.argv[1], backend="mmap")
rows = np.arange(69, -1, -2)
plain = store.gather("object_features", rows, dtype=np.float32)
assert "torch" not in sys.modules
import torch
fused = store.gather("object_features", rows, dtype=np.float32)
assert plain.any() and (plain == fused).all()
"""
    subprocess.run([sys.executable, "-c", code, str(records.path)], check=True, timeout=120)


def test_columns_cannot_be_made_writable(tiny_store):
    store = tiny_store()
    for name in ("object_features", "boxes", "head", "labels", "caption_offsets", "image_size"):
        column = store.column(name)
        with pytest.raises(ValueError, match="read-only"):
            column[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            store.column("object_features").flags.writeable = True


def test_rows_follow_ids_splits_and_captions(tiny_records):
    records = tiny_records(images=20, skipped=(3, 4))
    store = records.open()
    ids = [entry.id for entry in records.entries]
    assert store.rows(ids[::-1]).tolist() == list(range(20))[::-1]
    assert store.skipped == {ids[3]: "cannot be decoded", ids[4]: "cannot be decoded"}
    for split in ("train", "val", "test"):
        rows = [
            row
            for row, entry in enumerate(records.entries)
            if entry.split == split and row not in (3, 4)
        ]
        assert store.splits[split].tolist() == rows
        captions = [5 * row + at for row in rows for at in range(5)]
        assert store.caption_rows(split).tolist() == captions
        assert store.caption_image_rows(split).tolist() == [
            place for place in range(len(rows)) for _ in range(5)
        ]
        assert store.image_of_caption(captions).tolist() == [row for row in rows for _ in range(5)]
    assert store.images["id"].tolist() == [n for row, n in enumerate(ids) if row not in (3, 4)]
    shown = store.captions.set_index("id")
    assert len(shown) == 90
    for entry in (records.entries[0], records.entries[19]):
        for caption in entry.captions:
            row = shown.loc[caption.id]
            assert (row["text"], row["image"], row["split"]) == (
                caption.text,
                entry.id,
                entry.split,
            )


def test_a_part_of_a_split_is_named_like_a_slice(tiny_store):
    store = tiny_store(images=40)
    train = store.image_rows("train").tolist()
    for part in (
        slice(5),
        slice(-3, None),
        slice(2, 9),
        slice(None),
        slice(4, 100),
        slice(99, None),
    ):
        first, last = ("" if end is None else end for end in (part.start, part.stop))
        rows = train[part]
        name = f"train[{first}:{last}]"
        assert store.image_rows(name).tolist() == rows
        assert store.caption_rows(name).tolist() == [
            5 * row + at for row in rows for at in range(5)
        ]
    assert store.image_rows("train[2:9][1:3]").tolist() == train[2:9][1:3]
    batches = store.image_batches("train[2:9]", 4)
    assert [row for batch in batches for row in batch.rows.tolist()] == train[2:9]
    with pytest.raises(UnknownName, match=r"'tran'\. Did you mean 'train'"):
        store.image_rows("tran[:5]")
    with pytest.raises(UnknownName, match=r"unknown split 'train\[1\]'"):
        store.image_rows("train[1]")
    with pytest.raises(TypeError):
        store.splits["mine"] = store.splits["train"]


def test_graphs_and_texts_equal_the_records(tiny_records):
    records = tiny_records(images=130, skipped=(7,))
    store = records.open()
    for row, entry in enumerate(records.entries):
        for at, caption in enumerate(entry.captions):
            assert store.text(caption.id) == records.texts[5 * row + at]
        found = records.visual[row]
        if isinstance(found, Skipped):
            with pytest.raises(UnknownName, match="cannot be decoded"):
                store.graph(entry.id)
            continue
        graph = store.graph(entry.id)
        assert (graph.size, graph.labels, graph.attributes) == (
            found.size,
            found.labels,
            found.attributes,
        )
        assert graph.relations == found.relations
        np.testing.assert_array_equal(graph.boxes, found.boxes)
        np.testing.assert_array_equal(graph.scores, found.scores)
        np.testing.assert_array_equal(graph.relation_scores, found.relation_scores)
        for (s, _, o), union in zip(graph.relations, graph.union_boxes, strict=True):
            a, b = found.boxes[s], found.boxes[o]
            assert union.tolist() == [
                *np.minimum(a[:2], b[:2]).tolist(),
                *np.maximum(a[2:], b[2:]).tolist(),
            ]


def test_tables_list_every_fact_once(tiny_records):
    records = tiny_records(images=30, skipped=(2,))
    store = records.open()
    shown = [
        (caption.id, graph)
        for row, entry in enumerate(records.entries)
        if row != 2
        for caption, graph in zip(entry.captions, records.texts[5 * row : 5 * row + 5], strict=True)
    ]
    triplets = [(name, *triplet) for name, graph in shown for triplet in graph.triplets]
    table = store.table("relations")
    found = table[["caption", "subject", "predicate", "object"]]
    assert list(found.itertuples(index=False, name=None)) == triplets
    objects = [
        (name, lemma, positions[0])
        for name, graph in shown
        for lemma, positions in zip(graph.objects, graph.object_positions, strict=True)
    ]
    found = store.table("objects")[["caption", "lemma", "position"]]
    assert list(found.itertuples(index=False, name=None)) == objects
    named = [(name, *pair) for name, graph in shown for pair in graph.attributes]
    found = store.table("attributes")[["caption", "lemma", "attribute"]]
    assert list(found.itertuples(index=False, name=None)) == named
    visual = [
        (entry.id, label)
        for entry, found in zip(records.entries, records.visual, strict=True)
        if not isinstance(found, Skipped)
        for label in found.labels
    ]
    found = store.table("visual_objects")[["image", "label"]]
    assert list(found.itertuples(index=False, name=None)) == visual
    related = [
        (entry.id, found.labels[s], p, found.labels[o])
        for entry, found in zip(records.entries, records.visual, strict=True)
        if not isinstance(found, Skipped)
        for s, p, o in found.relations
    ]
    found = store.table("visual_relations")[["image", "subject", "predicate", "object"]]
    assert list(found.itertuples(index=False, name=None)) == related
    with pytest.raises(UnknownName, match="visual_objects"):
        store.table("visual_object")


HOSTILE = ["", " ", "\x00", "a\x00", "\ud800", "é" * 3000, "\U0001f600", "\n\r\t", '{"a"', "../x"]


def test_hostile_strings_are_returned_unchanged(tmp_path):
    entries = [
        ImageEntry(f"{text}#{row}", text, "train", (Caption(f"c{text}{row}", text),))
        for row, text in enumerate(HOSTILE)
    ]
    texts = [
        TextGraph(text, (text,), (text,), ("X",), ("X",), (-1,), ("root",)) for text in HOSTILE
    ]
    store = open_store(build_store(tmp_path, "odd", entries, texts=texts))
    assert store.column("caption").tolist() == HOSTILE
    assert store.column("image_file").tolist() == HOSTILE
    assert store.rows([entry.id for entry in entries]).tolist() == list(range(len(HOSTILE)))
    for entry, graph in zip(entries, texts, strict=True):
        found = store.text(entry.captions[0].id)
        assert (found.caption, found.tokens) == (graph.caption, graph.tokens)


def test_a_store_without_some_groups_opens_and_errors_name_the_missing_one(tmp_path):
    entries = [ImageEntry("a", "a.jpg", "train", (Caption("a#0", "A dog."),))]
    store = open_store(build_store(tmp_path, "few", entries))
    assert len(store) == 1
    assert store.splits["train"].tolist() == [0]
    assert store.captions["text"].tolist() == ["A dog."]
    assert store.skipped == {}
    assert not store.has("boxes")
    with pytest.raises(UnknownName, match=r"no 'visual'.*It has: index"):
        store.graph("a")
    with pytest.raises(UnknownName, match="no 'regions'"):
        store.column("object_features")
    with pytest.raises(UnknownName, match="Did you mean 'boxes'"):
        store.column("boxs")


def test_errors_name_the_wrong_argument(tiny_store):
    store = tiny_store()
    with pytest.raises(UnknownName, match=r"unknown image id '1000.jp'. Did you mean '1000.jpg'"):
        store.rows(["1000.jp"])
    with pytest.raises(UsageError, match="pass a list"):
        store.rows("1000.jpg")
    with pytest.raises(UsageError, match=r"rows must lie in 0 .. 11"):
        store.gather("boxes", [0, 12])
    with pytest.raises(UsageError, match=r"rows must lie in 0 .. 11"):
        store.gather("boxes", [-1])
    with pytest.raises(UsageError, match="integers"):
        store.gather("boxes", [0.5])
    with pytest.raises(UsageError, match=r"caption rows must lie in 0 .. 59"):
        store.image_of_caption([-1])
    with pytest.raises(UsageError, match=r"caption rows must lie in 0 .. 59"):
        store.image_of_caption([60])
    with pytest.raises(UsageError, match="caption rows must be integers"):
        store.image_of_caption([1.7])
    with pytest.raises(UsageError, match="out must be"):
        store.gather("boxes", [0], out=np.empty((2, 6, 4), np.float32))
    with pytest.raises(UnknownName, match="unknown split 'tset'"):
        store.caption_rows("tset")
    with pytest.raises(UnknownName, match="unknown backend"):
        open_store(store.path, backend="ssd")
    with pytest.raises(MissingInput, match="no such store"):
        open_store(store.path.parent / "absent")
    with pytest.raises(FormatError, match=r"no latest\.json"):
        open_store(Path(__file__).parent)


def test_a_newer_format_is_refused_with_its_version(tiny_store, monkeypatch):
    store = tiny_store()
    monkeypatch.setattr("features.format.files.FORMAT_VERSION", 2)
    write_sealed(store.path, {**store.manifest, "format_version": 2})
    monkeypatch.undo()
    with pytest.raises(
        FormatError, match="format version 2, but this release reads versions up to 1"
    ):
        open_store(store.path)


def test_storing_a_value_too_large_for_float16_names_image_and_column():
    fine, large = np.ones((2, 4), np.float32), np.full((2, 4), 7e4, np.float32)
    for given, value in ((large, "70000"), (np.full((2, 4), np.nan, np.float32), "nan")):
        with pytest.raises(FeatureOverflow, match=rf"image b.jpg, column union_features.*{value}"):
            pack_regions([fine, fine], [fine, given], 2, 2, ids=["a.jpg", "b.jpg"])
    stored = pack_regions([fine, large], [fine, fine], 2, 2, dtype="float32")
    assert stored["object_features"].max() == 7e4
    with pytest.raises(UsageError, match="one width"):
        pack_regions([fine], [np.ones((1, 3), np.float32)], 2, 2)
    with pytest.raises(UsageError, match="float16 or float32"):
        pack_regions([fine], [fine], 2, 2, dtype="int8")


@pytest.mark.parametrize("value", [7e4, -7e4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_a_value_too_large_for_float16_names_image_and_column(
    tiny_records, tmp_path, value, backend
):
    records = tiny_records()
    at = next(row for row, pair in enumerate(records.regions) if len(pair[1]))
    records.regions[at][1][0, 3] = value
    path = build_store(
        tmp_path / "large",
        "large",
        records.entries,
        visual=records.visual,
        regions=records.regions,
        max_objects=6,
        max_relations=4,
        dtype="float32",
    )
    store = open_store(path, backend=backend)
    rows = [11, at, 10]
    named = rf"image {1000 + at}.jpg, column union_features: .*70000.*Read it as float32"
    with pytest.raises(FeatureOverflow, match=named):
        store.gather("union_features", rows, dtype="float16")
    with pytest.raises(FeatureOverflow, match=named):
        store.gather("union_features", rows, out=np.empty((3, 4, 16), np.float16))
    assert store.gather("union_features", rows)[1, 0, 3] == value
    fits = store.gather("object_features", rows, dtype="float16")
    wanted = padded([records.regions[row][0] for row in rows], 6, 16)
    np.testing.assert_array_equal(fits, wanted.astype(np.float16))


def test_inconsistent_graphs_are_refused():
    with pytest.raises(InputError, match="lemmas and tokens"):
        pack_tokens([TextGraph("a", ("a",))])
    with pytest.raises(InputError, match="head lies outside"):
        pack_tokens([TextGraph("a", ("a",), ("a",), ("X",), ("X",), (1,), ("root",))])
    with pytest.raises(InputError, match="names an object"):
        pack_text([TextGraph("a", objects=("a",), object_positions=((),),
                             relations=((0, "on", 1),), relation_positions=((),))])  # fmt: skip


def test_the_hash_depends_on_contents_only(tiny_store):
    first, second, third = tiny_store(), tiny_store(), tiny_store(seed=1)
    assert first.path != second.path
    assert (first.key, first.hash) == (second.key, second.hash)
    assert first.hash != third.hash


def test_a_store_can_be_read_after_pickling_and_forking(tiny_store):
    store = tiny_store(images=70, dim=64)
    store.gather("object_features", [0])
    again = pickle.loads(pickle.dumps(store))
    rows = np.arange(70)
    wanted = store.gather("object_features", rows)
    np.testing.assert_array_equal(again.gather("object_features", rows), wanted)
    for backend in ("pread", "h5py"):
        code = """
import os, sys, numpy as np
from features import open_store
store = open_store(sys.argv[1], backend=sys.argv[2])
wanted = store.gather("object_features", np.arange(70))
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        same = all((store.gather("object_features", [r])[0] == wanted[r]).all() for r in range(70))
        os._exit(0 if same else 1)
    children.append(child)
assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0, 0]
"""
        command = [sys.executable, "-c", code, str(store.path), backend]
        subprocess.run(command, check=True, timeout=60)


def test_a_store_opened_by_a_relative_path_works_from_another_folder(
    tiny_records, tmp_path, monkeypatch
):
    records = tiny_records(folder=tmp_path / "data" / "store")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(elsewhere)
    store = open_store("link/store")
    assert store.path == elsewhere / "link" / "store" / records.path.name  # links are not resolved
    assert open_store(f"link/store/{records.path.name}").path == store.path
    packed = pickle.dumps(store)
    with pytest.raises(MissingInput, match=r"^link/stor: no such store"):
        open_store("link/stor")
    monkeypatch.chdir(tmp_path)
    assert store.gather("boxes", [0]).shape == (1, 6, 4)
    assert store.gather("object_features", [0]).shape == (1, 6, 16)
    assert pickle.loads(packed).text("1000.jpg#0") == records.texts[0]


def test_reading_columns_imports_no_heavy_package(tiny_store):
    store = tiny_store(dim=512)
    code = """
import sys
from features import open_store
store = open_store(sys.argv[1])
store.column("object_features"); store.splits; store.rows(["1000.jpg"])
print([name for name in ("torch", "pandas", "h5py", "scipy", "spacy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("backend", "mapped"), [("auto", True), ("mmap", True), ("pread", False), ("h5py", False)]
)
def test_auto_is_a_memory_map_and_other_readers_are_used_on_request(tiny_records, backend, mapped):
    records = tiny_records(images=64, dim=512)
    store = records.open(backend=backend)
    store.gather("object_features", [0])
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list the maps of a process")
    regions = str(store.group("regions").manifest.folder)
    assert (regions in maps.read_text()) == mapped


@pytest.fixture
def hints(monkeypatch):
    """The rows that a store of one shard asks the system to read ahead."""
    rows = []
    monkeypatch.setattr(row_readers, "advise", lambda _, asked: rows.extend(asked.tolist()))
    monkeypatch.setattr(os, "posix_fadvise", lambda _, at, size, __: rows.append(at // size))
    return rows


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_row_of_a_column_that_fits_in_memory_is_read_ahead_once(tiny_records, hints, backend):
    store = tiny_records(images=64, dim=512).open(backend=backend)
    for rows in ([3, 63, 0], [0, 1, 3, 2]):
        store.prefetch("object_features", np.array(rows))
    assert len(hints) == 5
    assert len(set(hints)) == 5


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_rows_of_a_larger_column_are_read_ahead_each_time(
    tiny_records, hints, monkeypatch, backend
):
    monkeypatch.setattr(row_readers, "MEMORY", 1 << 19)
    store = tiny_records(images=64, dim=512).open(backend=backend)
    for rows in ([3, 63, 0], [0, 1, 3, 2]):
        store.prefetch("object_features", np.array(rows))
    assert len(hints) == 7


def test_positioned_reads_keep_few_files_open(tiny_records, monkeypatch):
    monkeypatch.setattr(row_readers, "MAX_FILES", 2)
    records = tiny_records(images=200, dim=4)  # four shards
    store, wanted = records.open(backend="pread"), records.open(backend="h5py")
    rows = np.random.default_rng(0).permutation(200)

    def opened():
        return sum("regions" in os.path.realpath(f"/proc/self/fd/{n}") for n in range(256))

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("this system does not list open files")
    before = opened()
    found = store.gather("object_features", rows)
    assert opened() - before == 2
    np.testing.assert_array_equal(found, wanted.gather("object_features", rows))
    del store
    gc.collect()
    assert opened() - before <= 2  # those of h5py


def test_the_number_of_images_determines_the_shards():
    for images in (1, 63, 64, 65, 2048, 2049, 31_783, 123_287, 10_000_000):
        ranges = shard_ranges(images)
        step = shard_rows(images)
        assert 64 <= step <= 4096
        assert step & (step - 1) == 0
        assert [row for part in ranges[:2] for row in part][: 2 * step] == list(
            range(min(images, 2 * step))
        )
        assert {len(part) for part in ranges[:-1]} <= {step}
        assert sum(map(len, ranges)) == images
    assert len(shard_ranges(10_000_000)) == 2442


def test_public_names_are_sorted_and_documented():
    assert sorted(features.__all__) == features.__all__
    for name in features.__all__:
        assert getattr(features, name).__doc__


def test_more_shards_than_a_process_should_map_are_read_without_maps(tiny_records, monkeypatch):
    records = tiny_records(images=150, dim=64)

    def reader(backend):
        store = records.open(backend=backend)
        return store, type(store.group("regions")._rows("object_features"))

    opened, kind = reader("auto")
    assert kind is row_readers.MappedRows
    monkeypatch.setattr(group_reader, "MAX_MAPS", 1)
    many, kind = reader("auto")
    assert kind is row_readers.PreadRows
    rows = np.arange(150)[::-1].copy()
    for name in ("object_features", "boxes"):
        np.testing.assert_array_equal(many.gather(name, rows), opened.gather(name, rows))
    assert reader("mmap")[1] is row_readers.MappedRows
