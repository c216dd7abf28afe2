"""Resolve the nodes, subjects, objects and control of a caption's predicates.

The rules in ``pipeline.language.spice.triplets`` use the results. The profiles differ only where
SPICE omits something.
"""

from __future__ import annotations

from pipeline.language.spice.clauses import Clauses
from pipeline.language.words import names

_PEOPLE = names("people")
_SPICE_NAMES = names("spice_names")
_CONTROLLED = frozenset(("advcl", "xcomp", "ccomp"))


class Predicates:
    """The predicates of a caption under a profile.

    Args:
        clauses: the caption's clauses with resolved pronouns.
        extended: True for the profile ``extended``, False for ``spice``.
    """

    __slots__ = ("c", "extended")

    def __init__(self, clauses: Clauses, extended: bool) -> None:
        self.c = clauses
        self.extended = extended

    def node(self, token: int) -> int:
        """Return the token of the node that a token refers to, -1 if none."""
        c = self.c
        if c.tag[token][:1] == "N":
            return -1 if token in c.inert else token
        known = c.antecedent.get(token, -1)
        if known < 0 and self.extended and c.tag[token] == "PRP" and c.lower[token] in _PEOPLE:
            return token  # *He is riding a horse*
        return known

    def nodes(self, token: int) -> list[int]:
        """Return the nodes of a token and of its conjuncts."""
        return [node for member in self.group(token) if (node := self.node(member)) >= 0]

    def label(self, token: int) -> str:
        """Return the label of a node: its lemma, with the exceptions of each profile."""
        c = self.c
        lemma, form = c.lemma[token], c.lower[token]
        if not self.extended:
            if token == 0 and c.tag[0] == "NNS" and form.endswith("en") and form != "men":
                return form  # SPICE's tagger reads *Women* as a name
            return _SPICE_NAMES.get(lemma, lemma)
        if c.tag[token] == "PRP":
            return _PEOPLE[form]
        if form == "glasses" and not any(
            c.rel[kid] in ("nummod", "det:qmod") or c.prep.get(kid, ("",))[0] == "of"
            for kid in c.kids[token]
        ):
            return form  # eyewear, unless counted or filled
        return lemma

    def children(self, token: int, *rels: str) -> list[int]:
        """Return the children of a token with any of the labels."""
        rel = self.c.rel
        return [kid for kid in self.c.kids[token] if rel[kid] in rels]

    def group(self, token: int) -> list[int]:
        """Return a token and its nominal conjuncts."""
        conjuncts = self.children(token, "conj")
        return [token, *[k for k in conjuncts if self.c.tag[k][:1] in ("N", "P", "D", "C")]]

    def subjects(self, predicate: int) -> list[int]:
        """Return the active subjects of a predicate; conjoined predicates share them."""
        kids = self.children(predicate, "nsubj", "nsubj:pass")
        if not kids and self.c.rel[predicate] == "conj":
            return self.subjects(self.c.head[predicate])
        return [node for kid in kids if self.c.rel[kid] == "nsubj" for node in self.nodes(kid)]

    def actors(self, verb: int) -> list[int]:
        """Return the logical subjects of a verb: also the noun it modifies, or by control."""
        c = self.c
        rel, head = c.rel[verb], c.head[verb]
        found = self.subjects(verb)
        if found or head < 0:
            return found
        if self.children(verb, "nsubj"):  # usually a relative pronoun
            return self._one(head) if self.extended and rel == "acl:relcl" else []
        if rel == "conj" and c.tag[head][:1] == "V":
            return self.actors(head)
        if rel == "acl" or (self.extended and rel == "acl:relcl"):
            return self._one(head)
        if self.extended and rel in _CONTROLLED:
            return self.actors(head) or self.patients(head)
        return []

    def _one(self, token: int) -> list[int]:
        node = self.node(token)
        return [node] if node >= 0 else []

    def patients(self, verb: int) -> list[int]:
        """Return the passive subjects of a verb."""
        return [node for kid in self.children(verb, "nsubj:pass") for node in self.nodes(kid)]

    def agents(self, verb: int) -> list[int]:
        """Return the nouns of a verb's *by* phrase if the parser marks it as agent."""
        return [node for kid in self.children(verb, "obl:agent") for node in self.nodes(kid)]

    def arguments(self, verb: int) -> list[tuple[str, tuple[int, ...], int]]:
        """Return (preposition or "", its positions, node) of each object and oblique."""
        c = self.c
        found: list[tuple[str, tuple[int, ...], int]] = []
        for kid in c.kids[verb]:
            rel = c.rel[kid]
            if rel in ("obj", "iobj"):
                found += [("", (), node) for node in self.nodes(kid)]
            elif rel in ("obl", "nmod", "obl:agent") and kid in c.prep:
                for member in self.group(kid):
                    if (node := self.node(member)) >= 0:
                        found.append((*c.prep.get(member, c.prep[kid]), node))
        return found

    def gap(self, verb: int) -> int:
        """Return the noun modified by a relative clause that has its own subject, -1 if none."""
        c = self.c
        if c.rel[verb] != "acl:relcl":
            return -1
        own = [kid for kid in self.children(verb, "nsubj") if c.tag[kid][:1] == "N"]
        return self.node(c.head[verb]) if len(own) == 1 and self.node(own[0]) >= 0 else -1

    def sharers(self, noun: int, modifier: int) -> list[int]:
        """Return the conjuncts that share a modifier: both in *men and women on a bus*."""
        c = self.c
        if not self.extended:
            return [noun]
        first = c.head[noun] if c.rel[noun] == "conj" and noun not in c.prep else noun
        group = self.nodes(first)
        if len(group) > 1 and modifier > group[-1] and noun in (group[0], group[-1]):
            return group
        return [noun]

    def possesses(self, owner: int, part: int) -> bool:
        """Return whether *of* is possession: the owner has an article, the part not *a* or *an*."""
        c = self.c

        def articles(token: int) -> set[str]:
            return {c.lower[kid] for kid in self.children(token, "det", "nmod:poss")}

        return bool(articles(owner)) and articles(part).isdisjoint(("a", "an"))
