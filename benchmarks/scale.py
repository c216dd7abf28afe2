"""What a build costs at any size: ``python -m benchmarks scale [--shards N]``.

The first table has the costs of one image, caption or pair in processor time. The second works
them out for whole data sets. The third is a simulation: a store of ``N`` full shards whose data
are holes in a sparse file is opened, and a build of as many shards is scheduled and resumed. Only
what grows with the number of shards takes time there.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.parse import captions
from benchmarks.sparse_store import ROWS, make_sparse_store, write_sidecars
from benchmarks.vision import photos, seconds
from features import open_store
from features.commands import exit_cleanly
from features.format import Group, pack_regions, read_group, shard_rows
from features.records import ImageEntry
from pipeline.detect import create_detector
from pipeline.language import extract
from pipeline.parse import load_parser
from pipeline.vision import GraphBuilder, create_extractor, create_relations, rules_for
from workflows.cluster import Where, fan_out

IMAGES = 64  # of the shard that is written
SETS = {"Flickr30k": 31_014, "COCO": 123_287, "10 million": 10**7, "1 billion": 10**9}
CAPTIONS = 5
CORES = 64


def median(action: Callable[[], object], times: int = 5) -> float:
    """Return the median processor time of a call, in seconds."""
    return float(np.median([seconds(action) for _ in range(times)]))


def costs(folder: Path) -> dict[str, tuple[float, str]]:
    """Return seconds of processor time and the unit of each step."""
    found = {}
    paths = photos(folder)[:5]
    detector = create_detector("nanodet")
    entries = [ImageEntry(path.name, path.name, "") for path in paths]
    for features in ("none", "detector"):
        extractor = create_extractor(features, detector)
        tools = (detector, create_relations("prior"), extractor)

        def build(tools=tools) -> None:
            builder = GraphBuilder(*tools, rules_for(detector), folder)
            for entry in entries:
                builder.build(entry)

        build()
        found[features] = median(build) / len(entries)
    steps = {"decode, detect, labels, relations": (found["none"], "image")}
    steps["RoI features of objects and unions"] = (found["detector"] - found["none"], "image")
    texts, parser = captions(600), load_parser("spacy")
    parser.parse(texts)
    parsing = median(lambda: extract(parser.parse(texts)), 3) / len(texts)
    steps["tokens, parse, rules"] = (parsing, "caption")
    draw = np.random.default_rng(0)
    objects = [draw.random((36, 2048), np.float32) for _ in range(IMAGES)]
    unions = [draw.random((25, 2048), np.float32) for _ in range(IMAGES)]
    columns = pack_regions(objects, unions, 36, 25)
    size = sum(data.nbytes for data in columns.values())
    number = iter(range(99))

    def write() -> None:
        Group("regions", "0" * 64, folder / f"w{next(number)}").write(0, range(IMAGES), columns)

    hashing = median(lambda: hashlib.sha256(bytes(size)).digest())
    writing = median(write)
    steps["write and flush a shard, without its hashes"] = ((writing - hashing) / IMAGES, "image")
    steps["hash"] = (hashing / IMAGES, "image")
    group = Group("regions", "0" * 64, folder / "w0")
    verifying = median(lambda: list(group.shard(0).problems(group.shard(0).record)))
    steps["verify"] = (verifying / IMAGES, "image")
    return steps


def arithmetic(steps: dict[str, tuple[float, str]]) -> list[str]:
    """Return rows of core-hours and terabytes for each size."""
    per_image = sum(s * (CAPTIONS if unit == "caption" else 1) for s, unit in steps.values())
    rows = []
    for name, images in SETS.items():
        hours = per_image * images / 3600
        data = images * (36 + 25) * 2048 * 2 / 1e12
        shards = -(-images // shard_rows(images))
        days = hours / CORES / 24
        rows.append(
            f"| {name} | {shards:,} | {hours:,.0f} | {hours / CORES:,.1f} h"
            f"{f' ({days:.0f} days)' if days > 2 else ''} | {data:,.2f} TB |"
        )
    return rows


def nothing(_job: object, number: int) -> int:
    """Do the work of a shard without work."""
    return number


def simulate(folder: Path, shards: int) -> list[tuple[str, float, float]]:
    """Return what took how long: name, wall seconds, processor seconds of this process."""
    store = make_sparse_store(folder, shards)
    rows: list[tuple[str, float, float]] = []

    def timed(name: str, action: Callable[[], object]) -> object:
        wall, used = time.perf_counter(), time.process_time()
        result = action()
        rows.append((name, time.perf_counter() - wall, time.process_time() - used))
        return result

    made = read_group(next(folder.glob("visual-*")))
    write_sidecars(made)
    group = Group(made.group, made.key, made.folder)
    ranges = [range(at * ROWS, (at + 1) * ROWS) for at in range(shards)]
    opened = timed("open the store", lambda: open_store(store))
    draw = np.random.default_rng(0).integers(0, shards * ROWS, 128)
    for what in ("the first 128 random rows", "128 more"):
        timed(f"gather {what}", lambda: opened.gather("boxes", draw[::-1]))  # type: ignore[attr-defined]
    timed("an idle build: is a group finished?", group.finished)
    assert timed("resume: find what is missing of a group", lambda: group.missing(ranges)) == []
    done = timed(
        "schedule shards without work, two processes",
        lambda: sum(1 for _ in fan_out(nothing, None, range(shards), Where(jobs=2))),
    )
    assert done == shards
    return rows


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=2_442, help="of 4,096 images each")
    shards = parser.parse_args().shards
    with tempfile.TemporaryDirectory() as name:
        steps = costs(Path(name))
        print("| step | processor time | per |\n|---|---:|---|")
        for step, (used, unit) in steps.items():
            print(f"| {step} | {1000 * used:.2f} ms | {unit} |")
        print(f"\n| images | shards | core-hours | with {CORES} cores | features |")
        print("|---|---:|---:|---:|---:|\n" + "\n".join(arithmetic(steps)))
        sys.stdout.flush()
        rows = simulate(Path(name) / "sparse", shards)
        print(
            f"\n| {shards:,} shards ({shards * ROWS:,} images) | time | processor time | a shard |"
        )
        print("|---|---:|---:|---:|")
        for what, wall, used in rows:
            print(f"| {what} | {wall:.2f} s | {used:.2f} s | {1000 * used / shards:.3f} ms |")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"\nPeak memory of this process: {memory:,.0f} MB.")
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
