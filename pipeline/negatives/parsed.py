"""A parsed caption as the makers of negatives read it: noun phrases, verbs and prepositions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from features.records import TextGraph
from pipeline.negatives.edits import Span, lowered
from pipeline.negatives.lexicon import words

_INSIDE = frozenset(("det", "amod", "nummod", "compound", "advmod", "punct", "cc", "conj"))


@dataclass(frozen=True)
class Parsed:
    """A caption with UD v2 dependencies and the graph of the profile ``extended``."""

    graph: TextGraph

    @property
    def n(self) -> int:
        """Number of tokens."""
        return len(self.graph.tokens)

    @cached_property
    def lower(self) -> tuple[str, ...]:
        """The tokens in lower case."""
        return tuple(token.lower() for token in self.graph.tokens)

    @cached_property
    def kids(self) -> list[list[int]]:
        """Dependents of each token."""
        kids: list[list[int]] = [[] for _ in range(self.n)]
        for at, head in enumerate(self.graph.heads):
            if head >= 0:
                kids[head].append(at)
        return kids

    def of(self, token: int, *relations: str) -> list[int]:
        """Return the dependents of a token with one of these relations."""
        return [kid for kid in self.kids[token] if self.graph.deprels[kid] in relations]

    @property
    def has_personal_pronouns(self) -> bool:
        """Whether a gender is stated by a pronoun."""
        return not words("pronouns").isdisjoint(self.lower)

    def phrase(self, noun: int) -> Span | None:
        """Return the tokens of a noun with what stands before it; None if they are not one run.

        Possessors are not part of it: a phrase with one cannot be moved.
        """
        g = self.graph
        start = noun
        for kid in self.kids[noun]:
            if kid < noun and g.deprels[kid].startswith("nmod:poss"):
                return None
            if kid < noun and g.deprels[kid] in _INSIDE:
                start = min(start, kid)
        for token in range(start, noun):
            at = token
            while at != noun and at >= 0 and g.deprels[at] in _INSIDE:
                at = g.heads[at]
            if at != noun:
                return None
        return start, noun + 1

    def text(self, span: Span) -> str:
        """Return some tokens as they are written inside a sentence."""
        tokens = list(self.graph.tokens[slice(*span)])
        if span[0] == 0:
            tokens[0] = lowered(tokens[0])
        return " ".join(tokens)

    def is_plural(self, noun: int) -> bool:
        """Return whether a noun is a plural."""
        return self.graph.xpos[noun] in ("NNS", "NNPS") or self.lower[noun] == "people"

    def is_bare(self, noun: int) -> bool:
        """Return whether a countable singular lacks its determiner, as in "Woman holding dog"."""
        if self.is_plural(noun) or self.graph.lemmas[noun] in words("bare_nouns"):
            return False
        return not self.of(noun, "det", "nummod", "nmod:poss")

    def is_quantity(self, noun: int) -> bool:
        """Return whether a noun is counted by or counts another one: "a bunch of dogs"."""
        phrases = self.of(noun, "nmod")
        near = (noun, *phrases)
        of = any(self.lower[case] == "of" for token in near for case in self.of(token, "case"))
        return of or bool(self.of(noun, "det:qmod"))

    def stands_alone(self, token: int, noun: int) -> bool:
        """Return whether an adjective stands before its noun and is not one of several."""
        g = self.graph
        if token < 0 or g.deprels[token] != "amod" or g.heads[token] != noun or token > noun:
            return False
        around = {self.lower[at] for at in (token - 1, token + 1) if 0 <= at < self.n}
        return around.isdisjoint(("and", "or", ",", "-", "/", "&")) and not self.of(token, "conj")

    def finite_verb(self, subject: int) -> int:
        """Return the verb or auxiliary that agrees with a subject, or -1."""
        g = self.graph
        if g.deprels[subject] not in ("nsubj", "nsubj:pass"):
            return -1
        verb = g.heads[subject]
        for token in (*self.of(verb, "aux", "aux:pass", "cop"), verb):
            if g.xpos[token] in ("VBZ", "VBP", "VBD"):
                return token
        return -1


def facts(graphs: Iterable[TextGraph]) -> frozenset[str]:
    """Return every word and lemma of an image's captions, parts of hyphenated words included.

    A plural is often tagged as a name at the start of a caption ("Kittens play") and keeps its
    "s" as its lemma, so the singulars of all names are included.
    """
    found: set[str] = set()
    for graph in graphs:
        names = [
            token for token, tag in zip(graph.tokens, graph.xpos, strict=True) if tag[:3] == "NNP"
        ]
        singulars = [form for name in names for form in _singulars(name.lower())]
        for word in (*graph.tokens, *graph.lemmas, *singulars):
            low = word.lower()
            found.add(low)
            found.update(low.split("-"))
    return frozenset(found)


def _singulars(name: str) -> list[str]:
    """Return what the singular of a word may be, by its ending alone."""
    endings = (("s", ""), ("es", ""), ("ies", "y"), ("men", "man"))
    return [name[: -len(old)] + new for old, new in endings if name.endswith(old)]


Counts = Mapping[tuple[str, str], int]  # (predicate, object lemma) -> how often a store has it
