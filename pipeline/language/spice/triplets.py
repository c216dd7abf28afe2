"""Extract objects, attributes and relations from parsed captions.

The docstring of each method of ``_SceneGraph`` names its rules; ``pipeline.language.spice.rules``
lists every rule with a pattern, an example and the resulting tuples (docs/rules.md). The profile
``spice`` returns what SPICE 1.0 returns, including what it omits; ``extended`` adds relative,
adverbial and participial clauses, open complements and agentless passives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from features.errors import UnknownName, UsageError
from features.records import TextGraph
from pipeline.language.spice.attachment import reattach
from pipeline.language.spice.clauses import Clauses
from pipeline.language.spice.predicates import Predicates

RULES_VERSION = "2"  # increase when any caption can get other objects, attributes or relations
PROFILES = ("extended", "spice")
_RELATIVES = frozenset(("that", "which", "who", "whom"))
_NO_CLAUSE = frozenset(("aux", "aux:pass", "cop", "amod", "compound"))


class _SceneGraph(Predicates):
    """The tuples of one caption; a node is a noun with the pronouns that refer to it."""

    __slots__ = ("edges", "modifiers", "properties")

    def __init__(self, clauses: Clauses, extended: bool) -> None:
        super().__init__(clauses, extended)
        self.edges: dict[tuple[int, str, int], tuple[int, ...]] = {}
        self.properties: dict[tuple[int, str], int] = {}
        self.modifiers: set[int] = set()  # nouns that only modify other nouns
        c = clauses
        for token in range(c.n):
            letter = c.tag[token][:1]
            if letter == "N" and token not in c.inert:
                self._noun(token)
            if letter == "V":
                if c.rel[token] not in _NO_CLAUSE:
                    self._verb(token)
            elif c.kids[token] and self.children(token, "nsubj"):
                self._predicate(token)

    def _relate(self, subject: int, predicate: str, other: int, at: tuple[int, ...]) -> None:
        if subject != other and subject >= 0 and other >= 0:
            self.edges.setdefault((subject, predicate, other), at)

    def _describe(self, nouns: list[int], attribute: str, at: int) -> None:
        for noun in nouns:
            self.properties.setdefault((noun, attribute), at)

    def _noun(self, noun: int) -> None:
        """Add the modifiers of a noun: amod, number, quantifier, compound, phrase, possessor."""
        c = self.c
        for kid in c.kids[noun]:
            rel = c.rel[kid]
            if rel == "amod":
                for word in (kid, *self.children(kid, "conj")):
                    self._describe([noun], c.lemma[word], word)
            elif rel == "nummod":
                if kid < noun and c.tag[kid] == "CD" and c.tag[noun] in ("NNS", "NNPS"):
                    self._describe([noun], c.lower[kid], kid)
            elif rel == "det:qmod":
                # SPICE keeps the first word: the attribute of "a couple of dogs" is "a"
                word = kid if self.extended else c.counted[noun]
                self._describe([noun], c.lower[word], word)
            elif rel == "compound":
                if c.tag[kid][:1] == "N":
                    self._describe([noun], c.lemma[kid], kid)
                    self.modifiers.add(kid)
            elif rel == "nmod:poss":
                for owner in self.nodes(kid):
                    self._relate(owner, "have", noun, ())
            elif rel == "nmod" and kid in c.prep:
                self._phrase(noun, kid)

    def _phrase(self, noun: int, kid: int) -> None:
        """Add a prepositional phrase of a noun: phrase, possession."""
        c = self.c
        for member in self.group(kid):
            preposition, at = c.prep.get(member, c.prep[kid])
            other = self.node(member)
            if self.extended and preposition == "of" and self.possesses(member, noun):
                self._relate(other, "have", noun, at)
                continue
            for subject in self.sharers(noun, kid):
                self._relate(subject, preposition, other, at)

    def _verb(self, verb: int) -> None:
        """Add a verb: svo, verb-phrase, participle, agent, intransitive, passive."""
        c = self.c
        particles = self.children(verb, "compound:prt")
        name = " ".join([c.lemma[verb], *[c.lower[particle] for particle in particles]])
        at = (verb, *particles)
        subjects = self.actors(verb)
        arguments = self.arguments(verb)
        agents, patients = self.agents(verb), self.patients(verb)
        if agents and self.extended and not patients and c.tag[verb] == "VBN":
            patients, subjects = subjects, []
        if agents and patients:
            for agent in agents:
                for patient in patients:
                    self._relate(agent, name, patient, at)
            arguments = [argument for argument in arguments if argument[2] not in agents]
            if self.extended:  # other phrases describe the patient
                subjects = patients if arguments else []
        elif self.extended:
            subjects = subjects or patients
        for preposition, where, other in arguments:
            if name == "be" and preposition:
                predicate, span = preposition, where
            else:
                predicate = f"{name} {preposition}" if preposition else name
                span = at + where
            for subject in subjects:
                self._relate(subject, predicate, other, span)
        if self.extended and subjects and self._relative(verb, name, at, subjects, bool(arguments)):
            return
        if not arguments and c.lemma[verb] != "be" and (self.extended or c.rel[verb] != "acl"):
            self._describe(subjects, name if self.extended else c.lemma[verb], verb)

    def _relative(
        self, verb: int, name: str, at: tuple[int, ...], subjects: list[int], complete: bool
    ) -> bool:
        """Add the relation of an object relative clause; return whether there is one."""
        c = self.c
        gap = self.gap(verb)
        if gap < 0:
            return False
        stranded: list[int] = []
        for kid in c.kids[verb]:
            if c.lower[kid] in _RELATIVES and kid in c.prep:  # that <- on
                stranded = list(c.prep[kid][1])
            elif (
                kid > verb
                and not stranded
                and c.tag[kid] in ("IN", "TO", "RP")
                and c.rel[kid] in ("advmod", "case", "obl")
            ):
                stranded = [kid]
        if complete and not stranded:
            return False
        parts = [name] if c.lemma[verb] != "be" else []
        predicate = " ".join([*parts, *[c.lower[kid] for kid in stranded]])
        if predicate:
            for subject in subjects:
                self._relate(subject, predicate, gap, (*at, *stranded))
        return bool(predicate)

    def _predicate(self, token: int) -> None:
        """Add a predicate that is not a verb: be-phrase, be-adjective, be-noun."""
        c = self.c
        subjects = self.subjects(token)
        if not subjects and self.extended and c.rel[token] == "acl:relcl":
            subjects = self.actors(token)
        if token in c.prep:
            for member in self.group(token):
                preposition, at = c.prep.get(member, c.prep[token])
                for subject in subjects:
                    self._relate(subject, preposition, self.node(member), at)
        elif c.tag[token][:1] == "J":
            for word in (token, *self.children(token, "conj")):
                if c.tag[word][:1] in ("J", "V"):
                    self._describe(subjects, c.lemma[word], word)
        elif c.tag[token][:1] == "N" and self.children(token, "cop"):
            self._describe(subjects, c.lemma[token], token)

    def graph(self, parsed: TextGraph) -> TextGraph:
        """Return the parsed caption with roles, objects, attributes and relations."""
        c = self.c
        used = {node for s, _, o in self.edges for node in (s, o)}
        used.update(node for node, _ in self.properties)
        unnamed = c.inert | self.modifiers
        used.update(t for t in range(c.n) if c.tag[t][:1] == "N" and t not in unnamed)
        nouns = sorted(used)
        row = {token: at for at, token in enumerate(nouns)}
        mentions = [[token] for token in nouns]
        for pronoun, noun in c.antecedent.items():
            if noun in row:
                mentions[row[noun]].append(pronoun)
        roles = ["other"] * c.n
        for at in self.properties.values():
            roles[at] = "attribute"
        for span in self.edges.values():
            for at in span:
                roles[at] = "relation"
        for mention in mentions:
            for at in mention:
                roles[at] = "object"
        objects = [self.label(token) for token in nouns]
        return replace(
            parsed,
            roles=tuple(roles),
            objects=tuple(objects),
            object_positions=tuple([tuple(mention) for mention in mentions]),
            attributes=tuple([(objects[row[noun]], word) for noun, word in self.properties]),
            attribute_objects=tuple([row[noun] for noun, _ in self.properties]),
            attribute_positions=tuple(self.properties.values()),
            relations=tuple([(row[s], p, row[o]) for s, p, o in self.edges]),
            relation_positions=tuple(self.edges.values()),
        )


def extract(graphs: Iterable[TextGraph], profile: str = "extended") -> list[TextGraph]:
    """Fill in roles, objects, attributes and relations of parsed captions.

    Args:
        graphs: parsed captions with UD v2 dependencies (see ``to_ud``).
        profile: ``extended`` or ``spice``.

    Raises:
        UnknownName: no such profile.
        UsageError: the dependencies are not UD v2.
    """
    if profile not in PROFILES:
        raise UnknownName.of("profile", profile, PROFILES)
    extended = profile == "extended"
    done = []
    for graph in graphs:
        if graph.scheme != "ud":
            raise UsageError(
                f"the rules read UD v2 dependencies, not {graph.scheme!r}. Convert them with to_ud."
            )
        if graph.tokens:
            clauses = Clauses(graph, sides=extended)
            reattach(clauses, profile)
            clauses.resolve_pronouns()
            if extended:
                clauses.attach_own()
            graph = _SceneGraph(clauses, extended).graph(graph)
        done.append(graph)
    return done
