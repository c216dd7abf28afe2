"""The function ``spice``: scores of a captioning system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from features.errors import UsageError
from features.records import TextGraph
from pipeline.parse import parse
from pipeline.quality.caption_tuples import SUBSETS, Synsets
from pipeline.quality.matching import ExactMatcher, Match, Matcher, SoftMatcher


@dataclass(frozen=True, slots=True)
class SpiceScores:
    """Scores of a captioning system, all in [0, 1].

    Attributes:
        score: the mean score over the images: SPICE or soft SPICE.
        images: score of each image, in order.
        precision, recall: of the tuples, means over the images.
        subsets: name -> mean F1 of these tuples, over the images that have such tuples in candidate
            or references; NaN if none has.
        matches: for each image: subset or ``all`` -> its numbers.
    """

    score: float
    images: tuple[float, ...]
    precision: float
    recall: float
    subsets: Mapping[str, float]
    matches: tuple[Mapping[str, Match], ...] = field(default=(), repr=False)


def spice(
    candidates: Sequence[str | TextGraph],
    references: Sequence[Sequence[str | TextGraph]],
    *,
    parser: str = "spacy",
    synsets: Synsets | None = None,
    soft: bool = False,
    **options: object,
) -> SpiceScores:
    """Score one candidate caption per image against the references of the image.

    Args:
        candidates: n captions, or graphs extracted with the profile ``spice``.
        references: n non-empty lists of captions or graphs.
        parser: parser of captions given as text.
        synsets: function from a lemma to its synset ids, for example ``caption_synonyms()`` or
            ``wordnet_synsets()``; None: lemmas must be equal.
        soft: match tuples by the similarity of their phrases in the packaged MiniLM, and average
            their F1 with the similarity of the whole captions.
        options: options of the parser.

    Raises:
        UsageError: the lengths differ, there are no candidates, an image has no references, or
            synsets are given for soft matching.
        MissingDependency: the weights of MiniLM, or the parser, are not installed.

    >>> spice(["A dog chases a ball."], [["A dog chases a ball."]]).score
    1.0
    """
    if len(candidates) != len(references) or not candidates:
        raise UsageError(
            f"{len(candidates)} candidates and {len(references)} lists of references: "
            "there must be one list per candidate, and at least one candidate."
        )
    for at, listed in enumerate(references):
        if isinstance(listed, str):
            raise UsageError(f"the references of image {at} are one text. Pass a list of texts.")
        if not listed:
            raise UsageError(f"image {at} has no references. Leave such images out.")
    if soft and synsets is not None:
        raise UsageError("soft matching compares embeddings: it takes no synsets. Pass either.")
    matcher: Matcher = SoftMatcher() if soft else ExactMatcher(synsets)
    graphs = _graphs([*candidates, *[c for listed in references for c in listed]], parser, options)
    rest = iter(graphs[len(candidates) :])
    theirs = [list(islice(rest, len(listed))) for listed in references]
    matches = matcher.match(graphs[: len(candidates)], theirs)
    whole = [found["all"] for found in matches]
    n = len(whole)
    return SpiceScores(
        score=sum(match.score for match in whole) / n,
        images=tuple([match.score for match in whole]),
        precision=sum(match.precision for match in whole) / n,
        recall=sum(match.recall for match in whole) / n,
        subsets={
            name: _mean([found[name].f1 for found in matches if name in found]) for name in SUBSETS
        },
        matches=tuple(matches),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _graphs(
    captions: list[str | TextGraph], parser: str, options: Mapping[str, object]
) -> list[TextGraph]:
    """Parse the captions among the graphs."""
    texts = [caption for caption in captions if isinstance(caption, str)]
    distinct = list(dict.fromkeys(texts))
    parsed = dict(
        zip(distinct, parse(distinct, parser, "spice", **options), strict=True)  # type: ignore[arg-type]
        if distinct
        else ()
    )
    return [parsed[caption] if isinstance(caption, str) else caption for caption in captions]
