"""Measure a score matrix: recall, optionally with folds, re-ranking and bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.evaluation.metrics import Recall, bootstrap, fold5, recall
from models.evaluation.positives import Found
from models.evaluation.rerank import TOP, rerank, rerank_folds


@dataclass(frozen=True)
class Evaluation:
    """A row of the results.

    Attributes:
        name: a run folder or ``ensemble of N``, perhaps with ``+ re-ranking``.
        recall: its numbers.   intervals: bootstrap intervals by name; empty without bootstrap.
        positives: numbers of sets of positives, by the name of the set.
    """

    name: str
    recall: Recall
    intervals: dict[str, tuple[float, float]]
    positives: dict[str, Found] = field(default_factory=dict)


def evaluate_scores(
    sims: npt.NDArray[Any],
    caption_to_image: npt.NDArray[np.int64],
    name: str,
    *,
    folds: bool = False,
    reranked: bool = False,
    top: int = TOP,
    samples: int = 0,
) -> Evaluation:
    """Return the numbers of a score matrix.

    Args:
        sims: (n_images, n_captions).   caption_to_image: (n_captions,).   name: of the row.
        folds: mean over five folds of images.
        reranked: apply RACG's re-ranking to image -> text; text -> image stays the same.
        top: captions per image to re-rank.
        samples: bootstrap samples for the intervals; 0: no intervals.
    """
    numbers = fold5 if folds else recall
    found = numbers(sims, caption_to_image)
    if reranked:
        again = rerank_folds(sims, caption_to_image, top) if folds else rerank(sims, top)
        found = _joined(numbers(again, caption_to_image), found)
        name += " + re-ranking"
    return Evaluation(name, found, bootstrap(found, caption_to_image, samples) if samples else {})


def _joined(i2t: Recall, t2i: Recall) -> Recall:
    """Take image -> text from one result and text -> image from another."""
    values = {name: (i2t if name.startswith("i2t") else t2i)[name] for name in t2i}
    recalls = [values[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    values |= {"rsum": sum(recalls), "mr": sum(recalls) / 6}
    return Recall(values, i2t.i2t_ranks, t2i.t2i_ranks, i2t.i2t_images)
