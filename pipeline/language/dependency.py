"""Dependency trees and their schemes: CLEAR (spaCy), UD v1 (Stanford) and UD v2.

In UD content words are heads: a preposition is the ``case`` of its noun, a copula the ``cop`` of
its predicate. In CLEAR the noun depends on the preposition and the predicate on *be*. The
extraction rules read UD v2 only, so one set of rules serves all parsers. The Stanford basic
dependencies that GSMN used (UD v1) differ from v2 in labels and in the heads of ``cc`` and
``punct``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from features.errors import UnknownName
from features.records import TextGraph
from pipeline.language.words import names, word_class

SCHEMES = ("ud", "clear", "ud1-basic")

_CLEAR_TO_UD = names("clear_to_ud")
_UD_TO_CLEAR = {
    new: old for old, new in _CLEAR_TO_UD.items() if old not in ("pobj", "pcomp", "prep")
}
_UD_TO_CLEAR |= {label: label for label in ("advmod", "xcomp", "compound", "dep")}
_UD_TO_V1, _V1_TO_UD = names("ud_to_v1"), names("v1_to_ud")
# Dependents that stay with a predicate when its copula becomes the head.
_INNER = ("det", "amod", "compound", "case", "nummod", "nmod", "nmod:poss", "advmod", "acl")
_BE = word_class("be")
_COARSE = names("upos")  # Penn tag -> UPOS


def coarse_tag(tag: str, deprel: str) -> str:
    """Return the UPOS of a Penn tag; the UD label distinguishes auxiliaries and markers.

    >>> coarse_tag("VBZ", "aux"), coarse_tag("IN", "mark"), coarse_tag("NN", "obj")
    ('AUX', 'SCONJ', 'NOUN')
    """
    coarse = _COARSE.get(tag, "PUNCT")
    if coarse == "VERB" and deprel in ("aux", "aux:pass", "cop"):
        return "AUX"
    if coarse == "ADP" and deprel == "mark":
        return "SCONJ"
    if tag == "TO" and deprel == "case":
        return "ADP"
    return coarse


def to_ud(graph: TextGraph) -> TextGraph:
    """Return a parsed caption with UD v2 heads and labels."""
    convert = Tree.clear_to_ud if graph.scheme == "clear" else Tree.v1_to_ud
    return graph if graph.scheme == "ud" else _converted(graph, convert, "ud")


def from_ud(graph: TextGraph, scheme: str) -> TextGraph:
    """Return a caption with UD v2 dependencies in another scheme.

    Raises: UnknownName: no such scheme.
    """
    if scheme not in SCHEMES:
        raise UnknownName.of("scheme", scheme, SCHEMES)
    convert = Tree.ud_to_clear if scheme == "clear" else Tree.ud_to_v1
    return graph if scheme == "ud" else _converted(graph, convert, scheme)


def _converted(graph: TextGraph, convert: Callable[[Tree], None], scheme: str) -> TextGraph:
    tree = Tree([token.lower() for token in graph.tokens], graph.xpos, graph.heads, graph.deprels)
    convert(tree)
    return replace(graph, heads=tuple(tree.heads), deprels=tuple(tree.rels), scheme=scheme)


class Tree:
    """A caption's dependency tree, converted in place.

    Attributes:
        words: lower-cased tokens.   tags: Penn tags.
        heads: 0-based head of each token, -1 at roots.   rels: relation labels.
    """

    __slots__ = ("heads", "rels", "tags", "words")

    def __init__(
        self, words: Sequence[str], tags: Sequence[str], heads: Sequence[int], rels: Sequence[str]
    ) -> None:
        self.words = words
        self.tags, self.heads, self.rels = list(tags), list(heads), list(rels)

    def children(self, token: int) -> list[int]:
        """Return the dependents of a token, left to right."""
        return [child for child, head in enumerate(self.heads) if head == token]

    def attach(self, token: int, head: int, rel: str) -> None:
        """Give a token another head and label."""
        self.heads[token], self.rels[token] = head, rel

    def connect(self, starts: Sequence[int]) -> None:
        """Make exactly one tree of each sentence.

        A parser can return a second root, a head outside the sentence, or (a faulty plug-in) a
        cycle. The first root is kept; tokens that do not lead to a root are attached to it as
        ``dep``.

        Args:
            starts: first token of each sentence.
        """
        heads = self.heads
        for low, high in pairwise([*starts, len(heads)]):
            root = next((i for i in range(low, high) if heads[i] == -1 or heads[i] == i), low)
            self.attach(root, -1, "root")
            safe = {root}
            for token in range(low, high):
                path: list[int] = []
                at = token
                while at not in safe:
                    if not low <= at < high or at in path:
                        self.attach(path[-1], root, "dep")
                        break
                    path.append(at)
                    at = heads[at]
                safe.update(path)

    def clear_to_ud(self) -> None:
        """Convert CLEAR, spaCy's English scheme, to UD v2."""
        # CLEAR's nmod is UD's compound.
        self.rels = ["compound" if label == "nmod" else label for label in self.rels]
        self._lift_prepositional_objects()
        self._lift_prepositional_clauses()
        self._lift_predicates()
        self._flatten_conjuncts()
        self.rels = [_CLEAR_TO_UD.get(label, label) for label in self.rels]

    def _lift_prepositional_objects(self) -> None:
        """Make the noun of a preposition its head, also in chains (*out of the box*)."""
        tags, head, rel = self.tags, self.heads, self.rels
        for noun, label in enumerate(list(rel)):
            if label != "pobj" and not (label == "pcomp" and tags[noun][0] in "NPD"):
                continue
            prep = head[noun]
            if rel[prep] == "case":  # a second object of the same preposition
                self.attach(noun, head[prep], "conj")
                continue
            # `up [prep] behind [prep] the [pobj]`, `on [prep] and about [conj]`: find the governor
            top = prep
            chain = [prep]
            while head[top] >= 0 and (
                (rel[top] in ("prep", "pcomp", "conj") and rel[head[top]] in ("prep", "agent"))
                and tags[head[top]] in ("IN", "TO", "RB", "RP")
                and not any(head[i] == head[top] and rel[i] == "pobj" for i in range(len(rel)))
            ):
                top = head[top]
                chain.append(top)
            governor = head[top]
            role = {"conj": "conj", "agent": "obl:agent"}.get(rel[top], "")
            if governor < 0:  # the preposition is the root: its noun becomes the root
                role = "ROOT"
            elif not role:
                role = "nmod" if tags[governor][0] in "NPDC" else "obl"
            self.attach(noun, governor, role)
            for link in chain:
                rel[link] = "case"
            for child, parent in enumerate(head):
                if parent in chain and child != noun:
                    head[child] = noun
                    if rel[child] == "conj" and tags[child] in ("IN", "TO"):
                        rel[child] = "case"
            for link in chain:
                head[link] = noun

    def _lift_prepositional_clauses(self) -> None:
        """Make the verb of a preposition (*by riding*) its head, with the preposition as mark."""
        tags, head, rel = self.tags, self.heads, self.rels
        for verb, label in enumerate(rel):
            if label != "pcomp" or rel[head[verb]] != "prep":
                continue
            prep = head[verb]
            governor = head[prep]
            role = "ROOT" if governor < 0 else "acl" if tags[governor][0] in "NP" else "advcl"
            self.attach(verb, governor, role)
            for child in self.children(prep):
                head[child] = verb
            self.attach(prep, verb, "mark")

    def _lift_predicates(self) -> None:
        """Make the predicate of *be* its head: an adjective, a noun, or that of *in a house*."""
        tags, head, rel = self.tags, self.heads, self.rels
        for verb, word in enumerate(self.words):
            if word not in _BE or tags[verb][0] != "V" or rel[verb] in ("aux", "auxpass"):
                continue
            children = self.children(verb)
            labels = [rel[i] for i in children]
            if "expl" in labels:  # `there is X`: X is the subject
                for child in children:
                    if rel[child] in ("attr", "dobj"):
                        rel[child] = "nsubj"
                continue
            new = next((i for i in children if rel[i] in ("attr", "acomp")), -1)
            if new < 0 and not {"nsubj", "csubj"}.isdisjoint(labels):
                new = next((i for i in children if rel[i] == "obl" and i > verb), -1)
            if new < 0:
                continue
            self.attach(new, head[verb], rel[verb])
            for child in children:
                if child != new:
                    head[child] = new
            self.attach(verb, new, "cop")

    def _flatten_conjuncts(self) -> None:
        """Attach ``cc`` and inner commas to the next conjunct, each conjunct to the first."""
        head, rel = self.heads, self.rels
        conjuncts = [i for i, label in enumerate(rel) if label == "conj"]
        if not conjuncts:
            return
        for token, label in enumerate(rel):
            if label in ("cc", "punct") and head[token] < token:
                later = (i for i in conjuncts if i > token and head[i] == head[token])
                head[token] = next(later, head[token])
        for conjunct in conjuncts:
            first = head[conjunct]
            while rel[first] == "conj":
                first = head[first]
            head[conjunct] = first

    def v1_to_ud(self) -> None:
        """Convert UD v1 basic dependencies to UD v2; ``nmod`` of a verb becomes ``obl``."""
        before = self.rels
        self.rels = [_V1_TO_UD.get(label, label) for label in before]
        for token, label in enumerate(before):
            head = self.heads[token]
            if label == "nmod" and head >= 0 and self.tags[head][:1] in ("V", "J", "R"):
                self.rels[token] = "obl"
        self._flatten_conjuncts()

    def ud_to_v1(self) -> None:
        """Convert UD v2 to UD v1 basic dependencies; ``cc`` goes to the first conjunct."""
        for token, label in enumerate(self.rels):
            head = self.heads[token]
            if label in ("cc", "punct") and head > token and self.rels[head] == "conj":
                self.heads[token] = self.heads[head]
        self.rels = [_UD_TO_V1.get(label, label) for label in self.rels]

    def ud_to_clear(self) -> None:
        """Convert UD v2 to CLEAR: prepositions and copulas are heads, conjuncts form a chain."""
        tags, head, rel = self.tags, self.heads, self.rels
        heads, deprels = list(head), list(rel)
        last: dict[int, int] = {}
        for token, label in enumerate(deprels):
            if label == "conj" and heads[token] >= 0:
                first = heads[token]
                head[token] = last.get(first, first)
                last[first] = token
        for token, label in enumerate(deprels):
            parent = heads[token]
            if label in ("cc", "punct") and parent > token and deprels[parent] == "conj":
                head[token] = head[parent]
            elif label == "cop":
                self._raise_copula(token, parent)
        for token, label in enumerate(deprels):
            noun = heads[token]
            if label != "case" or tags[token] == "POS" or noun < 0:
                continue
            if rel[noun] in ("pobj", "conj"):  # inner preposition of `out of the box`
                rel[token] = "prep"
                continue
            role = {"obl:agent": "agent", "root": "ROOT"}.get(rel[noun], "prep")
            self.attach(token, head[noun], role)
            self.attach(noun, token, "pobj")
        self.rels = [_UD_TO_CLEAR.get(label, label) for label in rel]

    def _raise_copula(self, verb: int, predicate: int) -> None:
        """Make a copula the head of its predicate and of the clause's other parts."""
        self.attach(verb, self.heads[predicate], self.rels[predicate])
        for child in self.children(predicate):
            if child != verb and self.rels[child] not in _INNER:
                self.heads[child] = verb
        role = "acomp" if self.tags[predicate][:1] == "J" else "attr"
        self.attach(predicate, verb, role)
