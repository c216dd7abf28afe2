"""Count words, labels, predicates and tags of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.reading import CodedColumn, StoreReader, flat_rows

__all__ = ["NameCounts", "count_names", "count_words"]


@dataclass(frozen=True, slots=True)
class NameCounts:
    """Number of occurrences of each label, predicate and tag."""

    labels: Counter[str]
    predicates: Counter[str]
    tags: Counter[str]


def count_names(store: StoreReader) -> NameCounts:
    """Count labels, predicates and XPOS tags of the whole store; a missing column counts none."""
    has_visual, has_tokens = store.has("labels"), store.has("xpos")
    return NameCounts(
        labels=_counts(store.coded("labels")) if has_visual else Counter(),
        predicates=_counts(store.coded("predicates")) if has_visual else Counter(),
        tags=_counts(store.coded("xpos")) if has_tokens else Counter(),
    )


def count_words(store: StoreReader, splits: Sequence[str]) -> Counter[str]:
    """Count lower-cased word forms, and words of triplets, in the captions of some splits.

    Args:
        store: the store.
        splits: names of splits; empty = all captions.
    """
    if not store.has("form"):
        return Counter()
    rows = [store.caption_rows(name) for name in (splits or sorted(store.splits))]
    captions = np.concatenate([np.zeros(0, np.int64), *rows])
    counted: Counter[str] = Counter()
    tokens, _, _ = flat_rows(store.offsets("token_offsets"), captions)
    for form, count in _counts(store.coded("form"), tokens).items():
        counted[form.lower()] += count
    if store.has("relation_predicate"):
        relations, _, _ = flat_rows(store.offsets("relation_offsets"), captions)
        objects, _, _ = flat_rows(store.offsets("object_offsets"), captions)
        pairs = (("relation_predicate", relations), ("object_lemma", objects))
        in_graphs: Counter[str] = Counter()
        for name, at in pairs:
            for phrase, count in _counts(store.coded(name), at).items():
                for word in phrase.lower().split():
                    in_graphs[word] += count
        counted |= in_graphs  # the larger of the two: a word that is form and lemma is counted once
    return counted


def _counts(column: CodedColumn, rows: npt.NDArray[Any] | None = None) -> Counter[str]:
    codes = column.codes if rows is None else column.codes[rows]
    found = np.bincount(codes.reshape(-1), minlength=len(column.names))
    pairs = zip(column.names, found.tolist(), strict=True)
    return Counter({name: count for name, count in pairs if count and name})
