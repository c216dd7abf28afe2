"""Peers of the store that are packages of their own: LMDB, zarr, webdataset, where installed."""

from __future__ import annotations

import io
import itertools
import pickle
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Case = dict[str, Callable[[], object]]


def missing() -> list[str]:
    """Return the peers that are not installed."""
    return [name for name in ("lmdb", "zarr", "webdataset") if find_spec(name) is None]


def write_lmdb(folder: Path, data: np.ndarray, boxes: np.ndarray) -> None:
    """Write an LMDB of pickled dictionaries, as MMF does."""
    if find_spec("lmdb") is None:
        return
    import lmdb

    with (
        lmdb.open(str(folder / "mmf.lmdb"), map_size=4 * data.nbytes) as env,
        env.begin(write=True) as txn,
    ):
        for row, (part, box) in enumerate(zip(data, boxes, strict=True)):
            item = {"features": part, "bbox": box, "image_height": 100, "image_width": 100}
            txn.put(str(row).encode(), pickle.dumps(item))


def zarr_case(
    folder: Path, data: np.ndarray, out: np.ndarray, rows: Callable[[], np.ndarray]
) -> Case:
    """Read rows of an uncompressed zarr array, one chunk an image in shards of 64."""
    if find_spec("zarr") is None:
        return {}
    import zarr

    array = zarr.create_array(
        str(folder / "features.zarr"),
        shape=data.shape,
        dtype=data.dtype,
        chunks=(1, *data.shape[1:]),
        shards=(64, *data.shape[1:]),
        compressors=None,
    )
    array[:] = data

    def read() -> None:
        for place, row in enumerate(rows().tolist()):
            out[place] = array[row]

    return {"zarr, a chunk per image": read}


def webdataset_case(folder: Path, data: np.ndarray, out: np.ndarray) -> Case:
    """Read the next images of a tar file in order: webdataset has no random access."""
    if find_spec("webdataset") is None:
        return {}
    import webdataset

    path = folder / "features.tar"
    with tarfile.open(path, "w") as tar:
        for row, part in enumerate(data):
            info = tarfile.TarInfo(f"{row:06d}.bin")
            info.size = part.nbytes
            tar.addfile(info, io.BytesIO(part.tobytes()))
    samples = itertools.chain.from_iterable(
        iter(webdataset.WebDataset(str(path), shardshuffle=False)) for _ in itertools.count()
    )

    def read() -> None:
        for place in range(len(out)):
            out[place] = np.frombuffer(next(samples)["bin"], np.float32).reshape(out[0].shape)

    return {"webdataset, a tar in order": read}
