"""Parsed captions -> objects, attributes and relations, by the rules of ``pipeline.rules``.

Two profiles: ``spice`` gives what SPICE 1.0 gives, with what it leaves out; ``extended`` adds
relative, adverbial and participial clauses, open complements and agentless passives.
"""

from __future__ import annotations

from collections.abc import Iterable

from features.errors import UnknownName
from features.records import TextGraph
from pipeline.attachment import reattach
from pipeline.clauses import Clauses
from pipeline.words import names, words

__all__ = ["PROFILES", "RULES_VERSION", "extract"]

RULES_VERSION = "1"  # bump when any caption may give other objects, attributes or relations
PROFILES = ("extended", "spice")
_PEOPLE = names("people")
_SPICE_NAMES = names("spice_names")
_NUMBERS = words("numbers")
_NOT_RELATING = frozenset(["nmod:poss", "nmod:npmod", "obl:npmod", "obl:tmod", "obl:unmarked"])


class _Graph:
    """Collects the tuples of one caption; one node per noun, pronouns joined to antecedents."""

    def __init__(self, clauses: Clauses, extended: bool) -> None:
        self.c = clauses
        self.extended = extended
        self.edges: dict[tuple[int, str, int], tuple[int, ...]] = {}
        self.properties: dict[tuple[int, str], int] = {}
        self.modifiers: set[int] = set()  # nouns that only modify another noun

    # -- reading the tree -------------------------------------------------------------------

    def node(self, token: int) -> int:
        """Return the noun a token stands for, -1 if none."""
        c = self.c
        if token in c.antecedent:
            return c.antecedent[token]
        if self.extended and c.tag[token] == "PRP" and c.lower[token] in _PEOPLE:
            return token
        if c.tag[token][:1] == "N" and token not in c.inert:
            return token
        return -1

    def group(self, token: int) -> list[int]:
        """Return a token and its conjuncts."""
        c = self.c
        found = [token]
        for kid in c.kids[token]:
            if c.rel[kid] == "conj" and c.tag[kid][:1] in "NPDC":
                found.append(kid)
        return found

    def children(self, token: int, *rels: str) -> list[int]:
        return [kid for kid in self.c.kids[token] if self.c.rel[kid] in rels]

    def subjects(self, verb: int) -> list[int]:
        """Return the nouns that do what a predicate says; conjoined predicates share them."""
        c = self.c
        found = [
            n
            for s in self.children(verb, "nsubj")
            for x in self.group(s)
            if (n := self.node(x)) >= 0
        ]
        if found or self.children(verb, "nsubj", "nsubj:pass"):
            return found
        rel, head = c.rel[verb], c.head[verb]
        if rel == "conj" and head >= 0:
            return self.subjects(head)
        return []

    def title(self, token: int) -> str:
        """Return what a node is called: its lemma, apart from the cases of either profile."""
        c = self.c
        lemma, form = c.lemma[token], c.lower[token]
        if self.extended:
            if c.tag[token] == "PRP":
                return _PEOPLE[form]
            if form == "glasses" and not any(
                c.rel[k] in ("nummod", "det:qmod") or (c.rel[k] == "nmod" and c.prep[k][0] == "of")
                for k in c.kids[token]
                if c.rel[k] != "nmod" or k in c.prep
            ):
                return form  # eyewear, unless counted or filled
            return lemma
        if token == 0 and c.tag[0] == "NNS" and form.endswith("en") and form != "men":
            return form  # SPICE's tagger takes *Women* for a name
        return _SPICE_NAMES.get(lemma, lemma)

    # -- writing tuples ---------------------------------------------------------------------

    def relate(self, subject: int, predicate: str, object_: int, at: tuple[int, ...]) -> None:
        if subject != object_ and subject >= 0 and object_ >= 0:
            self.edges.setdefault((subject, predicate, object_), at)

    def describe(self, noun: int, attribute: str, at: int) -> None:
        if noun >= 0:
            self.properties.setdefault((noun, attribute), at)

    # -- rules ------------------------------------------------------------------------------

    def run(self) -> None:
        c = self.c
        for token in range(c.n):
            tag, rel = c.tag[token][:1], c.rel[token]
            if tag == "N" and token not in c.inert:
                self.noun(token)
            if tag == "V" and rel not in ("aux", "aux:pass", "cop", "amod", "compound"):
                self.verb(token)
            elif self.children(token, "nsubj", "nsubj:pass"):
                self.predicate(token)

    def noun(self, token: int) -> None:
        """Attributes, prepositional phrases and possessors of a noun."""
        c = self.c
        if token in c.counted:
            first = c.counted[token]
            word = c.lower[token - 2] if first == token - 3 else c.lower[first]
            quantifier = next(k for k in c.kids[token] if c.rel[k] == "det:qmod")
            word = c.lower[quantifier] if self.extended else c.lower[first]
            self.describe(token, word, quantifier)
        for kid in c.kids[token]:
            rel, tag = c.rel[kid], c.tag[kid]
            if rel == "amod":
                for adjective in [kid, *self.children(kid, "conj")]:
                    if c.tag[adjective][:1] in "JVNCR":
                        self.describe(token, c.lemma[adjective], adjective)
            elif rel == "nummod":
                if (
                    kid < token
                    and c.tag[token] in ("NNS", "NNPS")
                    and c.lower[kid] in _NUMBERS | {c.lower[kid]} - set()
                ):
                    self.describe(token, c.lower[kid], kid)
            elif rel == "compound" and tag[0] == "N":
                self.describe(token, c.lemma[kid], kid)
                self.modifiers.add(kid)
            elif rel == "nmod:poss":
                for owner in self.group(kid):
                    self.relate(self.node(owner), "have", token, ())
            elif rel == "nmod" and kid in c.prep:
                self.phrase(token, kid)
            elif rel in ("acl", "acl:relcl") and c.tag[kid][:1] == "V":
                pass

    def phrase(self, noun: int, kid: int) -> None:
        c = self.c
        for member in self.group(kid):
            preposition, at = c.prep.get(member, c.prep[kid])
            other = self.node(member)
            if self.extended and preposition == "of" and self.possesses(member, noun):
                self.relate(other, "have", noun, at)
            else:
                for subject in self.sharers(noun, kid):
                    self.relate(subject, preposition, other, at)

    def sharers(self, noun: int, kid: int) -> list[int]:
        """Return the conjuncts that share a modifier: in *men and women on a bus* both."""
        if not self.extended:
            return [noun]
        c = self.c
        first = c.head[noun] if c.rel[noun] == "conj" and noun not in c.prep else noun
        group = [n for x in self.group(first) if (n := self.node(x)) >= 0]
        if len(group) > 1 and kid > group[-1] and noun in (group[0], group[-1]):
            return group
        return [noun]

    def possesses(self, owner: int, part: int) -> bool:
        """Say whether *the door of a house* is meant: both determined, the part by *the*."""
        c = self.c

        def articles(token: int) -> set[str]:
            return {c.lower[k] for k in c.kids[token] if c.rel[k] in ("det", "nmod:poss")}

        return bool(articles(owner)) and articles(part).isdisjoint(("a", "an"))

    def arguments(self, verb: int) -> list[tuple[str, tuple[int, ...], int]]:
        """Return (preposition or "", its positions, noun) of each object and oblique."""
        c = self.c
        found: list[tuple[str, tuple[int, ...], int]] = []
        for kid in c.kids[verb]:
            rel = c.rel[kid]
            if rel in ("obj", "iobj"):
                found += [("", (), n) for x in self.group(kid) if (n := self.node(x)) >= 0]
            elif rel in ("obl", "nmod", "obl:agent") and kid in c.prep:
                for member in self.group(kid):
                    if (n := self.node(member)) >= 0:
                        preposition, at = c.prep.get(member, c.prep[kid])
                        found.append((preposition, at, n))
        return found

    def name(self, verb: int) -> tuple[str, tuple[int, ...]]:
        c = self.c
        particles = self.children(verb, "compound:prt")
        parts = [c.lemma[verb], *(c.lower[p] for p in particles)]
        return " ".join(parts), (verb, *particles)

    def verb(self, verb: int) -> None:
        c = self.c
        rel = c.rel[verb]
        arguments = self.arguments(verb)
        name, at = self.name(verb)
        subjects = self.doers(verb)
        agents = [
            n
            for k in self.children(verb, "obl:agent")
            for x in self.group(k)
            if (n := self.node(x)) >= 0
        ]
        passive = [
            n
            for k in self.children(verb, "nsubj:pass")
            for x in self.group(k)
            if (n := self.node(x)) >= 0
        ]
        if self.extended and not passive and agents and c.tag[verb] == "VBN":
            passive, subjects = subjects, []
        if passive and agents:
            for agent in agents:
                for patient in passive:
                    self.relate(agent, name, patient, at)
            arguments = [a for a in arguments if a[2] not in agents]
        if passive and self.extended and not agents:
            subjects = subjects or passive
        for preposition, where, other in arguments:
            predicate = f"{name} {preposition}" if preposition else name
            if predicate.startswith("be "):
                predicate = predicate[3:]
            for subject in subjects:
                self.relate(
                    subject,
                    predicate,
                    other,
                    (*at, *where) if not predicate == preposition else where,
                )
        if self.extended and (gap := self.gap(verb)) >= 0 and subjects:
            stranded = [
                k
                for k in self.children(verb, "advmod", "case", "obl")
                if c.tag[k] in ("IN", "TO", "RP") and k > verb
            ]
            words_ = [c.lower[k] for k in stranded[:1]]
            predicate = " ".join(([name] if c.lemma[verb] != "be" else []) + words_)
            if stranded or not arguments:
                for subject in subjects:
                    if predicate:
                        self.relate(subject, predicate, gap, (*at, *stranded[:1]))
                arguments = arguments or [("", (), gap)]
        if not arguments and (rel not in ("acl",) or self.extended) and c.lemma[verb] != "be":
            for subject in subjects:
                self.describe(subject, c.lemma[verb] if not self.extended else name, verb)

    def gap(self, verb: int) -> int:
        """Return the noun that a relative clause with a subject of its own is about, -1 if none."""
        c = self.c
        subjects = [k for k in self.children(verb, "nsubj") if self.node(k) >= 0]
        if c.rel[verb] == "acl:relcl" and len(subjects) == 1 and c.tag[subjects[0]][0] == "N":
            return self.node(c.head[verb])
        return -1

    def doers(self, verb: int) -> list[int]:
        """Return who does a verb: its subject, the noun it modifies, or (extended) by control."""
        c = self.c
        rel, head = c.rel[verb], c.head[verb]
        found = self.subjects(verb)
        if found or self.children(verb, "nsubj"):
            if not found and self.extended and rel == "acl:relcl":
                return [n] if (n := self.node(head)) >= 0 else []
            return found
        if rel == "conj" and head >= 0 and c.tag[head][:1] == "V":
            return self.doers(head)
        if rel == "acl" and head >= 0:
            return [n] if (n := self.node(head)) >= 0 else []
        if self.extended:
            if rel == "acl:relcl":
                return [n] if (n := self.node(head)) >= 0 else []
            if rel in ("advcl", "xcomp", "ccomp") and head >= 0:
                return self.doers(head) or [
                    n for k in self.children(head, "nsubj:pass") if (n := self.node(k)) >= 0
                ]
        return []

    def predicate(self, token: int) -> None:
        """Copular and other non-verbal predicates: adjective, noun, prepositional phrase."""
        c = self.c
        subjects = self.subjects(token)
        tag = c.tag[token][:1]
        if token in c.prep:
            for member in self.group(token):
                preposition, at = c.prep.get(member, c.prep[token])
                for subject in subjects:
                    self.relate(subject, preposition, self.node(member), at)
            return
        if tag == "J":
            for adjective in [token, *self.children(token, "conj")]:
                if c.tag[adjective][:1] in "JV":
                    for subject in subjects:
                        self.describe(subject, c.lemma[adjective], adjective)
        elif tag == "N" and self.children(token, "cop"):
            for subject in subjects:
                self.describe(subject, c.lemma[token], token)

    # -- result -----------------------------------------------------------------------------

    def finish(self, graph: TextGraph) -> TextGraph:
        c = self.c
        nouns = [t for t in range(c.n) if c.tag[t][:1] == "N" and t not in c.inert]
        used = {t for s, _, o in self.edges for t in (s, o)} | {t for t, _ in self.properties}
        nouns = [t for t in nouns if t not in self.modifiers or t in used]
        if self.extended:
            nouns = sorted({*nouns, *used})
        row = {token: at for at, token in enumerate(nouns)}
        mentions: list[list[int]] = [[t] for t in nouns]
        for pronoun, noun in c.antecedent.items():
            if noun in row:
                mentions[row[noun]].append(pronoun)
        roles = ["other"] * c.n
        for (_, _), at in self.properties.items():
            if at >= 0:
                roles[at] = "attribute"
        for where in self.edges.values():
            for at in where:
                roles[at] = "relation"
        for group in mentions:
            for at in group:
                roles[at] = "object"
        relations = list(self.edges.items())
        attributes = list(self.properties.items())
        objects = tuple([self.title(t) for t in nouns])
        return TextGraph(
            graph.caption, graph.tokens, graph.lemmas, graph.upos, graph.xpos, graph.heads, graph.deprels,
            tuple(roles), objects, tuple(map(tuple, mentions)),
            tuple((objects[row[t]], a) for (t, a), _ in attributes),
            tuple(row[t] for (t, _), _ in attributes),
            tuple(at for _, at in attributes),
            tuple((row[s], p, row[o]) for (s, p, o), _ in relations),
            tuple(where for _, where in relations),
            graph.scheme, graph.problem, graph.sentence_starts,
        )  # fmt: skip


def extract(graphs: Iterable[TextGraph], profile: str = "extended") -> list[TextGraph]:
    """Fill roles, objects, attributes and relations of parsed captions.

    Args:
        graphs: from a parser, or read back from a store, in any dependency scheme.
        profile: ``extended`` or ``spice``.

    Raises: UnknownName: no such profile.
    """
    if profile not in PROFILES:
        raise UnknownName.of("profile", profile, PROFILES)
    done = []
    for graph in graphs:
        if not graph.tokens:
            done.append(graph)
            continue
        clauses = Clauses(graph, sides=profile == "extended")
        reattach(clauses, profile)
        clauses.resolve_pronouns()
        if profile == "extended":
            clauses.attach_own()
        found = _Graph(clauses, profile == "extended")
        found.run()
        done.append(found.finish(graph))
    return done
