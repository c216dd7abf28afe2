"""Evaluate runs: ``python -m models.evaluate RUN [RUN ...] --store STORE --split test``.

Several runs make an ensemble: the mean of their score matrices. A store that differs from the one
that a run was trained on is refused unless ``--allow-mismatch`` says that this is meant. Under
``torchrun`` every rank scores some of the images; the first one computes the numbers and writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.commands.program import exit_cleanly
from features.errors import MismatchError, MissingInput
from models.evaluation import results
from models.evaluation.metrics import Recall, bootstrap, chance, fold5, recall
from models.evaluation.rerank import rerank
from models.evaluation.results import Evaluation

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from features.store import Store
    from features.vocab.codebook import Codebook
    from models.compute.distributed import World

__all__ = ["Run", "evaluate", "load_run", "main"]


@dataclass(frozen=True)
class Run:
    """A trained model as its run folder keeps it.

    Attributes:
        folder: the run folder.   model: with the best weights, in evaluation mode.
        codebook: the ids it was trained with.   metadata: configuration, store keys, step, rsum.
    """

    folder: Path
    model: Any
    codebook: Codebook
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """The model's registered name."""
        return str(self.metadata["config"]["model"]["name"])


def load_run(
    folder: Path, store: Store, *, device: torch.device | str = "cpu", allow_mismatch: bool = False
) -> Run:
    """Load the best weights of a run for use with a store.

    Args:
        folder: run folder.   store: the store to be used.   device: where the model goes.
        allow_mismatch: accept a store with other data than the run was trained on.

    Raises:
        MissingInput: no weights in the folder.
        MismatchError: other data, or weights that do not fit.
    """
    from features.vocab.codebook import Codebook
    from models.registry import create
    from models.training import checkpoint
    from models.training.runs import CODEBOOK, check_keys, store_keys

    if not folder.is_dir():
        raise MissingInput(f"{folder}: there is no run folder. Train first, or check the path.")
    weights, metadata = checkpoint.load_best(folder / checkpoint.BEST)
    if not allow_mismatch:
        cure = "Use that store, or say --allow-mismatch if this is meant."
        check_keys(metadata["keys"], store_keys(store), str(folder), cure)
    codebook = Codebook.load(folder / CODEBOOK)
    options = metadata["options"]
    width = store.row_shape("object_features")[-1]
    if options.get("image_dim", width) != width:
        raise MismatchError(
            f"{folder} reads features of width {options['image_dim']}, {store.path} has {width}; "
            "evaluate it on a store with the features it was trained on."
        )
    model = create(metadata["config"]["model"]["name"], **options)
    checkpoint.load_weights(model, weights, str(folder))
    return Run(folder, model.to(device).eval(), codebook, metadata)


def evaluate(
    sims: npt.NDArray[Any],
    caption_to_image: npt.NDArray[np.int64],
    name: str,
    *,
    folds: bool = False,
    reranked: bool = False,
    samples: int = 0,
) -> Evaluation:
    """Return the numbers of a score matrix.

    Args:
        sims: (n_images, n_captions).   caption_to_image: (n_captions,).   name: of the row.
        folds: mean over five folds of images instead of the whole.
        reranked: RACG's re-ranking of image -> text; text -> image stays.
        samples: bootstrap draws for the intervals; 0: none.
    """
    measure = fold5 if folds else recall
    found = measure(sims, caption_to_image)
    if reranked:
        again = _reranked_by_fold(sims, caption_to_image) if folds else rerank(sims)
        found = _joined(measure(again, caption_to_image), found)
        name += " + re-ranking"
    spread = bootstrap(found, caption_to_image, samples) if samples else {}
    return Evaluation(name, found, spread)


def _reranked_by_fold(
    sims: npt.NDArray[Any], caption_to_image: npt.NDArray[np.int64], folds: int = 5
) -> npt.NDArray[np.float32]:
    """Re-rank inside each fold: its captions look back at its images only."""
    again = np.zeros(sims.shape, np.float32)
    size = len(sims) // folds
    for start in range(0, size * folds, size):
        mine = np.flatnonzero((caption_to_image >= start) & (caption_to_image < start + size))
        again[start : start + size, mine] = rerank(sims[start : start + size][:, mine])
    return again


def _joined(i2t: Recall, t2i: Recall) -> Recall:
    """Take image -> text from one result and text -> image from another."""
    values = {name: (i2t if name.startswith("i2t") else t2i)[name] for name in t2i}
    recalls = [values[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    values |= {"rsum": sum(recalls), "mr": sum(recalls) / 6}
    return Recall(values, i2t.i2t_ranks, t2i.t2i_ranks, i2t.i2t_images)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_intermixed_args(arguments)
    from models.compute.device import memory_errors, pick_device
    from models.compute.distributed import join_world

    with join_world(options.device) as world:
        device = pick_device(options.device, world)
        with memory_errors(device, "Use a device with more memory, or --device cpu."):
            return _evaluate(options, world, device)


def _evaluate(options: argparse.Namespace, world: World, device: torch.device) -> int:
    from features.store import open_store
    from models.evaluation.score_shares import score_split
    from models.training.runs import resolve_split, store_keys

    store = open_store(options.store)
    resolve_split(store, options.split)
    owner = store.caption_image_rows(options.split)
    matrices: list[npt.NDArray[np.float32]] = []
    runs: list[dict[str, Any]] = []
    for folder in options.runs:
        run = load_run(folder, store, device=device, allow_mismatch=options.allow_mismatch)
        how: dict[str, Any] = {"device": device, "precision": options.precision}
        sims = score_split(run.model, store, options.split, run.codebook, world, **how)
        if sims is not None:
            matrices.append(sims.numpy())
            runs.append({"folder": str(folder), **run.metadata})
    if not world.first:
        return 0
    names = [str(folder) for folder in options.runs]
    if len(matrices) > 1:
        matrices.append(np.mean(matrices, axis=0))
        names.append(f"ensemble of {len(names)}")
    rows = [
        evaluate(
            matrix, owner, name, folds=options.fold5, reranked=again, samples=options.bootstrap
        )
        for matrix, name in zip(matrices, names, strict=True)
        for again in ((False, True) if options.rerank else (False,))
    ]
    by_chance = chance(owner, len(matrices[0]), 5 if options.fold5 else 1)
    about = {
        "split": options.split,
        "images": len(matrices[0]),
        "captions": len(owner),
        "fold5": options.fold5,
        "precision": options.precision,
        "store": store_keys(store),
        "chance": by_chance,
    }
    if options.json:
        results.write_json(Path(options.json), results.document(about, runs, rows))
    stem = results.file_stem(options.split) + ("-fold5" if options.fold5 else "")
    each = 1 + options.rerank  # rows per run
    for at, (folder, run_about) in enumerate(zip(options.runs, runs, strict=True)):
        own = rows[at * each : (at + 1) * each]
        results.write_json(
            folder / f"results-{stem}.json", results.document(about, [run_about], own)
        )
        results.write_queries(
            folder / f"queries-{stem}.parquet", store, options.split, matrices[at], own[0]
        )
    results.print_table(rows, by_chance, options.split, len(matrices[0]), len(owner), options.fold5)
    return 0


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError(f"{number} is negative")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate",
        description="Recall of trained runs on a split of a store; several runs = ensemble.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--store", required=True, help="store folder or manifest")
    parser.add_argument("--split", default="test", help="split, or a part as val[-200:]")
    parser.add_argument("--fold5", action="store_true", help="mean of five folds (COCO 1K)")
    parser.add_argument("--rerank", action="store_true", help="also with RACG's re-ranking")
    parser.add_argument("--json", metavar="OUT", help="write all numbers as JSON")
    parser.add_argument(
        "--allow-mismatch", action="store_true", help="accept a store of other data"
    )
    parser.add_argument(
        "--bootstrap", type=_count, default=1000, metavar="N", help="draws for intervals; 0: none"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32", "bf16"),
        default="float32",
        help="of codes and scores; lower ones move scores a little (docs/scaling.md)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
