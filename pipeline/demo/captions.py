"""Writes captions for the demo's scenes: a small grammar of English that says only what is true.

Sentence forms cover what the caption rules extract: attributes, relative clauses, passives,
participles, numbers, conjunctions, chains of prepositions, existential "there" and pronouns. A
caption names only some of the things and some of their attributes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pipeline.demo.world import Entity, Relation, Scene

__all__ = ["FORMS", "NOUNS", "write_captions"]

NOUNS: dict[str, tuple[str, ...]] = {
    "ball": ("ball",),
    "basket": ("basket",),
    "bird": ("bird",),
    "boat": ("boat",),
    "box": ("box", "box", "crate"),
    "car": ("car", "car", "vehicle"),
    "cat": ("cat",),
    "cone": ("cone", "traffic cone"),
    "dog": ("dog",),
    "house": ("house", "house", "building"),
    "kite": ("kite",),
    "lamp": ("lamp",),
    "person": ("person",),
    "table": ("table",),
    "tree": ("tree",),
}
_SMALL_NOUNS = {"cat": "kitten", "dog": "puppy", "house": "cottage"}
_PEOPLE = {  # (size, look): nouns
    ("large", 0): ("man", "man", "guy", "person"),
    ("large", 1): ("woman", "woman", "lady", "person"),
    ("small", 0): ("boy", "boy", "child"),
    ("small", 1): ("girl", "girl", "child"),
}
_GARMENTS = (("coat", "jacket"), ("dress",))
_SIZES = {"small": ("small", "little"), "large": ("large", "big")}
_NUMBERS = {2: "two", 3: "three"}
_POSTURES = {  # stem -> third person, plural, participle
    "stand": ("stands", "stand", "standing"),
    "sit": ("sits", "sit", "sitting"),
    "lie": ("lies", "lie", "lying"),
    "fly": ("flies", "fly", "flying"),
    "float": ("floats", "float", "floating"),
    "rest": ("rests", "rest", "resting"),
    "wait": ("waits", "wait", "waiting"),
}
_POSTURE_OF = {
    "ball": ("lie", "rest"),
    "basket": ("stand", "rest"),
    "bird": ("fly",),
    "boat": ("lie", "rest"),
    "box": ("stand", "lie"),
    "cat": ("sit", "rest"),
    "cone": ("stand",),
    "dog": ("stand", "wait"),
    "kite": ("fly", "float"),
    "lamp": ("stand",),
    "person": ("stand", "wait"),
    "table": ("stand",),
    "tree": ("stand",),
    "house": ("stand",),
}
_PASSIVES = {  # kinds that people put somewhere
    "ball": ("placed", "left"),
    "basket": ("placed", "left"),
    "box": ("placed", "left"),
    "car": ("parked",),
    "cone": ("placed",),
    "lamp": ("placed",),
}
_PLACES = {
    "grass": ("in a meadow", "on the grass", "in a green field"),
    "sand": ("on the beach", "on the sand", "on a sandy beach"),
    "snow": ("in the snow", "on snowy ground"),
    "water": ("on the water", "on a calm lake"),
    "floor": ("in a room", "on a wooden floor"),
}


def _a(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


class _Writer:
    """Words for one scene; ``rng`` picks among synonyms and decides what is left out."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene = scene
        self.rng = rng
        kinds = [entity.kind for entity in scene.entities]
        self.twins = {kind for kind in kinds if kinds.count(kind) > 1}

    def entity(self, row: int) -> Entity:
        """The entity of a row."""
        return self.scene.entities[row]

    def plural(self, row: int) -> bool:
        """Whether the entity is several things."""
        return len(self.entity(row).boxes) > 1

    def noun(self, row: int) -> str:
        """A noun for the entity, in the right number."""
        entity = self.entity(row)
        if entity.kind == "person":
            return self.rng.choice(_PEOPLE[entity.size, entity.look])
        noun = self.rng.choice(NOUNS[entity.kind])
        if entity.size == "small" and entity.kind in _SMALL_NOUNS and self.rng.random() < 0.3:
            noun = _SMALL_NOUNS[entity.kind]
        if self.plural(row):
            noun += "es" if noun.endswith("x") else "s"
        return noun

    def phrase(self, row: int, *, definite: bool = False, colour: bool | None = None) -> str:
        """A noun phrase: article or number, some of size and colour, noun."""
        entity = self.entity(row)
        coloured = self.rng.random() < 0.85 if colour is None else colour
        coloured = coloured or (entity.kind in self.twins and colour is not False)
        noun = self.noun(row)
        words: list[str] = []
        if self.plural(row):
            words.append(_NUMBERS[len(entity.boxes)])
        if entity.kind == "person":
            words.append(noun)
            if coloured:
                garment = self.rng.choice(_GARMENTS[entity.look])
                wearing = self.rng.choice(("in", "in", "wearing", "who wears"))
                words += [wearing, _a(entity.colour), entity.colour, garment]
        else:
            if self.rng.random() < 0.5 and noun not in _SMALL_NOUNS.values():
                words.append(self.rng.choice(_SIZES[entity.size]))
            words += [entity.colour, noun] if coloured else [noun]
        if definite:
            return " ".join(["the", *words])
        if self.plural(row):
            return " ".join(words)
        return " ".join([_a(words[0]), *words])

    def preposition(self, relation: Relation) -> str:
        """A preposition for the relation, left and right included."""
        match relation.predicate:
            case "on":
                return self.rng.choice(("on", "on", "on top of"))
            case "in":
                return self.rng.choice(("in", "inside"))
            case "under":
                return self.rng.choice(("under", "under", "underneath", "beneath"))
            case "above":
                return self.rng.choice(("above", "over"))
            case "next to":
                left = self.entity(relation.subject).box[0] < self.entity(relation.object).box[0]
                side = "to the left of" if left else "to the right of"
                return self.rng.choice(("next to", "beside", side))
        return relation.predicate

    def turned(self, relation: Relation) -> Relation:
        """The same fact told from the other thing, where a preposition for it exists."""
        other = {
            "next to": "next to",
            "in front of": "behind",
            "behind": "in front of",
            "above": "under",
            "on": "under",
        }.get(relation.predicate)
        if other is None:
            return relation
        return Relation(relation.object, other, relation.subject)

    def posture(self, row: int, predicate: str) -> tuple[str, str, str]:
        """Third person, plural and participle of a verb that fits the thing and where it is."""
        entity = self.entity(row)
        if entity.kind == "boat" and self.scene.setting == "water":
            return _POSTURES["float"]
        if entity.kind == "bird" and predicate != "above":
            return _POSTURES["sit"]
        return _POSTURES[self.rng.choice(_POSTURE_OF.get(entity.kind, ("stand",)))]

    def be(self, row: int) -> str:
        """The copula that agrees with the entity."""
        return "are" if self.plural(row) else "is"

    def verb(self, row: int, predicate: str) -> str:
        """A finite verb: simple present, progressive, or the copula."""
        third, plural, participle = self.posture(row, predicate)
        if self.entity(row).kind == "car" or self.rng.random() < 0.2:
            return self.be(row)
        if self.rng.random() < 0.5:
            return plural if self.plural(row) else third
        return f"{self.be(row)} {participle}"

    def place(self) -> str:
        """Where the scene is, with a leading space, or nothing."""
        return " " + self.rng.choice(_PLACES[self.scene.setting]) if self.rng.random() < 0.4 else ""

    def tail(self, relation: Relation) -> str:
        """Preposition and second thing."""
        return f"{self.preposition(relation)} {self.phrase(relation.object)}"


def _active(w: _Writer, main: Relation, other: Relation) -> str:
    verb = w.verb(main.subject, main.predicate)
    return f"{w.phrase(main.subject)} {verb} {w.tail(main)}{w.place()}"


def _existential(w: _Writer, main: Relation, other: Relation) -> str:
    return f"there {w.be(main.subject)} {w.phrase(main.subject)} {w.tail(main)}{w.place()}"


def _participle(w: _Writer, main: Relation, other: Relation) -> str:
    doing = w.posture(main.subject, main.predicate)[2]
    if w.entity(main.subject).kind == "car":
        doing = "parked"
    return f"{w.phrase(main.subject)} {doing} {w.tail(main)}{w.place()}"


def _relative(w: _Writer, main: Relation, other: Relation) -> str:
    row = main.subject
    who = "who" if w.entity(row).kind == "person" else w.rng.choice(("that", "which"))
    colour = w.entity(row).colour
    if w.entity(row).kind == "person":
        third = w.posture(row, main.predicate)[0]
        return f"{w.phrase(row)} {who} {third} {w.tail(main)}"
    be, plain = w.be(row), w.rng.random() < 0.5
    thing = w.phrase(row, definite=not plain, colour=False)
    if plain:
        return f"{thing} {who} {be} {colour} {be} {w.tail(main)}"
    return f"{thing} {who} {be} {w.tail(main)} {be} {colour}"


def _predicative(w: _Writer, main: Relation, other: Relation) -> str:
    row = main.subject
    entity = w.entity(row)
    if entity.kind == "person":
        garment = w.rng.choice(_GARMENTS[entity.look])
        clothes = f"{_a(entity.colour)} {entity.colour} {garment}"
        return f"the {w.noun(row)} {w.tail(main)} is wearing {clothes}"
    size = w.rng.choice(_SIZES[entity.size])
    noun, be = w.noun(row), w.be(row)
    if w.rng.random() < 0.5:
        return f"the {noun} {w.tail(main)} {be} {size} and {entity.colour}"
    return f"the {noun} {w.tail(main)} {be} {entity.colour}"


def _passive(w: _Writer, main: Relation, other: Relation) -> str:
    row, kind = main.subject, w.entity(main.subject).kind
    if kind in _PASSIVES:
        done = w.rng.choice(_PASSIVES[kind])
        has = "have" if w.plural(row) else "has"
        be = w.be(row) if w.rng.random() < 0.6 else f"{has} been"
        return f"{w.phrase(row)} {be} {done} {w.tail(main)}{w.place()}"
    agent = {
        "on": "supported by",
        "in": "held by",
        "behind": "partly hidden by",
        "under": "sheltered by",
    }.get(main.predicate)
    if agent is None:
        return f"{w.phrase(row)} can be seen {w.tail(main)}{w.place()}"
    return f"{w.phrase(row)} {w.be(row)} {agent} {w.phrase(main.object)}"


def _holder(w: _Writer, main: Relation, other: Relation) -> str:
    row = main.object
    s = "" if w.plural(row) else "s"
    match main.predicate:
        case "in":
            verb = w.rng.choice((f"hold{s}", f"contain{s}"))
            return f"{w.phrase(row)} {verb} {w.phrase(main.subject)}{w.place()}"
        case "on":
            it = "them" if w.plural(row) else "it"
            return f"{w.phrase(row)} with {w.phrase(main.subject)} on {it}{w.place()}"
        case "behind":
            return f"{w.phrase(row)} partly hide{s} {w.phrase(main.subject)}{w.place()}"
    return _active(w, w.turned(main), other)


def _chain(w: _Writer, main: Relation, other: Relation) -> str:
    if other.object == main.subject:
        main, other = other, main
    if other.subject == main.object:
        return f"{w.phrase(main.subject)} {w.tail(main)} {w.tail(other)}"
    third = w.phrase(other.subject)
    twin = w.entity(main.object).kind in w.twins
    it = "it" if w.rng.random() < 0.3 else w.phrase(main.object, definite=True, colour=twin)
    return f"{w.phrase(main.subject)} {w.tail(main)} with {third} {w.preposition(other)} {it}"


def _while(w: _Writer, main: Relation, other: Relation) -> str:
    first = f"{w.phrase(main.subject)} {w.verb(main.subject, main.predicate)} {w.tail(main)}"
    verb = w.verb(other.subject, other.predicate)
    twin = w.entity(other.object).kind in w.twins
    back = w.phrase(other.object, definite=True, colour=twin)
    link = w.rng.choice((" while", " and", ", and"))
    return f"{first}{link} {w.phrase(other.subject)} {verb} {w.preposition(other)} {back}"


def _together(w: _Writer, main: Relation, other: Relation) -> str:
    if (main.predicate, main.object) == (other.predicate, other.object):
        both = f"{w.phrase(main.subject)} and {w.phrase(other.subject)}"
        return f"{both} are {w.tail(main)}{w.place()}"
    rows = list(range(len(w.scene.entities)))
    w.rng.shuffle(rows)
    *most, last = (w.phrase(row, colour=True) for row in rows)
    place = w.rng.choice(_PLACES[w.scene.setting])
    return f"{', '.join(most)} and {last} {place}"


FORMS: dict[str, Callable[[_Writer, Relation, Relation], str]] = {
    "active": _active,
    "existential": _existential,
    "participle": _participle,
    "relative clause": _relative,
    "predicative": _predicative,
    "passive": _passive,
    "holder": _holder,
    "chain": _chain,
    "while": _while,
    "conjunction": _together,
}


def write_captions(scene: Scene, rng: random.Random, count: int = 5) -> list[str]:
    """Return different true captions of a scene, each in another sentence form.

    The first two tell of all things; the others of the main relation or of the second one.
    """
    writer = _Writer(scene, rng)
    whole = ("chain", "while", "conjunction")
    forms = rng.sample(whole, 2)
    forms += rng.sample([form for form in FORMS if form not in whole], count - 2)
    captions: list[str] = []
    for number, form in enumerate(forms):
        while True:
            relations = list(scene.relations)
            if number > 2 and rng.random() < 0.6:
                relations.reverse()
            main, other = relations
            if form in ("active", "participle", "existential") and rng.random() < 0.25:
                main = writer.turned(main)
            text = FORMS[form](writer, main, other)
            caption = text[0].upper() + text[1:] + "."
            if caption not in captions:
                captions.append(caption)
                break
    rng.shuffle(captions)
    return captions
