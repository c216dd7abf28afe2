"""How fast the store is, as ratios in one run: ``python -m benchmarks.store [--images 512]``.

Prints Markdown tables: gathering 128 random images against ``np.take`` from RAM; whole training
batches against the loaders that published code uses, with the default and a tuned malloc; cold
reads; anonymous memory; time to open 32 and 2,442 shards. All contestants take turns in one
process, and the median over the rounds of the processor time of all its threads counts, so a busy
machine changes little and no second core helps; cold reads and opening are wall-clock time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import store_peers as peers
from benchmarks.sparse_store import make_sparse_store
from features import Caption, Detections, ImageEntry, TextGraph, build_store, open_store
from features.reading import aligned_empty

K, D, BATCH = 36, 2048, 128
STEPS = 16  # batches between two looks at the clock
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
WORDS = [f"word{number}" for number in range(2000)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=512)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--part", choices=["gather", "batches", "memory"])
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    if chosen.part:
        part = {"gather": gather_times, "batches": batch_times, "memory": memory_use}[chosen.part]
        print(json.dumps(part(chosen.folder, chosen.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), chosen.images, chosen.rounds)


def report(folder: Path, images: int, rounds: int) -> None:
    build(folder, images)
    gather = run_part(folder, "gather", rounds)
    base = gather["np.take from RAM"]
    print(f"\nGather {BATCH} random images of {K} x {D}, {images} images, warm\n")
    print("| reader | time / np.take | images per second |\n| --- | --- | --- |")
    for name, spent in gather.items():
        print(f"| {name} | {spent / base:.2f} | {BATCH / spent:,.0f} |")
    if missing := peers.missing():
        print(f"\nLeft out, not installed: {', '.join(missing)}.")
    default = run_part(folder, "batches", rounds)
    tuned = run_part(folder, "batches", rounds, TUNED)
    print(f"\nWhole training batches of {BATCH} captions: speed relative to the SCAN loader\n")
    print("| loader | default malloc | captions per second | tuned malloc |")
    print("| --- | --- | --- | --- |")
    for name, spent in default.items():
        ratios = [times["SCAN: array in RAM"] / times[name] for times in (default, tuned)]
        print(f"| {name} | {ratios[0]:.1f} | {BATCH / spent:,.0f} | {ratios[1]:.1f} |")
    cold(folder)
    memory = run_part(folder, "memory", rounds)
    print("\nAnonymous memory\n\n| what | MB |\n| --- | --- |")
    for name, size in memory.items():
        print(f"| {name} | {size / 1e6:,.1f} |")
    opening(folder)


def run_part(folder: Path, part: str, rounds: int, env: dict[str, str] | None = None) -> Any:
    command = [sys.executable, "-m", "benchmarks.store", "--part", part, "--folder", str(folder)]
    given = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    command += ["--rounds", str(rounds)]
    return json.loads(subprocess.run(command, env=given, check=True, capture_output=True).stdout)


def features_of(images: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.maximum(random.standard_normal((images, K, D), np.float32), 0)


def build(folder: Path, images: int) -> None:
    """Write the same data as two stores, an LMDB as MMF has it, and .npy files as SCAN has them."""
    random = np.random.default_rng(1)
    data = features_of(images)
    entries, visual, texts = [], [], []
    union = np.zeros((1, D), np.float32)
    for row in range(images):
        entries.append(
            ImageEntry(
                str(row),
                f"{row}.jpg",
                "train",
                tuple(Caption(f"{row}#{at}", "a caption") for at in range(5)),
            )
        )
        boxes = np.sort(random.random((K, 2, 2)), axis=1).reshape(K, 4).astype(np.float32) * 100
        labels = tuple(WORDS[at] for at in random.integers(0, 100, K))
        scores = np.ones(K, np.float32)
        edge = ((0, "on", 1),)
        visual.append(Detections(boxes, labels, scores, (100, 100), relations=edge))
        texts += [random_caption(random) for _ in range(5)]
    for dtype in ("float32", "float16"):
        build_store(
            folder / dtype,
            "bench",
            entries,
            visual=visual,
            regions=[(part, union) for part in data],
            texts=texts,
            max_objects=K,
            max_relations=1,
            dtype=dtype,
        )
    np.save(folder / "ims.npy", data)
    np.save(folder / "boxes.npy", np.stack([found.boxes for found in visual]))
    ids = [[WORDS.index(token) + 4 for token in graph.tokens] for graph in texts]
    (folder / "captions.json").write_text(json.dumps(ids))
    peers.write_lmdb(folder, data, np.stack([found.boxes for found in visual]))


def random_caption(random: np.random.Generator) -> TextGraph:
    n = int(random.integers(8, 18))
    tokens = tuple(WORDS[at] for at in random.integers(0, len(WORDS), n))
    heads = tuple(int(at) for at in random.integers(0, n, n))
    names, relation = ("NN",) * n, ((0, "on", 1),)
    return TextGraph(
        "a caption", tokens, tokens, names, names, heads, ("dep",) * n, ("object",) * n,
        objects=tokens[:2], object_positions=((0,), (1,)), relations=relation,
        relation_positions=((),),
    )  # fmt: skip


def alternate(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of processor time of each case; the cases take turns."""
    spent: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            cases[name]()
            spent[name].append(time.process_time() - began)
    return {name: float(np.median(values[2:])) for name, values in spent.items()}


def gather_times(folder: Path, rounds: int) -> dict[str, float]:
    import h5py
    import torch

    data = np.load(folder / "ims.npy")
    random = np.random.default_rng(2)
    out = aligned_empty((BATCH, K, D), np.float32)
    half = aligned_empty((BATCH, K, D), np.float16)
    wide = {name: open_store(folder / "float32", backend=name) for name in ("mmap", "pread")}
    narrow = open_store(folder / "float16", backend="mmap")
    path = next((folder / "float32").glob("regions-*")) / "00000.h5"
    dataset = h5py.File(path, "r")["object_features"]
    inside = len(dataset)

    def rows() -> np.ndarray:
        return random.integers(0, len(data), BATCH)

    def by_h5py() -> None:
        for place, row in enumerate(rows() % inside):
            out[place] = dataset[row]

    for store in (*wide.values(), narrow):  # every page has been touched once, as in epoch 2
        store.gather("object_features", np.arange(len(data)))
    cases: dict[str, Callable[[], object]] = {
        "np.take from RAM": lambda: np.take(data, rows(), axis=0, out=out, mode="clip"),
        "store float32": lambda: wide["mmap"].gather("object_features", rows(), out=out),
        "store float32, pread": lambda: wide["pread"].gather("object_features", rows(), out=out),
        "store float16": lambda: narrow.gather("object_features", rows(), out=half),
        "store float16 -> float32": lambda: narrow.gather("object_features", rows(), out=out),
        "h5py, a read per row": by_h5py,
        "SCAN: torch.Tensor(A[i]), torch.stack": lambda: torch.stack(
            [torch.Tensor(data[row]) for row in rows()]
        ),
    }
    cases |= peers.zarr_case(folder, data, out, rows) | peers.webdataset_case(folder, data, out)
    return alternate(cases, rounds)


def endless(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    return itertools.chain.from_iterable(make() for _ in itertools.count())


def batch_times(folder: Path, rounds: int) -> dict[str, float]:
    import h5py
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    data, boxes = np.load(folder / "ims.npy"), np.load(folder / "boxes.npy")
    captions = json.loads((folder / "captions.json").read_text())
    h5 = [
        h5py.File(path, "r")["object_features"]
        for path in sorted(next((folder / "float32").glob("regions-*")).glob("*.h5"))
    ]
    env = None
    if (folder / "mmf.lmdb").exists():
        import lmdb

        env = lmdb.open(str(folder / "mmf.lmdb"), readonly=True, lock=False)

    class Pairs(Dataset):  # type: ignore[type-arg]
        """One caption and its image per item, as SCAN, GSMN and MMF read them."""

        def __init__(self, read: Callable[[int], tuple[Any, Any]]):
            self.read = read

        def __len__(self) -> int:
            return len(captions)

        def __getitem__(self, at: int) -> tuple[Any, ...]:
            image, box = self.read(at // 5)
            return torch.Tensor(image), torch.Tensor(box), torch.Tensor(captions[at])

    def collate(items: list[tuple[Any, ...]]) -> tuple[Any, ...]:
        images, shapes, words = zip(*items, strict=True)
        padded = torch.zeros(len(words), max(map(len, words))).long()
        for row, word in enumerate(words):
            padded[row, : len(word)] = word
        return torch.stack(images), torch.stack(shapes), padded

    def from_lmdb(row: int) -> tuple[Any, Any]:
        assert env is not None
        with env.begin() as txn:
            item = pickle.loads(txn.get(str(row).encode()))
        return item["features"], item["bbox"]

    def loader(read: Callable[[int], tuple[Any, Any]]) -> Iterator[Any]:
        many = DataLoader(
            Pairs(read), batch_size=BATCH, shuffle=True, collate_fn=collate, drop_last=True
        )
        return endless(lambda: iter(many))

    def ours(stored: str, dtype: str, unions: bool = False) -> Iterator[Any]:
        """Iterate over the last batches of each epoch: what the thread makes, it makes in time."""
        store = open_store(folder / stored)
        batches = store.loader(
            "train", batch_size=BATCH, dtype=dtype, drop_last=True, unions=unions
        )
        for epoch in itertools.count():
            batches.set_epoch(epoch, batches.steps - STEPS)
            yield from batches

    def copies(kind: type[np.floating[Any]]) -> Iterator[Any]:
        """Copy as many bytes as the features of a batch have, into memory used in turn."""
        source = data.astype(kind)
        outs = [aligned_empty((BATCH, K, D), kind) for _ in range(2)]
        for out, start in zip(
            itertools.cycle(outs), itertools.cycle(range(0, len(data) - BATCH, 7)), strict=False
        ):
            np.copyto(out, source[start : start + BATCH])
            yield out

    sources = {
        "SCAN: array in RAM": loader(lambda row: (data[row], boxes[row])),
        "h5py, d[i] per image": loader(lambda row: (h5[row // 64][row % 64], boxes[row])),
        "store float32": ours("float32", "float32"),
        "copy of the same bytes, nothing else": copies(np.float32),
        "store float16 -> float32": ours("float16", "float32"),
        "store float16": ours("float16", "float16"),
        "store float32, a union box too": ours("float32", "float32", unions=True),
        "copy of the same bytes as float16": copies(np.float16),
    }
    if env is not None:
        sources["MMF: LMDB"] = loader(from_lmdb)
    kept: dict[str, Any] = {}

    def step(name: str) -> None:
        for _ in range(STEPS):
            kept[name] = next(sources[name])  # as a training loop does: one batch is held

    cases = {name: (lambda name=name: step(name)) for name in sources}
    return {name: spent / STEPS for name, spent in alternate(cases, rounds).items()}


def forget(folder: Path) -> None:
    """Drop the files of a store from the page cache."""
    for path in folder.rglob("*.h5"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def cold(folder: Path) -> None:
    print("\nCold: an epoch in random order after the page cache was dropped\n")
    print("| reader | images per second | of a sequential scan |\n| --- | --- | --- |")
    images = len(open_store(folder / "float16"))
    scans, spent = [], {name: [] for name in ("mmap", "pread")}
    for turn, name in itertools.product(range(3), spent):
        forget(folder / "float16")
        began = time.perf_counter()
        for path in sorted(next((folder / "float16").glob("regions-*")).glob("*.h5")):
            path.read_bytes()
        scans.append(time.perf_counter() - began)
        forget(folder / "float16")
        store = open_store(folder / "float16", backend=name)
        order = np.random.default_rng(turn).permutation(images)
        out = aligned_empty((BATCH, K, D), np.float16)
        began = time.perf_counter()
        for at in range(0, images, BATCH):
            rows = order[at : at + BATCH]
            store.prefetch("object_features", order[at : at + 3 * BATCH])
            store.gather("object_features", rows, out=out[: len(rows)])
        spent[name].append(time.perf_counter() - began)
        del store
        gc.collect()  # pages that are mapped cannot be dropped
    scan = float(np.median(scans))
    print(f"| sequential scan | {images / scan:,.0f} | 1.00 |")
    for name, times in spent.items():
        median = float(np.median(times))
        print(f"| store float16, {name} | {images / median:,.0f} | {scan / median:.2f} |")


def anonymous() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])


def memory_use(folder: Path, rounds: int) -> dict[str, int]:
    import torch

    warm = torch.ones(1) + 1
    store = open_store(folder / "float32")
    next(iter(store.loader("train", batch_size=2, prefetch=0)))  # imports and tables of torch
    del store, warm
    gc.collect()
    before = anonymous()
    batches = open_store(folder / "float32").loader("train", batch_size=BATCH)
    for _ in range(max(rounds // 5, 1)):
        for _images, _captions in batches:
            pass
    after = anonymous()
    scan = np.load(folder / "ims.npy")
    return {
        "a loader, all in all": after - before,
        "of it the ring": batches.pool.nbytes,
        "np.load of the same features, per job": scan.nbytes,
    }


def opening(folder: Path) -> None:
    """Time to the first row of each large column, as a loader opens them, and to whole columns."""
    names = ("object_features", "union_features", "boxes")
    print("\nOpen a store and map its region features, union features and boxes\n")
    print("| shards of 4,096 images | ms to the first rows, best of 7 | of processor time ", end="")
    print("| regions alone | whole columns, all headers checked |\n" + "| --- " * 5 + "|")
    for shards in (32, 2442):
        path = make_sparse_store(folder / f"sparse{shards}", shards)
        wall, busy, first, whole = [], [], [], []
        for _ in range(7):
            began, used = time.perf_counter(), time.process_time()
            store = open_store(path, backend="mmap")
            for name in names:
                store.gather(name, [0])
                if name == "object_features":
                    first.append(time.perf_counter() - began)
            wall.append(time.perf_counter() - began)
            busy.append(time.process_time() - used)
            began = time.perf_counter()
            store = open_store(path, backend="mmap")
            for name in names:
                store.column(name)
            whole.append(time.perf_counter() - began)
            del store
        shown = " | ".join(f"{min(times) * 1e3:.1f}" for times in (wall, busy, first, whole))
        print(f"| {shards:,} | {shown} |")


if __name__ == "__main__":
    main()
