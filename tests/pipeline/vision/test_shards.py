"""Shards written by the functions of the build stages, read back as one store."""

import numpy as np
import pytest
from PIL import Image

from features.errors import StageError
from features.format import group as group_module
from features.format.codec import pack_index
from features.format.group import Group, read_group
from features.format.manifest import bind_store
from features.maintenance.verify import verify_store
from features.records import Caption, ImageEntry
from features.store import open_store
from pipeline.shards import ParseJob, TextJob, VisualJob, parse_shard, text_shard, visual_shard
from pipeline.vision.detectors.nanodet import FEATURE_DIM
from pipeline.vision.graph_builder import GraphRules

ROWS = 3  # images in a shard
KEYS = {"index": "a" * 64, "visual": "b" * 64, "regions": "c" * 64}
KEYS |= {"tokens": "d" * 64, "text": "e" * 64}


def groups_of(store_dir):
    return {name: Group(name, key, store_dir / f"{name}-{key[:12]}") for name, key in KEYS.items()}


def built(folder, entries, **options):
    """Build a store of several shards, the way the stages do; return its folder."""
    groups = groups_of(folder / "st")
    parts = [entries[at : at + ROWS] for at in range(0, len(entries), ROWS)]
    for number, part in enumerate(parts):
        columns, row0 = pack_index(part), number * ROWS
        groups["index"].write(number, range(row0, row0 + len(part)), columns)
    groups["index"].finish(len(parts))
    given = {"images_dir": str(folder), "detector": "nanodet", "detections": ""}
    given |= {"relations": "geometric", "features": "detector", **options}
    jobs = {
        visual_shard: VisualJob(
            groups["index"],
            groups["visual"],
            groups["regions"],
            rules=GraphRules(max_objects=5, max_relations=4),
            on_error="skip",
            **given,
        ),
        parse_shard: ParseJob(groups["index"], groups["tokens"], "spacy"),
        text_shard: TextJob(
            groups["index"], groups["tokens"], groups["text"], None, "extended", "ud"
        ),
    }
    for work, job in jobs.items():
        for number in range(len(parts)):
            work(job, number)
    for group in ("visual", "regions", "tokens", "text"):
        index = read_group(groups["index"].folder).image_index
        groups[group].finish(len(parts), index=index)
    bind_store(folder / "st", "tiny", {name: group.folder for name, group in groups.items()}, {})
    return folder / "st"


@pytest.fixture
def entries(tmp_path):
    """Nine images, three per shard; those of the first shard are all damaged."""
    names = [f"{row}.jpg" for row in range(9)]
    draw = np.random.default_rng(0)
    for row, name in enumerate(names):
        if row < 3:
            (tmp_path / name).write_bytes(b"broken" * row)
        else:
            pixels = draw.integers(0, 255, (60, 90, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name)
    return [
        ImageEntry(name, name, "train", (Caption(str(row), "A red ball lies on grass."),))
        for row, name in enumerate(names)
    ]


def check(store_dir, width, usable):
    """Open, verify and load a store; return it."""
    assert verify_store(store_dir) == []
    store = open_store(store_dir)
    assert store.row_shape("object_features") == (5, width)
    assert store.row_shape("union_features") == (4, width)
    features = store.column("object_features")
    skipped = sorted(set(range(9)) - set(usable))
    assert not np.asarray(features[skipped]).any()
    assert sorted(store.skipped) == [f"{row}.jpg" for row in skipped]
    assert store.splits["train"].tolist() == usable
    batches = list(store.loader("train", batch_size=2, codebook=store.codebook, seed=1))
    seen = np.concatenate([images.rows for images, _ in batches])
    assert sorted(seen.tolist()) == usable
    for images, _ in batches:
        assert images.objects.shape[-1] == width
    return store


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_shard_of_skipped_images_has_the_width_of_the_others(tmp_path, entries, broken):
    """The shard is the first, the middle or the last one."""
    order = entries[3:]
    order[3 * broken : 3 * broken] = entries[:3]
    order = [
        ImageEntry(f"{row}.jpg", entry.file, "train", entry.captions)
        for row, entry in enumerate(order)
    ]
    usable = sorted(set(range(9)) - {3 * broken, 3 * broken + 1, 3 * broken + 2})
    check(built(tmp_path, order), FEATURE_DIM, usable)


def test_two_shards_of_skipped_images(tmp_path, entries):
    for row in (3, 4, 5, 6):
        (tmp_path / f"{row}.jpg").write_bytes(b"no image")
    check(built(tmp_path, entries), FEATURE_DIM, [7, 8])


def test_label_features_have_their_width(tmp_path, entries):
    check(built(tmp_path, entries, features="label"), 384, [3, 4, 5, 6, 7, 8])


def test_precomputed_features_give_the_width(tmp_path, entries):
    """The first records of the file are damaged, so the width is that of other records."""
    (tmp_path / "npz").mkdir()
    for row, entry in enumerate(entries):
        boxes = np.array([[1, 2, 30, 40], [5, 5, 50, 50]], np.float32)
        boxes = boxes[:, [2, 3, 0, 1]] if row < 3 else boxes  # x1 > x2
        x = np.ones((2, 7), np.float32)
        np.savez(tmp_path / "npz" / entry.id, x=x, bbox=boxes, num_bbox=2, image_w=90, image_h=60)
    given = {"detector": "bottom-up", "detections": str(tmp_path / "npz"), "images_dir": ""}
    check(built(tmp_path, entries, **given), 7, [3, 4, 5, 6, 7, 8])


def test_a_store_of_skipped_images(tmp_path, entries):
    for row in range(3, 9):
        (tmp_path / f"{row}.jpg").write_bytes(b"")
    folder = built(tmp_path, entries)
    assert verify_store(folder) == []
    store = open_store(folder)
    assert len(store.skipped) == 9
    assert not any(len(rows) for rows in store.splits.values())


def test_boxes_of_another_process_must_be_equal(tmp_path, entries, monkeypatch):
    """Another process writes other boxes while this one computes features of its own."""
    folder = built(tmp_path, entries)
    groups = groups_of(folder)
    theirs = groups["visual"].shard(1).columns()
    theirs["boxes"] = theirs["boxes"] + np.float32(0.25)
    for group in ("visual", "regions"):
        for path in groups[group].folder.iterdir():
            path.unlink()
    lock, calls = group_module.folder_lock, []

    def late(where):
        if not calls:
            calls.append(where)
            groups["visual"].write(1, range(ROWS, 2 * ROWS), theirs)
        return lock(where)

    monkeypatch.setattr(group_module, "folder_lock", late)
    job = VisualJob(
        groups["index"],
        groups["visual"],
        groups["regions"],
        rules=GraphRules(max_objects=5, max_relations=4),
        on_error="skip",
        images_dir=str(tmp_path),
        detector="nanodet",
        detections="",
        relations="geometric",
        features="detector",
    )
    with pytest.raises(StageError, match="other boxes for shard 1"):
        visual_shard(job, 1)
    assert calls
    assert not list(groups["regions"].folder.iterdir())
