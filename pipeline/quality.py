"""SPICE: agreement of captions with reference captions, measured in tuples; needs no Java.

A caption becomes a set of tuples: (object), (object, attribute), (subject, predicate, object). The
references of one image are merged into one graph. A candidate tuple matches a reference tuple of
the same length if they agree in every position: equal lemmas, or a shared WordNet synset. The score
of an image is the F1 of its tuples; the score of a system is the mean over the images.

Synonyms need the package ``wn`` and an English WordNet (``pip install wn && python -m wn download
oewn:2024``); without them lemmas must be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from features.errors import MissingDependency, MissingInput, UsageError
from features.records import TextGraph
from pipeline.language import word_class
from pipeline.parse import parse

__all__ = ["SUBSETS", "Spice", "spice", "tuples", "wordnet_synsets"]

_LENGTHS = {"object": 1, "attribute": 2, "relation": 3}
_WORDS = {"cardinality": "cardinals", "colour": "colours", "size": "sizes"}
SUBSETS = (*_LENGTHS, *_WORDS)
Tuple = tuple[str, ...]
Synsets = Callable[[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Spice:
    """Scores of a captioning system, all in [0, 1].

    Attributes:
        score: SPICE, the mean F1 over the images.
        images: F1 of each image, in order.
        precision, recall: means over the images.
        subsets: name -> mean F1 of these tuples, over the images that have such tuples in candidate
            or references; NaN if none has.
    """

    score: float
    images: tuple[float, ...]
    precision: float
    recall: float
    subsets: Mapping[str, float]


def tuples(graph: TextGraph) -> set[Tuple]:
    """Return the tuples of one caption's graph."""
    found: set[Tuple] = {(name,) for name in graph.objects}
    return found.union(graph.attributes, graph.triplets)


def spice(
    candidates: Sequence[str | TextGraph],
    references: Sequence[Sequence[str | TextGraph]],
    *,
    parser: str = "spacy",
    synsets: Synsets | None = None,
    **options: object,
) -> Spice:
    """Score one candidate caption per image against the references of the image.

    Args:
        candidates: n captions, or graphs extracted with the profile ``spice``.
        references: n non-empty lists of captions or graphs.
        parser: parser of captions given as text.
        synsets: function from a lemma to its synset ids, for example ``wordnet_synsets()``; None:
            lemmas must be equal.
        options: options of the parser.

    Raises: UsageError: the lengths differ, there are no candidates, or an image has no references.

    >>> spice(["A dog chases a ball."], [["A dog chases a ball."]]).score
    1.0
    """
    if len(candidates) != len(references) or not candidates:
        raise UsageError(
            f"{len(candidates)} candidates and {len(references)} lists of references: "
            "there must be one list per candidate, and at least one candidate."
        )
    for at, listed in enumerate(references):
        if not listed:
            raise UsageError(f"image {at} has no references. Leave such images out.")
    graphs = _graphs([*candidates, *[c for listed in references for c in listed]], parser, options)
    ours = [tuples(graph) for graph in graphs[: len(candidates)]]
    rest = iter(graphs[len(candidates) :])
    theirs: list[set[Tuple]] = []
    for listed in references:
        merged: set[Tuple] = set().union(*map(tuples, islice(rest, len(listed))))
        theirs.append(_merge(merged, synsets) if synsets else merged)
    scores = [_f1(mine, reference, synsets) for mine, reference in zip(ours, theirs, strict=True)]
    n = len(scores)
    return Spice(
        score=sum(f for _, _, f in scores) / n,
        images=tuple([f for _, _, f in scores]),
        precision=sum(p for p, _, _ in scores) / n,
        recall=sum(r for _, r, _ in scores) / n,
        subsets={name: _subset(name, ours, theirs, synsets) for name in SUBSETS},
    )


def _graphs(
    captions: list[str | TextGraph], parser: str, options: Mapping[str, object]
) -> list[TextGraph]:
    """Parse the captions among the graphs."""
    texts = [caption for caption in captions if isinstance(caption, str)]
    parsed = iter(parse(texts, parser, "spice", **options) if texts else ())  # type: ignore[arg-type]
    return [next(parsed) if isinstance(caption, str) else caption for caption in captions]


def _agree(one: str, other: str, synsets: Synsets | None) -> bool:
    return one == other or (synsets is not None and not synsets(one).isdisjoint(synsets(other)))


def _found(item: Tuple, among: Iterable[Tuple], synsets: Synsets | None) -> bool:
    return any(
        len(item) == len(other)
        and all(_agree(a, b, synsets) for a, b in zip(item, other, strict=True))
        for other in among
    )


def _f1(
    mine: set[Tuple], reference: set[Tuple], synsets: Synsets | None
) -> tuple[float, float, float]:
    """Return precision, recall and F1; each candidate tuple counts once."""
    if synsets is None:
        hits = len(mine & reference)
    else:
        hits = sum(item in reference or _found(item, reference, synsets) for item in mine)
    precision = hits / len(mine) if mine else 0.0
    # several candidate tuples may use the same reference tuple
    recall = min(1.0, hits / len(reference)) if reference else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def _merge(reference: set[Tuple], synsets: Synsets) -> set[Tuple]:
    """Merge objects that share a synset, with their attributes and relations."""
    name: dict[str, str] = {}
    for (lemma,) in sorted(item for item in reference if len(item) == 1):
        name[lemma] = next(
            (known for known in name.values() if _agree(lemma, known, synsets)), lemma
        )
    merged: set[Tuple] = set()
    for item in sorted(reference, key=lambda item: (len(item), item)):
        item = tuple([word if at == 1 else name.get(word, word) for at, word in enumerate(item)])
        if not _found(item, merged, synsets):
            merged.add(item)
    return merged


def _belongs(item: Tuple, subset: str) -> bool:
    length = _LENGTHS.get(subset)
    return (
        len(item) == length if length else len(item) == 2 and item[1] in word_class(_WORDS[subset])
    )


def _subset(
    subset: str, ours: list[set[Tuple]], theirs: list[set[Tuple]], synsets: Synsets | None
) -> float:
    scores = []
    for mine, reference in zip(ours, theirs, strict=True):
        some = {item for item in mine if _belongs(item, subset)}
        other = {item for item in reference if _belongs(item, subset)}
        if some or other:
            scores.append(_f1(some, other, synsets)[2])
    return sum(scores) / len(scores) if scores else float("nan")


def wordnet_synsets(lexicon: str = "oewn:2024") -> Synsets:
    """Return a function from a lemma to its synset ids in an installed WordNet.

    Args:
        lexicon: name of the lexicon for the package ``wn``.

    Raises:
        MissingDependency: the package ``wn`` is not installed.
        MissingInput: the lexicon has not been downloaded.
    """
    try:
        import wn  # type: ignore[import-not-found, unused-ignore]  # optional
    except ImportError as error:
        raise MissingDependency.of("wn", "SPICE with synonyms", "pip install wn") from error
    try:
        wordnet = wn.Wordnet(lexicon)
    except wn.Error as error:
        raise MissingInput(
            f"WordNet {lexicon!r} is not installed ({error}). Run: python -m wn download {lexicon}"
        ) from error

    @lru_cache(maxsize=100_000)
    def synsets(lemma: str) -> frozenset[str]:
        return frozenset(synset.id for synset in wordnet.synsets(lemma))

    return synsets
