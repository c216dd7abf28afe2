"""Negatives by exchange: subject and object, or the attributes of two objects."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.negatives.change import Change, Scene
from pipeline.negatives.edits import Edit
from pipeline.negatives.lexicon import noun_classes, table, third_person, words
from pipeline.negatives.parsed import Parsed

_BE = {"is": "are", "are": "is", "was": "were", "were": "was", "has": "have", "have": "has"}
_OPPOSITES = (
    (("small", "little", "tiny"), ("large", "big", "huge")),
    (("young",), ("old", "elderly", "older")),
)


def subjects(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Exchange the noun phrases of subject and object; verbs agree with the new subjects."""
    g = parsed.graph
    for (subject, predicate, other), positions in zip(
        g.relations, g.relation_positions, strict=True
    ):
        first, second = (g.object_positions[row] for row in (subject, other))
        names = g.objects[subject], g.objects[other]
        if len(first) > 1 or len(second) > 1 or not positions or _same(*names):
            continue
        if not _directed(predicate) or not words("abstract").isdisjoint(names):
            continue
        if not table()["colours"].keys().isdisjoint(names):
            continue  # "dressed in green"
        a, b = first[0], second[0]
        spans = [parsed.phrase(a), parsed.phrase(b)]
        if spans[0] is None or spans[1] is None or a > b:
            continue
        if any(parsed.of(at, "conj", "appos") or g.deprels[at] == "conj" for at in (a, b)):
            continue
        if parsed.of(g.heads[a], "expl") or "compound" in (g.deprels[a], g.deprels[b]):
            continue
        if not (_alive(names[0]) or any(g.xpos[at][:1] == "V" for at in positions)):
            continue  # places in places: "a restaurant in the city"
        if any(parsed.is_bare(at) or parsed.is_quantity(at) for at in (a, b)):
            continue
        edits = [Edit(*spans[0], parsed.text(spans[1])), Edit(*spans[1], parsed.text(spans[0]))]
        agreed = _agreement(parsed, a, b)
        if agreed is None:
            continue
        weight = 4.0 if _alive(names[1]) else 1.0
        yield Change("swap", (*edits, *agreed), (), weight)


def _directed(predicate: str) -> bool:
    """Return whether a predicate says something else when its arguments are exchanged."""
    parts = predicate.split()
    if not words("symmetric").isdisjoint(parts):
        return False
    if parts[-1] in ("front", "behind", "over", "under", "above", "below", "beyond", "outside"):
        return False
    return not (len(parts) == 1 and parts[0] in words("mutual"))


def _alive(noun: str) -> bool:
    return noun in words("humans") | words("animals")


def _same(one: str, other: str) -> bool:
    """Return whether two nouns may name the same thing."""
    if one == other:
        return True
    if one in words("generic") and _alive(other):
        return other in words("generic")
    sets = [some for kind in noun_classes().values() for some in kind.words.values()]
    return any(one in some and other in some for some in sets)


def _agreement(parsed: Parsed, a: int, b: int) -> list[Edit] | None:
    """Return the edits of the verbs whose subject changes its number; None if unknown."""
    g = parsed.graph
    if parsed.is_plural(a) == parsed.is_plural(b):
        return []
    if parsed.of(a, "acl:relcl") or parsed.of(b, "acl:relcl"):
        return None
    edits = []
    for old in (a, b):
        at = parsed.finite_verb(old)
        if at < 0:
            continue
        form, tag = parsed.lower[at], g.xpos[at]
        if form in _BE:
            edits.append(Edit(at, at + 1, _BE[form]))
        elif tag == "VBZ":
            edits.append(Edit(at, at + 1, g.lemmas[at]))
        elif tag == "VBP":
            edits.append(Edit(at, at + 1, third_person(g.lemmas[at])))
        elif tag != "VBD":
            return None
    return edits


def attributes(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Exchange the colours, sizes or ages of two objects."""
    g = parsed.graph
    found = [
        (token, g.objects[row], parsed.lower[token])
        for token, row in zip(g.attribute_positions, g.attribute_objects, strict=True)
        if parsed.stands_alone(token, g.object_positions[row][0])
    ]
    for at, (token, noun, word) in enumerate(found):
        for other, noun2, word2 in found[at + 1 :]:
            if _same(noun, noun2) or word == word2 or not _exclusive(word, word2):
                continue
            if word in table()["colours"] and not words("humans").isdisjoint((noun, noun2)):
                continue  # a colour of people is no paint
            if scene.known(noun, word2) or scene.known(noun2, word):
                continue
            first, second = sorted((token, other))
            edits = (
                Edit(first, first + 1, parsed.lower[second]),
                Edit(second, second + 1, parsed.lower[first]),
            )
            yield Change("attribute-swap", edits, (), 1.0)


def _exclusive(one: str, other: str) -> bool:
    """Return whether two attributes are of one kind and cannot both hold."""
    colours: dict[str, str] = table()["colours"]
    if one in colours and other in colours:
        return other not in colours[one].split() and one not in colours[other].split()
    return any(
        (one in low and other in high) or (one in high and other in low) for low, high in _OPPOSITES
    )
