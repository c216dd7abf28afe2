"""Match the tuples of a candidate with those of its references: by words, or by embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.records import TextGraph
from pipeline.quality.caption_tuples import (
    SUBSETS,
    Synsets,
    Tuple,
    belongs,
    contains,
    merge,
    tuples,
)
from pipeline.quality.encoder import SentenceEncoder

Float = npt.NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Float]


@dataclass(frozen=True, slots=True)
class Match:
    """Agreement of a candidate with the references of its image, numbers in [0, 1].

    Attributes:
        precision, recall, f1: of the tuples.
        sentence: mean cosine of the candidate with each reference; None in exact matching.
    """

    precision: float
    recall: float
    sentence: float | None = None

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def score(self) -> float:
        """F1, or the mean of F1 and the sentence's similarity."""
        return self.f1 if self.sentence is None else (self.f1 + self.sentence) / 2


class Matcher(Protocol):
    """Compares candidates with references."""

    def match(
        self, candidates: Sequence[TextGraph], references: Sequence[Sequence[TextGraph]]
    ) -> list[dict[str, Match]]:
        """Return subset -> match for each candidate, ``all`` included; subsets may be absent."""
        ...


class ExactMatcher:
    """Tuples match if their lemmas are equal or share a synset in every position.

    Args:
        synsets: lemma -> its synsets; None: lemmas must be equal.
    """

    def __init__(self, synsets: Synsets | None = None) -> None:
        self.synsets = synsets

    def match(
        self, candidates: Sequence[TextGraph], references: Sequence[Sequence[TextGraph]]
    ) -> list[dict[str, Match]]:
        """Compare n candidates with the merged graph of each one's references."""
        found = []
        for candidate, listed in zip(candidates, references, strict=True):
            mine, theirs = tuples(candidate), _union(listed)
            if self.synsets:
                theirs = merge(theirs, self.synsets)
            found.append(
                {
                    name: self._match(some, other)
                    for name, some, other in _subsets(sorted(mine), sorted(theirs))
                }
            )
        return found

    def _match(self, mine: list[Tuple], reference: list[Tuple]) -> Match:
        known = set(reference)
        hits = sum(
            item in known or (self.synsets is not None and contains(known, item, self.synsets))
            for item in mine
        )
        precision = hits / len(mine) if mine else 0.0
        # several candidate tuples may use the same reference tuple
        recall = min(1.0, hits / len(reference)) if reference else 0.0
        return Match(precision, recall)


class SoftMatcher:
    """Tuples match as far as the embeddings of their phrases are similar.

    A tuple is read as a phrase, ("dog", "brown") as "brown dog". The similarity of two tuples of
    any length is the cosine of their phrases, or 0 if it is negative. Precision is the mean over
    the candidate's tuples of the best similarity with a reference tuple, recall the reverse. The
    method has no constant to fit.
    """

    def __init__(self, encode: Encoder | None = None) -> None:
        self.encode: Encoder = encode or SentenceEncoder()

    def match(
        self, candidates: Sequence[TextGraph], references: Sequence[Sequence[TextGraph]]
    ) -> list[dict[str, Match]]:
        """Compare n candidates with the merged graph of each one's references."""
        mine = [sorted(tuples(graph)) for graph in candidates]
        theirs = [sorted(_union(listed)) for listed in references]
        row, vectors = self._phrases([*mine, *theirs])
        sentences = self._sentences(candidates, references)
        found = []
        for ours, others, sentence in zip(mine, theirs, sentences, strict=True):
            a, b = (vectors[[row[item] for item in items]] for items in (ours, others))
            cosines = np.clip(a @ b.T, 0.0, 1.0)
            place = (
                {item: at for at, item in enumerate(ours)},
                {item: at for at, item in enumerate(others)},
            )
            matches = {}
            for name, some, other in _subsets(ours, others):
                part = cosines[np.ix_([place[0][i] for i in some], [place[1][i] for i in other])]
                both = bool(some and other)
                matches[name] = Match(
                    float(part.max(1).mean()) if both else 0.0,
                    float(part.max(0).mean()) if both else 0.0,
                    sentence if name == "all" else None,
                )
            found.append(matches)
        return found

    def _phrases(self, lists: list[list[Tuple]]) -> tuple[dict[Tuple, int], Float]:
        distinct = sorted({item for items in lists for item in items})
        row = {item: at for at, item in enumerate(distinct)}
        return row, self._vectors([phrase(item) for item in distinct])

    def _vectors(self, texts: list[str]) -> Float:
        """Encode texts, each distinct one once."""
        row = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        vectors: Float = self.encode(list(row))[[row[text] for text in texts]]
        return vectors

    def _sentences(
        self, candidates: Sequence[TextGraph], references: Sequence[Sequence[TextGraph]]
    ) -> list[float]:
        """Return the mean cosine of each candidate with its references; 0 for an empty caption."""
        texts = [_text(graph) for graph in candidates]
        listed = [[_text(graph) for graph in graphs] for graphs in references]
        vectors = self._vectors([*texts, *[t for some in listed for t in some]])
        at, means = len(texts), []
        for row, (text, others) in enumerate(zip(texts, listed, strict=True)):
            cosines = np.clip(vectors[at : at + len(others)] @ vectors[row], 0.0, 1.0)
            cosines[[not other for other in others]] = 0.0
            means.append(float(cosines.mean()) if text else 0.0)
            at += len(others)
        return means


def phrase(item: Tuple) -> str:
    """Return a tuple as a phrase: an attribute stands before its object.

    >>> phrase(("dog", "brown")), phrase(("dog", "run in", "grass"))
    ('brown dog', 'dog run in grass')
    """
    return f"{item[1]} {item[0]}" if len(item) == 2 else " ".join(item)


def _text(graph: TextGraph) -> str:
    return graph.caption.strip() or " ".join(graph.tokens)


def _union(graphs: Sequence[TextGraph]) -> set[Tuple]:
    return set().union(*map(tuples, graphs))


def _subsets(mine: list[Tuple], theirs: list[Tuple]) -> list[tuple[str, list[Tuple], list[Tuple]]]:
    """Return all tuples, then those of each subset that has some on either side."""
    parts = [("all", mine, theirs)]
    for name in SUBSETS:
        some = [item for item in mine if belongs(item, name)]
        other = [item for item in theirs if belongs(item, name)]
        if some or other:
            parts.append((name, some, other))
    return parts
