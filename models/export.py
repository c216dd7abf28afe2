"""Embeddings of a split: ``python -m models.export RUN --store STORE --split test --out DIR``.

For models whose score is the dot product of two unit vectors (VSE, HREM, CLIP). Writes
``images.npy`` and ``captions.npy`` (float32, one row per item), ``images.txt`` and
``captions.txt`` (ids, line by line) and, with ``--faiss``, ``images.faiss`` and
``captions.faiss`` (flat inner product).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.commands.program import exit_cleanly
from features.errors import MissingDependency, UsageError, WriteError
from models.evaluate import Run, load_run
from models.registry import reads_unions

if TYPE_CHECKING:
    import torch

    from features.store import Store

__all__ = ["embed", "main", "write_index"]

Floats = npt.NDArray[np.float32]


def embed(run: Run, store: Store, split: str, *, device: torch.device) -> tuple[Floats, Floats]:
    """Return the embeddings of a split's images and captions, (n, D) each, in store order.

    Raises: UsageError: the model has no single vector per item.
    """
    import torch

    def stack(batches: Iterable[Any], encode: Any) -> Floats:
        parts = []
        for batch in batches:
            code = encode(batch.to(device))
            if len(code) != 1 or code[0].dim() != 2:
                raise UsageError(
                    f"{run.name} compares parts of images and captions, so it has no embedding to "
                    "export; train vse or hrem for an index."
                )
            parts.append(code[0].float().cpu())
        found: Floats = torch.cat(parts).numpy()
        return found

    with torch.inference_mode():
        batches = store.image_batches(split, 128, run.codebook, unions=reads_unions(run.model))
        images = stack(batches, run.model.encode_images)
        captions = stack(store.caption_batches(split, 128, run.codebook), run.model.encode_captions)
    return images, captions


def write_index(path: Path, vectors: Floats) -> None:
    """Write a flat inner-product index.

    Raises:
        MissingDependency: FAISS is not installed.
        WriteError: not written.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency.of("faiss", "--faiss", "pip install faiss-cpu") from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # whatever goes wrong, FAISS raises this
        said = " ".join(str(error).split())[-120:]
        raise WriteError(f"{path}: cannot be written ({said}). Free some space.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    from features.store import open_store
    from models.compute.device import memory_errors, pick_device
    from models.compute.distributed import World
    from models.training.runs import resolve_split

    store = open_store(options.store)
    resolve_split(store, options.split)
    device = pick_device(options.device, World())
    run = load_run(options.run, store, device=device, allow_mismatch=options.allow_mismatch)
    with memory_errors(device, "Use a device with more memory, or --device cpu."):
        images, captions = embed(run, store, options.split, device=device)
    ids = {
        "images": store.column("image_id")[store.image_rows(options.split)],
        "captions": store.column("caption_id")[store.caption_rows(options.split)],
    }
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, vectors in (("images", images), ("captions", captions)):
            np.save(options.out / f"{name}.npy", vectors)
            (options.out / f"{name}.txt").write_text("\n".join(ids[name]) + "\n", encoding="utf-8")
            if options.faiss:
                write_index(options.out / f"{name}.faiss", vectors)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"{options.out}: cannot be written ({error.strerror}).") from error
    sys.stdout.write(
        f"{options.out}: {len(images):,} images and {len(captions):,} captions, "
        f"{images.shape[1]} numbers each\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.export", description="Write the embeddings of a split."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--store", required=True, help="store folder or manifest")
    parser.add_argument("--split", default="test", help="split, or a part as val[-200:]")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--faiss", action="store_true", help="write FAISS indexes, too")
    parser.add_argument("--allow-mismatch", action="store_true", help="accept other data")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
