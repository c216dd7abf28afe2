"""Link parsed captions with the boxes of their marked phrases."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.convert import Phrase, Sentence
from features.records import Detections, TextGraph

Float = npt.NDArray[np.float32]
Relation = tuple[int, str, int]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Nouns that keep their plural: a singular would name another thing, or nothing.
_PAIRS = frozenset(("glasses", "sunglasses", "sweatpants"))
# Nouns that leave the name of the object to the noun after "of": "a group of people".
COLLECTIVES = _words(
    "array assortment body bouquet bunch bundle cluster collection couple crowd expanse flight "
    "flock gathering group herd kind line lot mound number pack pair patch piece pile row series "
    "set sheet slice sort stack stretch strip type variety"
)
COLOURS = _words(
    "beige black blue brown gold gray green grey maroon orange pink purple red silver tan "
    "turquoise white yellow"
)
# Attributes that count or compare instead of describing.
_COUNTS = _words(
    "another both few many more multiple number numerous other same several some various"
)
# Nouns of scenes that name a place in the image instead of something in it.
_PLACES = _words(
    "back background bottom camera corner day distance edge end foreground front ground left "
    "middle photo picture right shot side top view way"
)


class Evidence(NamedTuple):
    """The words of a caption that state a relation.

    Attributes:
        caption: number of the caption among those of the image, from 0.
        subject, object: token positions of the heads of both phrases.
        predicate: token positions of the predicate; empty if no word states it (``have`` of "his").
    """

    caption: int
    subject: int
    predicate: tuple[int, ...]
    object: int


@dataclass
class GroundingCounts:
    """What became of the triplets of some captions.

    Attributes:
        triplets: all of them.
        grounded: both ends are phrases with boxes, of two entities.
        without_box: an end is a phrase that has no box.
        within: both ends are in one phrase or name one entity.
        outside: an end is in no marked phrase.
    """

    triplets: int = 0
    grounded: int = 0
    without_box: int = 0
    within: int = 0
    outside: int = 0

    @property
    def share(self) -> float:
        """Share of the triplets that are grounded, of those whose phrases have boxes."""
        return self.grounded / max(self.triplets - self.without_box, 1)


@dataclass(frozen=True, eq=False)
class GroundedGraph:
    """A scene graph of gold boxes.

    Attributes:
        boxes: (n, 4) float32 xyxy pixels.
        size: (width, height) of the image.
        nouns: for each box, how many phrases have each noun (a lemma) as their head.
        attributes: for each box, how many phrases state each attribute.
        relations: how the captions link two boxes: (subject row, predicate, object row), the most
            frequently stated first.
        evidence: for each relation, the words that state it.
    """

    boxes: Float
    size: tuple[int, int]
    nouns: tuple[Counter[str], ...]
    attributes: tuple[Counter[str], ...]
    relations: tuple[Relation, ...]
    evidence: tuple[tuple[Evidence, ...], ...]
    captions: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The most frequent noun of each box; ``object`` if no phrase has a noun."""
        return tuple(
            max(names, key=lambda n: names[n]) if names else "object" for names in self.nouns
        )

    def detections(self) -> Detections:
        """Return the graph as detections; the score of a relation is its share of the captions."""
        shares = [len({e.caption for e in words}) / self.captions for words in self.evidence]
        return Detections(
            boxes=self.boxes,
            labels=self.labels,
            scores=np.ones(len(self.boxes), np.float32),
            size=self.size,
            attributes=tuple(tuple(found) for found in self.attributes),
            relations=self.relations,
            relation_scores=np.array(shares, np.float32),
        )


@dataclass
class _Entity:
    """What all captions of an image say about one entity."""

    nouns: Counter[str] = field(default_factory=Counter)
    attributes: Counter[str] = field(default_factory=Counter)
    types: set[str] = field(default_factory=set)
    rows: tuple[int, ...] = ()


def ground(
    sentences: Sequence[Sentence],
    parses: Sequence[TextGraph],
    boxes: Float,
    entities: Sequence[Sequence[str]],
    size: tuple[int, int],
    counts: GroundingCounts | None = None,
) -> GroundedGraph:
    """Merge the captions of an image into one graph of its boxes.

    An end of a triplet belongs to the phrase that contains its head word; phrases of one entity are
    merged over all captions, so a relation counts for the boxes of an entity whatever a caption
    calls it. An entity of several boxes is related box by box: each box to the nearest one of the
    other entity. A scene without a box, such as "a beach", gets the box of the whole image.

    Args:
        sentences: marked captions.   parses: the parsed captions, in the same order.
        boxes: (n, 4) xyxy.   entities: the entity ids of each box.
        size: (width, height) of the image.
        counts: is increased by what became of the triplets.
    """
    known: dict[str, _Entity] = defaultdict(_Entity)
    stated: dict[tuple[str, str, str], list[Evidence]] = defaultdict(list)
    counts = GroundingCounts() if counts is None else counts
    for number, (sentence, parse) in enumerate(zip(sentences, parses, strict=True)):
        for phrase in sentence.phrases:
            known[phrase.entity].types.update(phrase.types)
            known[phrase.entity].rows = phrase.boxes
        _read_caption(number, sentence, parse, known, stated)
    corners = [*boxes]
    names = [list(ids) for ids in entities]
    for name, entity in known.items():
        if "scene" in entity.types and not entity.rows and entity.nouns.keys() - _PLACES:
            entity.rows = (len(corners),)
            corners.append(np.array([0, 0, *size], np.float32))
            names.append([name])
    every = np.array(corners, np.float32).reshape(-1, 4)
    linked: dict[Relation, list[Evidence]] = defaultdict(list)
    counts.triplets += sum(len(parse.relations) for parse in parses)
    for (first, predicate, second), words in stated.items():
        if not (first and second):
            counts.outside += len(words)
        elif first == second:
            counts.within += len(words)
        elif not (known[first].rows and known[second].rows):
            counts.without_box += len(words)
        else:
            counts.grounded += len(words)
            for subject, target in _pairs(known[first].rows, known[second].rows, every):
                linked[subject, predicate, target] += words
    order = sorted(linked, key=lambda relation: -len(linked[relation]))
    return GroundedGraph(
        boxes=every,
        size=size,
        nouns=tuple(sum((known[n].nouns for n in ids), Counter()) for ids in names),
        attributes=tuple(sum((known[n].attributes for n in ids), Counter()) for ids in names),
        relations=tuple(order),
        evidence=tuple(tuple(linked[relation]) for relation in order),
        captions=len(sentences),
    )


def _read_caption(
    number: int,
    sentence: Sentence,
    parse: TextGraph,
    known: dict[str, _Entity],
    stated: dict[tuple[str, str, str], list[Evidence]],
) -> None:
    """Add what one caption says about entities and between them; "" is no entity."""
    phrase_of = _phrases_of_tokens(sentence, parse.tokens)
    heads = [positions[0] for positions in parse.object_positions]
    ends = [
        next((phrase_of[at] for at in positions if phrase_of[at] is not None), None)
        for positions in parse.object_positions
    ]
    named = _head_objects(parse, phrase_of, ends)
    for number_of_phrase, node in named.items():
        entity = known[sentence.phrases[number_of_phrase].entity]
        noun = _noun(parse, node, heads[node])
        if noun in COLOURS and "clothing" in entity.types:  # "a girl in red"
            entity.attributes[noun] += 1
            noun = "clothing"
        entity.nouns[noun] += 1
    described = zip(
        parse.attributes, parse.attribute_objects, parse.attribute_positions, strict=True
    )
    for (_, word), node, at in described:
        place = ends[node]
        if place is None or named.get(place) != node or at in (-1, heads[node]):
            continue
        counted = parse.xpos[at] in ("CD", "DT", "PDT") or word in _COUNTS or word in COLLECTIVES
        if phrase_of[at] == place and not counted:
            known[sentence.phrases[place].entity].attributes[word] += 1
    for (subject, predicate, target), words in zip(
        parse.relations, parse.relation_positions, strict=True
    ):
        first, second = (
            "" if (phrase := ends[node]) is None else sentence.phrases[phrase].entity
            for node in (subject, target)
        )
        stated[first, predicate, second].append(
            Evidence(number, heads[subject], words, heads[target])
        )


def _noun(parse: TextGraph, node: int, at: int) -> str:
    """Return the noun of a node at a token; SPICE's names have a singular for pairs, *sunglass*."""
    form = parse.tokens[at].lower()
    counted = any(
        head == at and relation in ("nummod", "det:qmod")
        for head, relation in zip(parse.heads, parse.deprels, strict=True)
    )
    return form if form in _PAIRS and not counted else parse.objects[node]


def _head_objects(
    parse: TextGraph, phrase_of: Sequence[int | None], ends: Sequence[int | None]
) -> dict[int, int]:
    """Return the object that names each phrase: its syntactic head, or what a collective holds."""
    inside: dict[int, list[int]] = defaultdict(list)
    for node, phrase in enumerate(ends):
        head = parse.object_positions[node][0]
        if phrase is not None and phrase_of[head] == phrase:
            inside[phrase].append(node)
    members = {s: o for s, p, o in parse.relations if p == "of" and ends[s] == ends[o]}
    heads = [parse.heads[positions[0]] for positions in parse.object_positions]
    found = {}
    for phrase, nodes in inside.items():
        tops = [n for n in nodes if heads[n] < 0 or phrase_of[heads[n]] != phrase]
        node = (tops or nodes)[0]
        for _ in nodes:  # a chain is no longer than the phrase
            member = members.get(node, -1)
            if parse.objects[node] in COLLECTIVES and member in nodes:
                node = member
        found[phrase] = node
    return found


def _phrases_of_tokens(sentence: Sentence, tokens: Sequence[str]) -> list[int | None]:
    """Return the phrase of each token; the tokens may split the words differently."""
    phrase_of_word: dict[int, int] = {}
    for number, phrase in enumerate(sentence.phrases):
        for word in _span(phrase):
            phrase_of_word[word] = number
    ours, owner = _letters(tokens)
    theirs, word_of = _letters(sentence.words)
    at: dict[int, int] = {}
    if ours == theirs:
        for token, word in zip(owner, word_of, strict=True):
            at.setdefault(token, word)
    else:
        matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
        for first, second, length in matcher.get_matching_blocks():
            for step in range(length):
                at.setdefault(owner[first + step], word_of[second + step])
    return [phrase_of_word.get(at.get(token, -1)) for token in range(len(tokens))]


def _span(phrase: Phrase) -> range:
    return range(phrase.first_word, phrase.first_word + len(phrase.text.split()))


def _letters(words: Sequence[str]) -> tuple[str, list[int]]:
    """Return all letters in lower case, and the word of each."""
    parts = [w.lower().replace("``", '"').replace("''", '"') for w in words]
    return "".join(parts), [number for number, part in enumerate(parts) for _ in part]


def _pairs(subjects: Sequence[int], objects: Sequence[int], boxes: Float) -> list[tuple[int, int]]:
    """Return which boxes of two entities are related: nearest first, each box at least once."""
    ranked = sorted(
        ((s, o) for s in subjects for o in objects if s != o),
        key=lambda pair: (_distance(boxes[pair[0]], boxes[pair[1]]), pair),
    )
    used: set[tuple[str, int]] = set()
    chosen = []
    for both in (True, False):  # one to one, then the boxes that are left over
        for s, o in ranked:
            free = ("s", s) not in used, ("o", o) not in used
            if all(free) if both else any(free):
                chosen.append((s, o))
                used |= {("s", s), ("o", o)}
    return sorted(chosen)


def _distance(a: Float, b: Float) -> tuple[float, float]:
    """Return how far apart two boxes are: the share of the smaller outside, then their centres."""
    width, height = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(0.0, float(width)) * max(0.0, float(height))
    smaller = min(float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    apart = np.hypot(*((a[:2] + a[2:] - b[:2] - b[2:]) / 2))
    return -round(shared / max(smaller, 1.0), 2), float(apart)
