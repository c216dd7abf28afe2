"""Export embeddings: ``python -m models.export RUN --store STORE --split test --out DIR``.

For models whose score is the dot product of two unit vectors (VSE, HREM, CLIP). Writes
``images.npy`` and ``captions.npy`` (float32, one row per item), ``images.txt`` and
``captions.txt`` (one id per line) and, with ``--faiss``, ``images.faiss`` and
``captions.faiss`` (flat inner-product indexes).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from features.commands import Program, next_steps
from features.errors import MissingDependency, UsageError, WriteError
from features.format import replacing
from features.store import open_store
from models.registry import reads_unions
from models.training import Run, check_split, load_run

if TYPE_CHECKING:
    import torch

    from features.store import Store

__all__ = ["app", "embed", "export", "write_index"]

Floats = npt.NDArray[np.float32]

app = Program("python -m models.export", plugins=True)


def embed(run: Run, store: Store, split: str, *, device: torch.device) -> tuple[Floats, Floats]:
    """Return the embeddings of the images and captions of a split, (n, D) each, in store order.

    Raises: UsageError: the model does not have one vector per item.
    """
    import torch  # heavy

    def stack(batches: Iterable[Any], encode: Any) -> Floats:
        parts = []
        for batch in batches:
            code = encode(batch.to(device))
            if len(code) != 1 or code[0].dim() != 2:
                raise UsageError(
                    f"{run.name} compares parts of images and captions, so it has no embeddings to "
                    "export. Train vse or hrem for an index."
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
        WriteError: the file cannot be written.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency.of("faiss", "--faiss", "pip install faiss-cpu") from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    with replacing(path) as partial:
        try:
            faiss.write_index(index, str(partial))
        except RuntimeError as error:  # FAISS raises no other
            message = " ".join(str(error).split())[-120:]
            raise WriteError(f"{path}: cannot be written ({message}). Free some space.") from error


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    store: Annotated[str, typer.Option(metavar="STORE", help="Store folder or manifest.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")],
    split: Annotated[str, typer.Option(help="A split, or a part of one: val[-200:].")] = "test",
    faiss: Annotated[bool, typer.Option("--faiss", help="Also write FAISS indexes.")] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Accept a store with other data.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Write the embeddings of the images and captions of a split."""
    # load torch, which --help does not need
    from models.compute import World, memory_errors, pick_device

    opened = open_store(store)
    check_split(opened, split)
    chosen = pick_device(device, World())
    trained = load_run(run, opened, device=chosen, allow_mismatch=allow_mismatch)
    with memory_errors(chosen, "Use a device with more memory, or --device cpu."):
        images, captions = embed(trained, opened, split, device=chosen)
    image_ids = opened.column("image_id")[opened.image_rows(split)]
    caption_ids = opened.column("caption_id")[opened.caption_rows(split)]
    for name, ids, vectors in (("images", image_ids, images), ("captions", caption_ids, captions)):
        with replacing(out / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, vectors)
        with replacing(out / f"{name}.txt") as partial:
            partial.write_text("\n".join(ids) + "\n", encoding="utf-8")
        if faiss:
            write_index(out / f"{name}.faiss", vectors)
    typer.echo(
        f"{out}: {len(images):,} images and {len(captions):,} captions, "
        f"{images.shape[1]} numbers each"
    )
    text = next(iter(opened.captions["text"]), "")
    next_steps(["search", store, run, text, "--split", split])


if __name__ == "__main__":
    app.run()
