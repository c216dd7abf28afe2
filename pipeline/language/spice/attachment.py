"""Attachment of prepositional phrases, participles and infinitives.

SPICE's parser (an unlexicalised grammar) attaches them lower than spaCy's, and SPICE's triplets
follow its attachments, so they are decided again here. The candidates are the words on the right
frontier of the tree; the score of a candidate is the sum of the weights of closed-class cues
(preposition, tags, grammatical role, distance, commas, the parser's choice), and the best candidate
wins. No cue names a content word. The weights in ``data/attachment.json`` are a softmax regression
on SPICE's output and on human scene graphs, fitted by ``python -m benchmarks.fit_attachment``.
"""

from __future__ import annotations

import json
from functools import cache

from pipeline.language.spice.clauses import Clauses
from pipeline.language.words import names, phrases, read_data, word_class

_ROLE = names("roles")
_INSIDE = word_class("inner_labels")
_PREPOSITIONS = word_class("common_prepositions") | phrases("common_phrases")
_NO_NOUN = -1


@cache
def _weights(profile: str) -> dict[str, float]:
    weights: dict[str, float] = json.loads(read_data("attachment.json"))[profile]
    return weights


def sites(c: Clauses) -> list[tuple[int, int, str]]:
    """Return (first position, token, kind) of all attachments to decide, in order.

    Kinds: ``phrase``, a noun with a preposition; ``clause``, a participle or infinitive without a
    subject.
    """
    found = []
    for noun, (preposition, at) in c.prep.items():
        if c.rel[noun] in ("obl", "nmod") and preposition != "of" and at[0] > 0:
            found.append((at[0], noun, "phrase"))
    for token in range(1, c.n):
        if c.tag[token] in ("VBG", "VBN", "VB") and c.rel[token] in ("acl", "advcl", "xcomp"):
            inner = {c.rel[kid] for kid in c.kids[token]}
            if inner.isdisjoint(("nsubj", "nsubj:pass", "case")):
                found.append((token, token, "clause"))
    return sorted(found)


def candidates(c: Clauses, before: int, moved: int) -> list[int]:
    """Return the possible heads left of ``before``, nearest first."""
    token = before - 1
    while token >= 0 and (c.rel[token] in ("punct", "cc", "mark", "case") or c.tag[token] == "TO"):
        token -= 1
    found: list[int] = []
    while token >= 0:
        if token == moved:
            found.clear()  # those found so far depend on the phrase itself
        elif (
            token < before
            and c.tag[token][:1] in ("N", "V", "J")
            and c.rel[token] not in _INSIDE
            and token not in c.inert
        ):
            found.append(token)
        token = c.head[token]
    return found


def _shared_cues(c: Clauses, found: list[int], k: int, before: int, head: int) -> list[str]:
    """Return the cues that phrases and clauses have in common."""
    token = found[k]
    letter = c.tag[token][:1]
    kind = _ROLE.get(c.rel[token], "other") + letter
    shape = "".join(c.tag[t][:1] for t in found[: k + 1]) if k < 4 else "far"
    cues = [f"{kind}", f"{shape}", f"left {min(len(found) - 1 - k, 2)}{letter}", c.tag[token]]
    if head == token:
        cues += ["parser", f"parser {shape}"]
    if "," in c.lower[token + 1 : before]:
        cues.append(f"comma {letter}")
    if letter == "N":
        determined = any(c.rel[kid] in ("det", "nmod:poss") for kid in c.kids[token])
        cues.append(f"det {determined}")
        cues.append(f"touches {token == before - 1}")
    else:
        labels = {c.rel[kid] for kid in c.kids[token] if kid < before}
        cues.append(f"args {'obj' in labels:d}{'obl' in labels:d}")
    return cues


def phrase_cues(c: Clauses, found: list[int], k: int, before: int, noun: int) -> list[str]:
    """Return the cues of attaching a prepositional phrase to candidate ``k``."""
    token = found[k]
    letter = c.tag[token][:1]
    text = c.prep[noun][0]
    text = text if text in _PREPOSITIONS else "?"
    cues = _shared_cues(c, found, k, before, c.head[noun])
    cues += [f"{text} {letter}", f"{text} {letter}{min(k, 2)}", f"{text} {cues[0]}"]
    if c.head[noun] == token:
        cues.append(f"parser {text}")
    if letter == "N":
        own = c.prep.get(token)
        if own:
            cues.append(f"{own[0] if own[0] in _PREPOSITIONS else '?'} N {text}")
    else:
        labels = {c.rel[kid] for kid in c.kids[token] if kid < before}
        cues.append(f"{text} args {'obj' in labels:d}{'obl' in labels:d}")
    cues.append(f"{c.tag[noun]} {letter}{k == 0}")
    return ["p:" + cue for cue in cues]


def clause_cues(c: Clauses, found: list[int], k: int, verb: int) -> list[str]:
    """Return the cues of attaching a clause to candidate ``k``; -1: to no noun."""
    inner = {c.rel[kid] for kid in c.kids[verb]}
    mark = next((c.lower[kid] for kid in c.kids[verb] if c.rel[kid] == "mark"), "")
    if mark == "to" or any(c.tag[kid] == "TO" for kid in c.kids[verb]):
        marked = "to"
    else:
        adverb = verb - 1 in c.kids[verb] and c.rel[verb - 1] == "advmod"
        marked = "marked" if mark or adverb else ""
    form = c.tag[verb] + marked
    if k < 0:
        first = c.tag[found[0]][:1] if found else ""
        cues = [f"none {form}", f"none {c.rel[verb]}", f"none {form} {first}"]
        cues.append(f"none {'obj' in inner:d}{'obl' in inner:d}")
        cues.append(f"none comma {c.lower[verb - 1] == ','}")
        return ["c:" + cue for cue in cues]
    cues = _shared_cues(c, found, k, verb, c.head[verb])
    cues += [f"{form} {cues[0]}", f"{form} {cues[1]}", f"{c.rel[verb]} {cues[0]}"]
    own = c.prep.get(found[k])
    if own:
        cues.append(f"after {own[0] if own[0] in _PREPOSITIONS else '?'} {form}")
    return ["c:" + cue for cue in cues]


def join_verbs(c: Clauses) -> None:
    """Attach the objects of *leaps and catches the ball* to the first verb, as SPICE does."""
    for second in range(2, c.n):
        first = second - 2
        if (
            c.rel[second] == "conj"
            and c.head[second] == first
            and c.rel[second - 1] == "cc"
            and c.tag[first][:1] == "V" == c.tag[second][:1]
        ):
            for kid in [kid for kid in c.kids[second] if kid > second]:
                c.move(kid, first, c.rel[kid])


def lower_conjuncts(c: Clauses) -> None:
    """Attach *a little boy* of *a man in a suit and a little boy* to *suit*, as SPICE does."""
    for noun in range(2, c.n):
        first = c.head[noun]
        if c.rel[noun] != "conj" or {c.tag[noun][:1], c.tag[first][:1]} != {"N"} or noun in c.prep:
            continue
        inner = [
            kid
            for kid in c.kids[first]
            if c.rel[kid] == "nmod" and first < kid < noun and c.tag[kid][:1] == "N"
        ]
        if inner:
            c.move(noun, inner[-1], "conj")


def reattach(c: Clauses, profile: str) -> None:
    """Decide all attachments from left to right; clauses only for the profile ``spice``."""
    if profile == "spice":
        join_verbs(c)
        lower_conjuncts(c)
    weights = _weights(profile)

    def score(cues: list[str]) -> float:
        return sum([weights.get(cue, 0.0) for cue in cues])

    for before, token, kind in sites(c):
        found = candidates(c, before, token)
        if kind == "phrase" and len(found) > 1:
            scores = [score(phrase_cues(c, found, k, before, token)) for k in range(len(found))]
            best = found[scores.index(max(scores))]
            if best != c.head[token]:
                c.move(token, best, "nmod" if c.tag[best][:1] == "N" else "obl")
        elif kind == "clause" and profile == "spice":
            options = [_NO_NOUN, *[k for k, t in enumerate(found) if c.tag[t][:1] == "N"]]
            scores = [score(clause_cues(c, found, k, token)) for k in options]
            best = options[scores.index(max(scores))]
            if best >= 0:
                c.move(token, found[best], "acl")
            elif c.rel[token] == "acl":
                c.rel[token] = "advcl"
