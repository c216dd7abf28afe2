"""Batches: contents against a slow, independent construction; order, resume, memory, threads."""

from __future__ import annotations

import dataclasses
import gc
import threading
import types

import numpy as np
import pytest
import torch

import features.batches.loader as loader_module
from features import Codebook
from features.batches.batch import ImageBatch
from features.batches.buffer_pool import BufferPool
from features.batches.caption_encoder import CaptionColumns, CaptionEncoder, caption_batch
from features.batches.epoch_order import epoch_order, rank_slice
from features.batches.image_encoder import ImageEncoder, image_batch
from features.batches.prefetch import prefetched
from features.errors import UnknownName, UsageError
from features.records import union_boxes


def naive_caption(graph, book):
    """Return words, tags, roles, heads and triplets of a caption as plain lists."""
    roles = {"object": 1, "attribute": 2, "relation": 3, "other": 4}
    word = book.words.id
    return {
        "words": [1, *(word(form.lower()) for form in graph.tokens), 2],
        "tags": [1, *(book.tags.id(tag) for tag in graph.xpos), 1],
        "roles": [4, *(roles[role] for role in graph.roles), 4],
        "heads": [-1, *(-1 if head < 0 else head + 1 for head in graph.heads), -1],
        "triplets": [
            [1, *(word(w) for name in triplet for w in name.split()), 2]
            for triplet in graph.triplets
        ],
        "spans": [[len(name.split()) for name in triplet] for triplet in graph.triplets],
    }


def check_caption(batch, at, graph, book):
    wanted = naive_caption(graph, book)
    n = len(wanted["words"])
    for name, fill in (("words", 0), ("tags", 0), ("roles", 0), ("heads", -1)):
        row = getattr(batch, name)[at].tolist()
        assert row == wanted[name] + [fill] * (len(row) - n)
    assert batch.word_mask[at].tolist() == [True] * n + [False] * (batch.words.shape[1] - n)
    assert batch.triplet_mask[at].sum() == len(wanted["triplets"])
    for slot, (words, span) in enumerate(zip(wanted["triplets"], wanted["spans"], strict=True)):
        row = batch.triplets[at, slot].tolist()
        assert row == words + [0] * (len(row) - len(words))
        assert batch.triplet_spans[at, slot].tolist() == span
    assert not batch.triplets[at, len(wanted["triplets"]) :].any()


def check_image(batch, at, found, regions, book):
    k = batch.boxes.shape[1]
    n, m = len(found.labels), len(found.relations)
    scale = np.float32([*found.size, *found.size])
    assert batch.sizes[at].tolist() == [float(side) for side in found.size]
    assert batch.object_mask[at].tolist() == [True] * n + [False] * (k - n)
    np.testing.assert_allclose(batch.boxes[at, :n], found.boxes / scale, rtol=1e-6)
    assert batch.labels[at].tolist() == [book.labels.id(x) for x in found.labels] + [0] * (k - n)
    np.testing.assert_array_equal(batch.scores[at, :n], found.scores)
    np.testing.assert_array_equal(batch.objects[at, :n], regions[0].astype(np.float16))
    np.testing.assert_array_equal(batch.unions[at, :m], regions[1].astype(np.float16))
    pairs = [(s, o) for s, _, o in found.relations]
    assert [tuple(pair) for pair in batch.relations[at, :m].tolist()] == pairs
    unions = union_boxes(found.boxes, pairs) / scale
    np.testing.assert_allclose(batch.union_boxes[at, :m], unions, rtol=1e-6)
    names = [book.predicates.id(p) for _, p, _ in found.relations]
    assert batch.predicates[at, :m].tolist() == names
    assert int(batch.relation_mask[at].sum()) == m
    for name in ("boxes", "objects", "scores", "labels"):
        assert not getattr(batch, name)[at, n:].any()
    for name in ("unions", "union_boxes", "relations", "predicates"):
        assert not getattr(batch, name)[at, m:].any()


def test_batches_equal_the_records(tiny_records):
    records = tiny_records(images=80, skipped=(1,))
    store = records.open()
    book = Codebook.from_store(store, min_count=70)
    assert any(book.words.id(graph.tokens[1]) == 3 for graph in records.texts)  # some are unknown
    seen = []
    for images, captions in store.loader("train", batch_size=7, codebook=book, seed=3):
        assert images.rows.tolist() == captions.image_rows.tolist()
        for at, row in enumerate(captions.rows.tolist()):
            seen.append(row)
            image = row // 5
            assert images.rows[at] == image
            check_caption(captions, at, records.texts[row], book)
            check_image(images, at, records.visual[image], records.regions[image], book)
    assert sorted(seen) == store.caption_rows("train").tolist()
    assert seen != sorted(seen)


def test_evaluation_batches_visit_each_row_once_in_order(tiny_records):
    records = tiny_records(images=40, skipped=(4,))
    store = records.open()
    book = Codebook.from_store(store)
    images = list(store.image_batches("test", 3, book))
    assert torch.cat([b.rows for b in images]).tolist() == store.splits["test"].tolist()
    for batch in images:  # all are kept: none may have been overwritten
        for at, row in enumerate(batch.rows.tolist()):
            check_image(batch, at, records.visual[row], records.regions[row], book)
    captions = list(store.caption_batches("test", 11, book))
    rows = torch.cat([b.rows for b in captions]).tolist()
    assert rows == store.caption_rows("test").tolist()
    place = store.caption_image_rows("test")
    shown = torch.cat([b.image_rows for b in captions]).tolist()
    assert store.splits["test"][place].tolist() == shown


def test_records_outside_a_store_give_the_same_batches(tiny_records):
    records = tiny_records(images=30)
    store = records.open()
    book = Codebook.from_store(store, min_count=2)
    graphs = records.texts[:40]
    batch = caption_batch(graphs, book)
    for at, graph in enumerate(graphs):
        check_caption(batch, at, graph, book)
    assert len(set(batch.image_rows.tolist())) == 40
    assert max(batch.rows.tolist()) < 0
    given = [
        (found, objects.astype(np.float16), unions.astype(np.float16))
        for found, (objects, unions) in zip(records.visual, records.regions, strict=True)
    ]
    images = image_batch(given, book)
    for at, found in enumerate(records.visual):
        check_image(images, at, found, records.regions[at], book)
    assert image_batch(given[:2], book, max_objects=9, max_relations=7).unions.shape == (2, 7, 16)


def test_captions_without_words_or_relations_make_a_batch(tiny_records):
    from features import TextGraph

    book = Codebook.from_store(tiny_records().open())
    batch = caption_batch([TextGraph("", problem="empty"), TextGraph("")], book)
    assert batch.words.tolist() == [[1, 2], [1, 2]]
    assert batch.triplet_spans.shape == (2, 1, 3)
    assert not batch.triplet_mask.any()


def test_features_can_be_left_out_or_kept_in_half_precision(tiny_store):
    store = tiny_store()
    images, _ = next(iter(store.loader("train", batch_size=4, features=False)))
    assert images.objects.shape == (4, 6, 0)
    assert images.unions.shape == (4, 4, 0)
    images, _ = next(iter(store.loader("train", batch_size=4, dtype="float16")))
    assert images.objects.dtype == torch.float16
    with pytest.raises(UsageError, match="float32 or float16"):
        store.loader("train", batch_size=4, dtype="int8")


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_the_copy_to_cuda_loses_no_precision(tiny_store, monkeypatch, stored):
    """Features are copied as float16 if they are stored or requested so, in half the bytes.

    Only the copy itself needs a GPU; here it is a copy to memory.
    """
    store = tiny_store(dtype=stored)
    carried = []
    plain = ImageBatch.to

    def copied(batch, device, **options):
        carried.append((str(batch.objects.dtype), str(batch.unions.dtype)))
        return plain(batch, device, **options)

    monkeypatch.setattr(ImageBatch, "to", copied)
    stream = types.SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    for wanted in ("float32", "float16"):
        options = {"batch_size": 4, "dtype": wanted, "seed": 1}
        loader = store.loader("train", device="cuda", **options)
        loader.device, loader.pool.pinned = "cpu", False
        for (ours, _), (theirs, _) in zip(loader, store.loader("train", **options), strict=True):
            assert ours.objects.dtype == theirs.objects.dtype == getattr(torch, wanted)
            assert torch.equal(ours.objects, theirs.objects)
            assert torch.equal(ours.unions, theirs.unions)
        narrow = "float16" in (stored, wanted)
        assert set(carried) == {("torch.float16" if narrow else "torch.float32",) * 2}
        carried.clear()
    with pytest.raises(UsageError, match="float32 or float16"):
        store.loader("train", batch_size=4, device="cuda", dtype="int8")


@pytest.mark.parametrize("backend", ["mmap", "pread", "h5py"])
def test_gathering_no_rows_returns_an_empty_array(tiny_records, backend):
    store = tiny_records(images=6, dim=2048, max_objects=12).open(backend=backend)
    for dtype in ("float16", "float32", "int64"):
        found = store.gather("object_features", [], dtype=dtype)
        assert (found.shape, found.dtype) == ((0, 12, 2048), dtype)


def order_of(loader):
    return [row for _, captions in loader for row in captions.rows.tolist()]


@pytest.mark.parametrize("order", ["random", "block", "sequential"])
def test_the_order_depends_on_seed_and_epoch_alone(tiny_store, order):
    store = tiny_store(images=60)

    def rows(**options):
        return order_of(store.loader("train", batch_size=16, order=order, **options))

    first = rows(seed=5, epoch=2)
    assert sorted(first) == store.caption_rows("train").tolist()
    assert rows(seed=5, epoch=2, prefetch=0) == first
    assert rows(seed=5, epoch=2, prefetch=3) == first
    if order != "sequential":
        assert rows(seed=5, epoch=3) != first
        assert rows(seed=6, epoch=2) != first
        assert first != sorted(first)
    loader = store.loader("train", batch_size=16, order=order, seed=5)
    loader.set_epoch(2)
    assert order_of(loader) == first
    assert order_of(loader) == first


def test_resuming_at_a_step_continues_the_same_epoch(tiny_store):
    store = tiny_store(images=60)
    whole = [c.rows.tolist() for _, c in store.loader("train", batch_size=16, seed=1, epoch=4)]
    for step in (0, 1, 5, len(whole)):
        loader = store.loader("train", batch_size=16, seed=1, epoch=4, start_step=step)
        assert len(loader) == len(whole) - step
        assert [c.rows.tolist() for _, c in loader] == whole[step:]
        assert len(list(loader)) == len(whole)  # only the first iteration is shortened


def test_the_ranks_together_see_every_row_once(tiny_store):
    store = tiny_store(images=60)  # 150 rows
    whole = order_of(store.loader("train", batch_size=16, seed=1))
    for world in (2, 3, 7):
        parts = [
            store.loader("train", batch_size=8, seed=1, rank=rank, world=world)
            for rank in range(world)
        ]
        assert {len(part) for part in parts} == {-(-150 // (8 * world))}
        steps = [[c.rows.tolist() for _, c in part] for part in parts]
        for at, ranks in enumerate(zip(*steps, strict=True)):
            batch = whole[at * 8 * world : (at + 1) * 8 * world]
            assert [len(rows) for rows in ranks] == [
                len(batch[rank::world]) for rank in range(world)
            ]
            assert sorted(row for rows in ranks for row in rows) == sorted(batch)
        dropped = store.loader("train", batch_size=8, rank=world - 1, world=world, drop_last=True)
        assert [len(c.rows) for _, c in dropped] == [8] * (150 // (8 * world))


def test_a_rank_without_a_row_gets_an_empty_batch(tiny_store):
    store = tiny_store(images=2, captions=1)
    options = {"batch_size": 1, "world": 3, "prefetch": 0}
    (full,) = store.loader("train", **options)
    (empty,) = store.loader("train", rank=2, **options)
    for one, none in zip(full, empty, strict=True):
        for item in dataclasses.fields(one):
            value, other = getattr(one, item.name), getattr(none, item.name)
            if value is not None:
                assert (len(value), len(other)) == (1, 0)
                assert value.dim() == other.dim()
    assert full[0].objects.shape[1:] == empty[0].objects.shape[1:]


def test_invalid_ranks_and_orders_are_refused(tiny_store):
    store = tiny_store(images=6)
    with pytest.raises(UsageError, match="rank 2 of 2"):
        store.loader("train", batch_size=8, rank=2, world=2)
    with pytest.raises(UnknownName, match="unknown order"):
        store.loader("train", batch_size=8, order="blocks")
    assert rank_slice(np.arange(3), 3, 4).tolist() == []


def test_drop_last_leaves_out_a_shorter_last_batch(tiny_store):
    store = tiny_store(images=12)  # 30 training captions
    assert [len(c.rows) for _, c in store.loader("train", batch_size=8)] == [8, 8, 8, 6]
    loader = store.loader("train", batch_size=8, drop_last=True)
    assert len(loader) == 3
    assert [len(c.rows) for _, c in loader] == [8, 8, 8]


def test_block_order_reads_pools_of_neighbouring_images():
    images = np.repeat(np.arange(64 * 600), 2)
    rows = np.arange(len(images))
    order = epoch_order(rows, images, order="block", seed=1)
    assert sorted(order.tolist()) == rows.tolist()
    pool = 256 * 64 * 2  # rows of a pool
    blocks = [set((images[part] // 64).tolist()) for part in np.split(order, [pool, 2 * pool])]
    assert [len(part) for part in blocks] == [256, 256, 88]
    assert not blocks[0] & blocks[1]
    same = (images[order][:-1] // 64 == images[order][1:] // 64).mean()
    assert same < 0.02  # neighbours in the epoch are rarely from the same block


def test_a_batch_that_is_kept_is_never_overwritten():
    pool = BufferPool()
    first = torch.from_numpy(pool.take((4, 3), np.float32))
    first.fill_(1)
    view = first[1:3].view(-1)[2:]
    address = first.data_ptr()
    del first
    second = torch.from_numpy(pool.take((4, 3), np.float32))
    assert second.data_ptr() != address  # a view of a view keeps the first
    second.fill_(2)
    assert view.tolist() == [1.0] * 4
    del view
    gc.collect()
    third = pool.take((2, 3), np.float32)
    assert third.ctypes.data == address
    assert pool.nbytes == 96
    del third
    larger = pool.take((8, 3), np.float64)
    assert larger.shape == (8, 3)
    assert pool.nbytes == 48 + 192  # a free buffer that was too small is gone
    assert pool.take((0, 3), np.float32).shape == (0, 3)


def test_a_training_loop_needs_few_buffers(tiny_store):
    store = tiny_store(images=60, dim=256)
    loader = store.loader("train", batch_size=8)
    for images, captions in loader:
        (images.objects.sum() + captions.words.sum()).item()
    one = 8 * (6 + 4) * 256 * 4
    assert loader.pool.nbytes <= 4 * one
    kept = [images for images, _ in loader]
    assert loader.pool.nbytes >= len(kept) * one


def test_an_error_in_the_thread_is_raised_in_the_loop_and_leaving_the_loop_ends_the_thread():
    def make(step):
        if step == 3:
            raise ValueError("step three")
        return step

    seen = []
    with pytest.raises(ValueError, match="step three"):
        seen.extend(prefetched(make, range(6), 2))
    assert seen == [0, 1, 2]
    found = prefetched(make, range(6), 2)
    assert [next(found), next(found), next(found)] == [0, 1, 2]
    with pytest.raises(ValueError, match="step three"):
        next(found)
    early = prefetched(make, range(3), 1)
    assert next(early) == 0
    early.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_invalid_arguments_are_refused(tiny_store):
    store = tiny_store()
    for options in (
        {"batch_size": 0},
        {"batch_size": 2, "start_step": -1},
        {"batch_size": 2, "seed": -1},
        {"batch_size": 2, "epoch": -1},
    ):
        with pytest.raises(UsageError, match="at least"):
            store.loader("train", **options)
    loader = store.loader("train", batch_size=2)
    loader.set_epoch(-1)
    with pytest.raises(UsageError, match="epoch -1"):
        next(iter(loader))
    for batches in (store.image_batches, store.caption_batches):
        for size in (0, -1):
            with pytest.raises(UsageError, match=f"at least 1, not {size}"):
                next(batches("train", size))
    with pytest.raises(UnknownName, match="unknown split"):
        store.loader("training", batch_size=2)


@pytest.mark.parametrize("pieces", [False, True])
def test_batches_made_together_equal_batches_made_one_by_one(
    tiny_store, tmp_path, monkeypatch, pieces
):
    """Their widths, too: each batch is as wide as its own longest caption."""
    store = tiny_store(images=60)
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + "\n".join("abcdefghijklmnopqrstuvwxyz"))
    book = Codebook.from_store(store, pieces=vocab if pieces else None)
    monkeypatch.setattr(loader_module, "BLOCK", 40)
    loader = store.loader("train", batch_size=2, codebook=book, seed=3)
    images = ImageEncoder(store, book)
    captions = CaptionEncoder(CaptionColumns.of_store(store), book)
    widths = set()
    for step, (got_images, got_captions) in enumerate(loader):
        rows = loader.epoch_rows()[2 * step : 2 * step + 2]
        of = store.image_of_caption(rows)
        pairs = ((got_images, images.batch(of)), (got_captions, captions.batch(rows, of)))
        for got, wanted in pairs:
            for item in dataclasses.fields(wanted):
                ours, theirs = getattr(got, item.name), getattr(wanted, item.name)
                assert (ours is None) == (theirs is None)
                if theirs is not None:
                    assert ours.is_contiguous()
                    assert ours.dtype == theirs.dtype
                    assert torch.equal(ours, theirs)
        widths.add((got_captions.words.shape[1], *got_captions.triplets.shape[1:]))
    assert step + 1 == loader.steps
    assert len(widths) > 1
    assert captions.batches(rows[:0], of[:0], 8) == []


def test_union_features_can_be_left_out(tiny_store):
    store = tiny_store()
    whole, _ = next(iter(store.loader("train", batch_size=4, seed=1)))
    bare, _ = next(iter(store.loader("train", batch_size=4, seed=1, unions=False)))
    assert bare.unions.shape == (*whole.unions.shape[:2], 0)
    assert torch.equal(bare.objects, whole.objects)
    assert torch.equal(bare.union_boxes, whole.union_boxes)
    assert next(iter(store.image_batches("train", 4, unions=False))).unions.shape[2] == 0
