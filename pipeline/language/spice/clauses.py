"""The input of the extraction rules: a caption's UD v2 tree with further annotations.

They are the preposition of each noun (multiword prepositions are merged), quantifiers attached to
the noun they count (*lots of dogs* has the object *dog*), and the antecedent of each pronoun.
"""

from __future__ import annotations

from features.records import TextGraph
from pipeline.language.words import phrases, word_class

_PREP2 = phrases("prepositions_2")
_PREP3 = phrases("prepositions_3")
_ENDS = frozenset(p.rsplit(" ", 1)[1] for p in _PREP2 | _PREP3)
_QUANT_A = word_class("quantifiers_a")
_QUANT_BARE = word_class("quantifiers_bare")
_QUANT_DEF = word_class("quantifiers_definite")
_SIDES = word_class("sides")
_SINGULAR = word_class("singular_pronouns")


class Clauses:
    """A caption's tree with prepositions, quantifiers and antecedents.

    Args:
        graph: a parsed caption, in UD v2.
        sides: read *on the side of* as one preposition, and attach what follows a quantified noun
            to the noun.

    Attributes:
        lower, tag, lemma: lower-cased word, Penn tag and lemma of each token.
        head, rel: UD v2 heads and labels after these changes.
        kids: children of each token.
        prep: noun -> (preposition, positions of its words), for nouns that have one.
        counted: noun -> first word of its quantifier.
        antecedent: pronoun -> noun.
        inert: tokens that are no objects (quantifiers, parts of prepositions).
    """

    __slots__ = (
        "antecedent", "counted", "head", "inert", "kids", "lemma", "lower", "n", "prep", "rel",
        "starts", "tag",
    )  # fmt: skip

    def __init__(self, graph: TextGraph, sides: bool = False) -> None:
        self.lower = [token.lower() for token in graph.tokens]
        self.tag = graph.xpos
        self.lemma = graph.lemmas
        self.n = len(self.lower)
        self.head, self.rel = list(graph.heads), list(graph.deprels)
        self.kids: list[list[int]] = [[] for _ in range(self.n)]
        for token, parent in enumerate(self.head):
            if parent >= 0:
                self.kids[parent].append(token)
        self.prep: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.counted: dict[int, int] = {}
        self.antecedent: dict[int, int] = {}
        self.inert: set[int] = set()
        self._straighten_phrases()
        self._find_prepositions()
        if sides:
            self._join_sides()
        self._move_quantifiers(sides)
        self.starts = graph.sentence_starts

    def move(self, token: int, parent: int, rel: str) -> None:
        """Give a token another head and label."""
        old = self.head[token]
        if old >= 0:
            self.kids[old].remove(token)
        self.head[token], self.rel[token] = parent, rel
        if parent >= 0:
            self.kids[parent].append(token)

    def _straighten_phrases(self) -> None:
        """Attach modifiers to the head of a compound, and *number 7* to the noun before it."""
        for token in range(self.n):
            if self.rel[token] == "compound" and self.head[token] > token:
                head = self.head[token]
                if self.lower[head] == "number" and self.tag[head + 1 : head + 2] == ("CD",):
                    parent, rel = self.head[head], self.rel[head]
                    self.move(token, parent, rel)
                    for kid in list(self.kids[head]):
                        if self.rel[kid] not in ("nummod",):
                            self.move(kid, token, self.rel[kid])
                    self.move(head, token, "nummod")
                elif self.tag[head][:1] == "N":
                    for kid in [k for k in self.kids[token] if self.rel[k] in ("amod", "det")]:
                        self.move(kid, head, self.rel[kid])

    def _join_sides(self) -> None:
        """Read *on the side of the road* as one preposition, ``on side of``."""
        for of in range(2, self.n - 1):
            side = of - 1
            noun = self.head[of]
            if (
                self.lower[of] == "of"
                and noun > of
                and self.lemma[side] in _SIDES
                and self.head[noun] == side
                and side in self.prep
                and len(self.prep[side][1]) == 1
            ):
                text, at = self.prep[side]
                self.inert.update(k for k in range(at[0] + 1, of) if self.rel[k] != "punct")
                self._lift(noun, side)
                self.prep[noun] = (f"{text} {self.lower[side]} of", (*at, side, of))

    def _find_prepositions(self) -> None:
        """Record the preposition of each noun."""
        lower, rel, head = self.lower, self.rel, self.head
        for token in range(self.n):
            if rel[token] != "case" or self.tag[token] == "POS":
                continue
            noun = head[token]
            known = self.prep.get(noun)
            if known is not None:
                if token == known[1][-1] + 1:  # `out of`, `from behind`
                    pair = f"{known[0]} {lower[token]}"
                    text = pair if pair in _PREP2 else lower[token]
                    self.prep[noun] = (text, (*known[1], token))
            elif token and lower[token] in _ENDS:
                self.prep[noun] = self._multiword(token, noun)
            else:
                self.prep[noun] = (lower[token], (token,))

    def _multiword(self, token: int, noun: int) -> tuple[str, tuple[int, ...]]:
        """Merge a preposition with the words before it: *in front* + *of*."""
        before = token - 1
        for first, known in ((token - 2, _PREP3), (before, _PREP2)):
            text = " ".join(self.lower[first : token + 1]) if first >= 0 else ""
            if text in known:
                self.inert.add(before)
                if self.head[noun] == before:
                    self._lift(noun, before)
                return text, tuple(range(first, token + 1))
        return self.lower[token], (token,)

    def _lift(self, noun: int, inner: int) -> None:
        """Move *library* of *in front of the library* to the position of *front* in the tree."""
        parent, rel = self.head[inner], self.rel[inner]
        self.prep.pop(inner, None)
        if parent < 0:
            self.move(noun, -1, "root")
            for kid in list(self.kids[inner]):
                self.move(kid, noun, self.rel[kid])
            self.move(inner, noun, "fixed")
            return
        if rel not in ("nmod", "obl", "conj"):
            rel = "nmod" if self.tag[parent][:1] == "N" else "obl"
        self.move(noun, parent, rel)
        for kid in [k for k in self.kids[inner] if k > noun]:
            self.move(kid, noun, self.rel[kid])

    def _move_quantifiers(self, sides: bool) -> None:
        """Move the noun of *lots of dogs* to the position of its quantifier."""
        lower, tag = self.lower, self.tag
        for of in range(1, self.n - 1):
            if lower[of] != "of":
                continue
            quantifier = of - 1
            noun = self.head[of]
            if noun < of or self.head[noun] != quantifier:
                continue
            word = lower[quantifier]
            group = [quantifier]
            if word in _QUANT_A and quantifier and lower[quantifier - 1] in ("a", "an"):
                group = [quantifier - 1, quantifier]
            elif word not in _QUANT_BARE and not (word[:-1].isdigit() and word.endswith("s")):
                definite = tag[noun] == "PRP" or any(
                    tag[i] in ("DT", "PRP$") for i in self.kids[noun]
                )
                if not definite or not (word in _QUANT_DEF or word.isdigit()):
                    continue
            for kid in list(self.kids[quantifier]):
                if self.rel[kid] == "amod" or (sides and kid > noun):
                    self.move(kid, noun, self.rel[kid])
            parent, rel = self.head[quantifier], self.rel[quantifier]
            self.move(noun, parent, rel)
            if quantifier in self.prep:
                self.prep[noun] = self.prep.pop(quantifier)
            else:
                self.prep.pop(noun, None)
            for conjunct in [k for k in self.kids[quantifier] if self.rel[k] == "conj"]:
                self.move(conjunct, noun, "conj")
            self.move(quantifier, noun, "det:qmod")
            self.counted[noun] = group[0]
            self.inert.update(group)

    def attach_own(self) -> None:
        """Attach phrases with the subject's possessions to the verb: *carries it in its mouth*."""
        for noun in [n for n in self.prep if self.rel[n] == "nmod"]:
            owner = next((k for k in self.kids[noun] if self.tag[k] == "PRP$"), -1)
            target = self.head[noun]
            verb = self.head[target]
            if owner < 0 or self.rel[target] != "obj" or self.tag[verb][:1] != "V":
                continue
            if self.antecedent.get(owner, target) != target:
                self.move(noun, verb, "obl")

    def resolve_pronouns(self) -> None:
        """Link each pronoun to the first noun, breadth-first from the root, if left of it."""
        starts = self.starts
        pronouns = [
            i for i in range(1, self.n) if self.tag[i] in ("PRP", "PRP$") and i not in starts
        ]
        if not pronouns:
            return
        order: list[int] = []
        for root in range(self.n):
            if self.head[root] < 0:
                queue = [root]
                for token in queue:
                    queue += sorted(self.kids[token])
                order += queue
        bounds = [*starts, self.n]
        for pronoun in pronouns:
            low = max(start for start in bounds if start <= pronoun)
            high = min(start for start in bounds if start > pronoun)
            single = self.lower[pronoun] in _SINGULAR
            for token in order:
                if not low <= token < high or self.tag[token][:1] != "N" or token in self.inert:
                    continue
                if single and self.tag[token] not in ("NN", "NNP"):
                    continue
                if token < pronoun:
                    self.antecedent[pronoun] = token
                break
