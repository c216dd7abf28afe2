"""Write embeddings with their ids and a FAISS index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from features.convert.safe.pickles import load_array
from features.convert.writers.outputs import Outputs, id_lines
from features.errors import FeatureOverflow, InputError, MissingDependency, UsageError, WriteError

if TYPE_CHECKING:
    from features.store import Store

_BLOCK = 65_536


def export_faiss(
    store: Store,
    out: Outputs,
    splits: list[str] | None,
    *,
    embeddings: Path | str | None = None,
    of: str = "images",
) -> list[str]:
    """Write ``embeddings.npy``, ``ids.txt`` and ``index.faiss`` (inner product); return notes.

    Row i of all three is image (or caption) i of the splits, in row order. Vectors are written as
    they are: normalize them first if you want cosine similarity.

    Args:
        embeddings: .npy (n, D), rows in the order of the splits.
        of: ``images`` or ``captions``.

    Raises:
        MissingDependency: faiss is not installed.
        InputError: not one row per image or caption of the splits.
        FeatureOverflow: a value that is not finite.
        UsageError: an id that is not one line.
        WriteError: the index cannot be written.
    """
    if embeddings is None or of not in ("images", "captions"):
        raise UsageError("faiss needs --embeddings FILE.npy and --of images or captions.")
    try:
        import faiss  # optional
    except ImportError as error:
        raise MissingDependency.of("faiss", "The index", "pip install faiss-cpu") from error
    vectors = load_array(embeddings)
    names = splits or list(store.splits)
    rows = [store.image_rows(s) if of == "images" else store.caption_rows(s) for s in names]
    if splits is None:
        rows = [np.sort(np.concatenate(rows))]
    column = store.group("index").text("image_id" if of == "images" else "caption_id")
    ids = [column[row] for part in rows for row in part.tolist()]
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.dtype.kind != "f":
        raise InputError(
            f"{embeddings}: {vectors.dtype} {vectors.shape}, expected float ({len(ids)}, D): one "
            f"row for each of the {of} of {', '.join(names)}."
        )
    lines = id_lines(ids)
    array_path, ids_path = out.path("embeddings.npy"), out.path("ids.txt")
    index_path = out.path("index.faiss")
    index = faiss.IndexFlatIP(vectors.shape[1])
    with array_path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": vectors.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for at in range(0, len(vectors), _BLOCK):
            block = np.ascontiguousarray(vectors[at : at + _BLOCK], dtype=np.float32)
            bad = np.flatnonzero(~np.isfinite(block).all(1))
            if bad.size:
                row = at + int(bad[0])
                raise FeatureOverflow(f"{embeddings}: row {row} ({ids[row]}) is not finite.")
            index.add(block)
            file.write(block.tobytes())
    ids_path.write_text(lines, encoding="utf-8")
    try:
        faiss.write_index(index, str(index_path))
    except RuntimeError as error:  # faiss raises no other; the system's reason is in the text
        reason = " ".join(str(error).rpartition("(")[2].rstrip(")\n ").split())
        raise WriteError(
            f"{out.target / 'index.faiss'}: cannot be written ({reason}). Is the disk full? "
            "Free some space and run again. The earlier files are unchanged."
        ) from error
    return []
