"""Which regions the words of a caption go with, as the page of an image shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from features.records import TextGraph
from models.registry import WordRegions

__all__ = ["Row", "rows_of", "shade"]

NAMED = 3  # regions that are named beside a word
EVEN = 1.2  # attention whose largest weight is below so many times the mean is spread evenly


@dataclass(frozen=True)
class Row:
    """A word, or an end of a triplet.

    Attributes:
        name: the word.   weights: one per region, as in the model.
        shares: by how much they are above the mean, from 0 to 1, for the strength of a colour; all
            are small where attention is spread evenly.
        best: the regions with the largest weights, best first; none where all are alike.
        content: whether it is an object, attribute or relation of the caption.
    """

    name: str
    weights: Sequence[float]
    shares: Sequence[float]
    best: Sequence[int]
    content: bool


def shade(share: float) -> str:
    """Return the grey by which a region of a share from 0 to 1 is multiplied.

    >>> shade(0), shade(1)
    ('rgb(77,77,77)', 'rgb(255,255,255)')
    """
    level = int(255 * (0.3 + 0.7 * share**1.5) + 0.5)  # as JavaScript rounds
    return f"rgb({level},{level},{level})"


def rows_of(graph: TextGraph, found: WordRegions, regions: int) -> list[Row]:
    """Return the rows of a map that stand for words of the caption.

    Args:
        graph: the caption.   found: of a model.   regions: how many the image has.
    """
    weights = found.weights.float().numpy()[:, :regions]
    if found.rows == "words":  # the first one is <start>
        names = list(graph.tokens)
        weights = weights[1 : 1 + len(names)]
        content = [role != "other" for role in graph.roles] or [True] * len(names)
    else:
        names = list(chain.from_iterable((s, o) for s, _, o in graph.triplets))
        weights = weights[: len(names)]
        content = [True] * len(names)
    rows: dict[tuple[str, bytes], Row] = {}
    for name, values, matters in zip(names, weights, content, strict=False):
        if not any(sign.isalnum() for sign in name):
            continue
        top = float(values.max(initial=0.0))
        mean = float(values.mean()) if len(values) else 0.0
        above = np.maximum(values - mean, 0.0)
        shares = above / max(top - mean, 1e-9)
        if found.what != "similarity":
            shares = shares * min((top - mean) / max(mean, 1e-9), 1.0)
        clear = top > 0 and (found.what == "similarity" or top > EVEN * mean)
        best = np.argsort(-values, kind="stable")[:NAMED].tolist() if clear else []
        row = Row(name, values.tolist(), shares.tolist(), best, matters)
        rows.setdefault((name, values.tobytes()), row)  # an end of several triplets, once
    return list(rows.values())
