"""Captions of large data sets are planned in a memory that hardly grows with their number."""

import csv
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.convert.captions import collection
from workflows.build import BuildOptions
from workflows.build.plan import Plan


def rows_of(images, scattered):
    captions = [(image, n) for image in range(images) for n in range(5)]
    for image, n in sorted(captions, key=lambda one: one[::-1]) if scattered else captions:
        yield f"{image:07}.jpg", f"A dog and {image} cats on a red bench near the water, {n}."


def write(path, rows):
    names = ("file_name", "text")
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, r, strict=True))) + "\n" for r in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *rows])
    else:
        columns = zip(*rows, strict=True)
        pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path)


def peak_of_a_plan(path, folder):
    """Return the most bytes that Python and numpy held at a time."""
    options = BuildOptions(captions=str(path), store_dir=str(folder), detector="none")
    tracemalloc.start()
    try:
        plan = Plan(options)
        assert plan.built_index.key
        assert plan.caption_set.n_captions == 5 * len(plan.entries)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("suffix", "scattered", "bytes_per_row"),
    [(".jsonl", False, 16), (".csv", False, 16), (".parquet", False, 16), (".jsonl", True, 64)],
)
def test_a_row_costs_a_few_bytes_and_no_caption(
    tmp_path, monkeypatch, suffix, scattered, bytes_per_row
):
    monkeypatch.setattr(collection, "IN_MEMORY", 50_000)
    peaks = []
    for images in (500, 2_500):
        path = tmp_path / f"{images}{suffix}"
        write(path, list(rows_of(images, scattered)))
        peaks.append(peak_of_a_plan(path, tmp_path / f"{images}"))
    assert (peaks[1] - peaks[0]) / (5 * 2_000) < bytes_per_row
