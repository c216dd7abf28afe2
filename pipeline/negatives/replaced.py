"""Negatives by replacement: of a noun, an attribute, a number, a verb or a preposition."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.negatives.change import Change, Scene
from pipeline.negatives.edits import Edit
from pipeline.negatives.lexicon import (
    NounClass,
    confusable,
    inflected,
    noun_classes,
    plural,
    table,
    words,
)
from pipeline.negatives.parsed import Parsed

_STRICT = ("ground", "ride", "seat")  # classes whose nouns go with few predicates
_SEEN = 3  # times that a store must have a predicate with a noun for the pair to be usual


def nouns(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Replace a noun by another one of its class that goes with the same predicates."""
    g = parsed.graph
    for row, positions in enumerate(g.object_positions):
        token = positions[0]
        if len(positions) > 1 or g.deprels[token] in ("compound", "amod", "flat"):
            continue
        for name, kind in noun_classes().items():
            if g.objects[row] in kind.sources:
                yield from _nouns_of(parsed, scene, row, name, kind)
    yield from _sports(parsed, scene)


def _nouns_of(
    parsed: Parsed, scene: Scene, row: int, name: str, kind: NounClass
) -> Iterator[Change]:
    g, token, lemma = parsed.graph, parsed.graph.object_positions[row][0], parsed.graph.objects[row]
    many = parsed.is_plural(token)
    span = parsed.phrase(token)
    before = parsed.of(token, "det", "nummod", "nmod:poss", "amod", "compound")
    if span is None or parsed.of(token, "compound", "nmod", "conj", "flat"):
        return
    if g.deprels[token] == "conj" or (name == "person" and parsed.has_personal_pronouns):
        return
    if name == "person" and not scene.facts.isdisjoint(words("groups")):
        return
    adjectives = {g.lemmas[kid] for kid in parsed.of(token, "amod")}
    if name in ("ground", "seat") and not adjectives <= words("size_words"):
        return
    if (
        name not in ("person", "animal")
        and not adjectives <= words("size_words") | table()["colours"].keys()
    ):
        return
    counts_it = any(parsed.lower[kid] == "of" for kid in parsed.of(token, "case"))
    if counts_it and name not in ("person", "animal"):
        return  # "a bottle of water"
    if name == "person" and "another" in (parsed.lower[kid] for kid in before):
        return  # "a man, and another man"
    bare = not before
    cases = {parsed.lower[kid] for kid in parsed.of(token, "case")}
    determiners = {parsed.lower[kid] for kid in parsed.of(token, "det", "nummod")}
    counted = determiners - {"the", "some", "this", "that", "his", "her"}
    slots = [predicate for _, predicate, other in g.relations if other == row]
    acts = [predicate for subject, predicate, _ in g.relations if subject == row]
    targets = kind.targets if name != "person" else (table()["opposite"][lemma],)
    for target in targets:
        mass = target in words("mass")
        if target == lemma or (mass and (many or counted)):
            continue
        blocked = kind.words.get(target) or noun_classes()["person"].words["woman"]
        if not scene.facts.isdisjoint(blocked):
            continue
        times = sum(scene.counts.get((predicate, target), 0) for predicate in slots)
        if name in _STRICT and (not slots or times < _SEEN):
            continue
        if name == "ground" and target != "beach" and "at" in cases:
            continue
        new = plural(target) if many else target
        if bare and not many and not mass and name in _STRICT:
            new = f"the {new}"
        elif bare and not many and not mass and lemma in words("mass"):
            continue
        weight = 0.3 + times if slots else 1.0 + len(acts)
        yield Change("noun", (Edit(token, token + 1, new),), (target,), weight)


def _sports(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Replace the sport in "soccer player" or "playing soccer"."""
    g, kind = parsed.graph, noun_classes()["sport"]
    for token in range(parsed.n):
        played = g.deprels[token] == "obj" and g.lemmas[g.heads[token]] == "play"
        named = g.deprels[token] == "compound" and g.lemmas[g.heads[token]] in (
            "player", "team", "game", "uniform", "match", "field", "coach", "jersey",
        )  # fmt: skip
        if parsed.lower[token] not in kind.sources or not (played or named):
            continue
        if g.deprels[token - 1] == "compound" and token and g.heads[token - 1] == g.heads[token]:
            continue
        for target in kind.targets:
            if scene.facts.isdisjoint(kind.words[target]):
                yield Change("noun", (Edit(token, token + 1, target),), (target,), 1.0)


def attributes(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Replace a colour, or an adjective by one that excludes it."""
    g = parsed.graph
    for token, row in zip(g.attribute_positions, g.attribute_objects, strict=True):
        noun = g.object_positions[row][0]
        if not parsed.stands_alone(token, noun):
            continue
        lemma, name = parsed.lower[token], g.objects[row]
        if lemma in table()["colours"]:
            yield from _colours(parsed, scene, token, name)
        options: list[str] = []
        sized = lemma in table()["sizes"] and name not in words("abstract")
        if (
            sized
            and name not in words("humans")
            and scene.facts.isdisjoint(words("oversized") - {lemma})
        ):
            options = table()["sizes"][lemma]
        for rule in table()["adjectives"]:
            nouns_of = rule["of"]
            if lemma not in rule["from"].split():
                continue
            if nouns_of != "*" and name not in nouns_of.split():
                continue
            if scene.facts.isdisjoint(rule["block"].split()):
                options = rule["to"]
        for new in options:
            if new not in scene.facts:
                yield Change("attribute", (Edit(token, token + 1, new),), (new,), 1.0)


def _colours(parsed: Parsed, scene: Scene, token: int, noun: str) -> Iterator[Change]:
    colours: dict[str, str] = table()["colours"]
    lemma = parsed.lower[token]
    if noun in words("not_coloured") | words("humans") or not scene.facts.isdisjoint(
        words("multicoloured")
    ):
        return
    before = parsed.lower[token - 1] if token else ""
    if before in words("named_shades"):
        return
    for new, near in colours.items():
        # spelled "gray", and told apart from the colour that it replaces
        if new in ("grey", "tan") or lemma in near.split() or new in colours[lemma].split():
            continue
        if noun in words("furred") and new not in words("fur"):
            continue
        if before in words("shades") and new in ("black", "white"):
            continue
        if scene.facts.isdisjoint(near.split()[:2]):
            yield Change("attribute", (Edit(token, token + 1, new),), (new,), 1.0)


def numbers(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Replace a number by a larger one; a smaller one would still be true."""
    g, known = parsed.graph, table()["numbers"]
    for token, row in zip(g.attribute_positions, g.attribute_objects, strict=True):
        noun = g.object_positions[row][0]
        if token < 0 or g.deprels[token] != "nummod" or parsed.lower[token] not in known:
            continue
        if g.xpos[noun] not in ("NNS", "NNPS") and parsed.lower[noun] != "people":
            continue
        if token > noun or parsed.lower[token + 1] in ("-", "of", "or", "and", "year", "years"):
            continue
        if not scene.facts.isdisjoint(("group", "crowd", "several", "many", "pack", "bunch")):
            continue
        if not scene.facts.isdisjoint(words("contests")):
            continue  # there may be more players than those that a caption counts
        at = known.index(parsed.lower[token])
        for new in known[at + 2 : at + 4]:
            if scene.facts.isdisjoint(known[known.index(new) - 1 :]):
                yield Change("number", (Edit(token, token + 1, new),), (new,), 1.0)


def predicates(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    """Replace a verb or a preposition by one that excludes it."""
    yield from _verbs(parsed, scene)
    yield from _prepositions(parsed, scene)


def _verbs(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    g, rules = parsed.graph, table()["predicates"]
    for verb in range(parsed.n):
        rule, tag = rules.get(g.lemmas[verb]), g.xpos[verb]
        if rule is None or tag not in ("VBG", "VBZ", "VBP", "VB", "VBD"):
            continue
        if g.deprels[verb] in ("aux", "aux:pass", "cop", "amod", "compound"):
            continue
        if parsed.of(verb, "compound:prt", "xcomp", "ccomp", "aux:pass", "iobj", "conj"):
            continue
        if g.deprels[verb] == "conj" or not scene.facts.isdisjoint(rule["block"].split()):
            continue
        objects = parsed.of(verb, "obj")
        if bool(objects) != bool(rule.get("transitive")) or len(objects) > 1:
            continue
        if objects and (objects[0] < verb or g.lemmas[objects[0]] in words("abstract")):
            continue
        if objects and g.lemmas[objects[0]] in table()["colours"]:
            continue  # "wearing red"
        for new in rule["to"].split():
            if not scene.facts.isdisjoint(confusable(new)):
                continue
            edit = Edit(verb, verb + 1, inflected(new, tag))
            if objects:
                if new not in words("moving") and _leads_somewhere(parsed, verb):
                    continue
                if _held_by_a_part(parsed, verb, objects[0]):
                    continue  # "a ball in its mouth" is not thrown
                if new == "push" and g.lemmas[objects[0]] in ("skateboard", "board", "scooter"):
                    continue  # which is how they are ridden
                times = scene.counts.get((new, g.lemmas[objects[0]]), 0)
                yield Change("predicate", (edit,), (new,), 0.3 + times)
            else:
                yield from _intransitive(parsed, scene, verb, new, edit)


def _held_by_a_part(parsed: Parsed, verb: int, thing: int) -> bool:
    phrases = [*parsed.of(verb, "obl"), *parsed.of(thing, "nmod")]
    parts = {part for kid in phrases for part in parsed.graph.lemmas[kid].split("-")}
    return not parts.isdisjoint(words("body"))


def _leads_somewhere(parsed: Parsed, verb: int) -> bool:
    """Return whether a direction follows a verb, as in "rides a bike down a path".

    Whatever it is attached to: parsers attach such phrases to the nearest noun or verb.
    """
    return not words("directions").isdisjoint(parsed.lower[verb + 1 :])


def _intransitive(
    parsed: Parsed, scene: Scene, verb: int, new: str, edit: Edit
) -> Iterator[Change]:
    """Replace a verb without an object, with its preposition if the new verb takes another."""
    g, after = parsed.graph, verb + 1
    phrase = g.heads[after] if after < parsed.n and g.deprels[after] == "case" else -1
    if phrase < 0:
        ends = after >= parsed.n or parsed.lower[after] in (".", "and", "while", "as", ",", "!")
        if ends and not parsed.of(verb, "obl"):
            yield Change("predicate", (edit,), (new,), 1.0)
        return
    if g.heads[phrase] != verb or after + 1 >= parsed.n:
        return
    later = [case for kid in parsed.of(verb, "obl") for case in parsed.of(kid, "case")]
    if any(case != after and parsed.lower[case] in words("onward") for case in later):
        return  # "jumps from one bed to another"
    preposition, noun = parsed.lower[after], g.lemmas[phrase]
    single = parsed.lower[after + 1] not in words("multiword") and g.deprels[after + 1] != "case"
    usual = scene.counts.get((f"{new} {preposition}", noun), 0)
    if usual:
        yield Change("predicate", (edit,), (new,), 1.0 + usual)
    elif single and preposition not in ("with", "for", "to"):
        times = {
            other: scene.counts.get((f"{new} {other}", noun), 0)
            for other in ("in", "on", "at", "under", "by", "near")
        }
        other = max(times, key=lambda name: times[name])
        if times[other] >= _SEEN:
            changed = (edit, Edit(after, after + 1, other))
            yield Change("predicate", changed, (new,), 1.0 + times[other])


def _prepositions(parsed: Parsed, scene: Scene) -> Iterator[Change]:
    g = parsed.graph
    for rule in table()["prepositions"]:
        parts = rule["from"].split()
        for at in range(parsed.n - len(parts)):
            if list(parsed.lower[at : at + len(parts)]) != parts:
                continue
            stop = at + len(parts)
            noun = g.heads[stop - 1]  # "of" in "in front of"
            if g.deprels[stop - 1] != "case" or noun < stop:
                continue
            near = {parsed.lower[other] for other in (at - 1, stop) if 0 <= other < parsed.n}
            if len(parts) == 1 and not near.isdisjoint(
                words("multiword") | {"up", "down", "on", "in"}
            ):
                continue
            if "of" in rule and g.lemmas[noun] not in rule["of"].split():
                continue
            if g.lemmas[noun] in words("no_medium"):
                continue  # nothing jumps out of the air
            if scene.facts.isdisjoint(rule["block"].split()):
                new = rule["to"]
                yield Change("predicate", (Edit(at, stop, new),), (new.split()[-1],), 3.0)
