"""Dependency schemes: CLEAR (spaCy) and UD v1 brought to UD v2, and UD v2 to UD v1.

Content words govern in UD: a preposition is the ``case`` of its noun, a copula the ``cop`` of its
predicate. CLEAR hangs the noun under the preposition and the predicate under *be*. The rules of
this package read UD v2 only, so one rule set serves every parser. Stanford's tools of the GSMN era
(basic dependencies, UD v1) differ from v2 in labels and in where ``cc`` and ``punct`` hang.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from features.errors import UnknownName
from features.records import TextGraph
from pipeline.language.words import names, words

__all__ = [
    "SCHEMES",
    "clear_to_ud",
    "coarse_tag",
    "one_tree",
    "to_scheme",
    "ud_to_clear",
    "ud_to_v1",
    "v1_to_ud",
]

SCHEMES = ("ud", "clear", "ud1-basic")

_RENAMED = {
    "ROOT": "root",
    "dobj": "obj",
    "dative": "iobj",
    "nsubjpass": "nsubj:pass",
    "csubjpass": "csubj:pass",
    "auxpass": "aux:pass",
    "prt": "compound:prt",
    "relcl": "acl:relcl",
    "poss": "nmod:poss",
    "oprd": "xcomp",
    "acomp": "xcomp",
    "attr": "xcomp",
    "neg": "advmod",
    "npadvmod": "obl:npmod",
    "quantmod": "advmod",
    "predet": "det:predet",
    "preconj": "cc:preconj",
    "intj": "discourse",
    "meta": "dep",
    "pobj": "obl",
    "pcomp": "advcl",
    "prep": "advmod",
    "agent": "advmod",
}
_TO_V1 = {
    "obj": "dobj",
    "nsubj:pass": "nsubjpass",
    "csubj:pass": "csubjpass",
    "aux:pass": "auxpass",
    "obl": "nmod",
    "obl:agent": "nmod:agent",
    "obl:npmod": "nmod:npmod",
    "obl:unmarked": "nmod:npmod",
    "obl:tmod": "nmod:tmod",
    "fixed": "mwe",
    "flat": "name",
}
_FROM_V1 = {
    "dobj": "obj",
    "nsubjpass": "nsubj:pass",
    "csubjpass": "csubj:pass",
    "auxpass": "aux:pass",
    "nmod:agent": "obl:agent",
    "nmod:npmod": "obl:npmod",
    "nmod:tmod": "obl:tmod",
    "mwe": "fixed",
    "name": "flat",
    "neg": "advmod",
}
_BE = words("be")
_COARSE = names("upos")  # Penn tag -> UPOS


def coarse_tag(tag: str, deprel: str) -> str:
    """Return the UPOS of a Penn tag; the UD relation tells auxiliaries and markers apart.

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


def clear_to_ud(
    forms: Sequence[str], tags: Sequence[str], heads: Sequence[int], deps: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Convert spaCy's English dependencies to UD v2.

    Args:
        forms: lower-cased.
        tags: Penn tags.
        heads: 0-based, -1 at roots.
        deps: CLEAR labels.

    Returns:
        heads and labels in UD v2, one tree per root as before.
    """
    head = list(heads)
    rel = ["compound" if label == "nmod" else label for label in deps]  # CLEAR's own nmod
    _lift_prepositions(tags, head, rel)
    _lift_predicates(forms, tags, head, rel)
    _flatten_conjuncts(head, rel)
    return head, [_RENAMED.get(label, label) for label in rel]


def _lift_prepositions(tags: Sequence[str], head: list[int], rel: list[str]) -> None:
    """Turn prep -> pobj into case <- obl/nmod, chains (``out of the box``) included."""
    for noun, label in enumerate(list(rel)):
        if label != "pobj" and not (label == "pcomp" and tags[noun][0] in "NPD"):
            continue
        prep = head[noun]
        if rel[prep] == "case":  # a second object of the same preposition
            head[noun] = head[prep]
            rel[noun] = "conj"
            continue
        # `up [prep] behind [prep] the [pobj]`, `on [prep] and about [conj]`: climb to the governor
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
        if governor < 0:  # the preposition is the root: its noun takes the place
            head[noun], rel[noun] = -1, "ROOT"
        else:
            agent = rel[top] == "agent"
            head[noun] = governor
            if rel[top] == "conj":
                rel[noun] = "conj"
            elif agent:
                rel[noun] = "obl:agent"
            else:
                rel[noun] = "nmod" if tags[governor][0] in "NPDC" else "obl"
        inside = set(chain)
        for link in chain:
            rel[link] = "case"
        for child, parent in enumerate(head):
            if parent in inside and child != noun:
                head[child] = noun
                if rel[child] == "cc" or (rel[child] == "conj" and tags[child] in ("IN", "TO")):
                    rel[child] = "cc" if rel[child] == "cc" else "case"
        for link in chain:
            head[link] = noun
    for verb, label in enumerate(rel):
        if label == "pcomp" and rel[head[verb]] == "prep":
            prep = head[verb]
            governor = head[prep]
            head[verb] = governor
            rel[verb] = "ROOT" if governor < 0 else "acl" if tags[governor][0] in "NP" else "advcl"
            for child, parent in enumerate(head):
                if parent == prep:
                    head[child] = verb
            head[prep], rel[prep] = verb, "mark"


def _lift_predicates(
    forms: Sequence[str], tags: Sequence[str], head: list[int], rel: list[str]
) -> None:
    """Make the predicate of *be* the head: adjective, noun, or the noun of ``is in a house``."""
    for verb, word in enumerate(forms):
        if word not in _BE or tags[verb][0] != "V" or rel[verb] in ("aux", "auxpass"):
            continue
        children = [i for i, parent in enumerate(head) if parent == verb]
        labels = [rel[i] for i in children]
        if "expl" in labels:  # `there is X`: X is the subject
            for child in children:
                if rel[child] in ("attr", "dobj"):
                    rel[child] = "nsubj"
            continue
        new = -1
        for wanted in (("attr", "acomp"), ("obl",)):
            found = [i for i in children if rel[i] in wanted and (wanted[0] == "attr" or i > verb)]
            if found:
                new = found[0]
                break
        if new < 0 or (rel[new] == "obl" and not {"nsubj", "csubj"} & set(labels)):
            continue
        head[new], rel[new] = head[verb], rel[verb]
        for child in children:
            if child != new:
                head[child] = new
        head[verb], rel[verb] = new, "cop"


def _flatten_conjuncts(head: list[int], rel: list[str]) -> None:
    """Hang ``cc`` and inner commas on the next conjunct, every conjunct on the first one."""
    conjuncts = [i for i, label in enumerate(rel) if label == "conj"]
    if not conjuncts:
        return
    for token, label in enumerate(rel):
        if label in ("cc", "punct"):
            for conjunct in conjuncts:
                if conjunct > token and head[conjunct] == head[token] and head[token] < token:
                    head[token] = conjunct
                    break
    for conjunct in conjuncts:
        first = head[conjunct]
        while rel[first] == "conj":
            first = head[first]
        head[conjunct] = first


def ud_to_v1(
    tags: Sequence[str], heads: Sequence[int], deprels: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Convert UD v2 to UD v1 basic dependencies: labels, and ``cc`` on the first conjunct."""
    head = list(heads)
    rel = [_TO_V1.get(label, label) for label in deprels]
    for token, label in enumerate(deprels):
        parent = head[token]
        if label in ("cc", "punct") and parent > token and deprels[parent] == "conj":
            head[token] = head[parent]
    return head, rel


def v1_to_ud(
    tags: Sequence[str], heads: Sequence[int], deprels: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Convert UD v1 basic dependencies to v2; ``nmod`` under a verb becomes ``obl``."""
    head = list(heads)
    rel = [_FROM_V1.get(label, label) for label in deprels]
    for token, label in enumerate(deprels):
        if label == "nmod" and head[token] >= 0 and tags[head[token]][:1] in ("V", "J", "R"):
            rel[token] = "obl"
    _flatten_conjuncts(head, rel)
    return head, rel


def one_tree(
    heads: Sequence[int], deprels: Sequence[str], starts: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Return heads and labels that form exactly one tree per sentence.

    A parser may leave a second root, a head outside the sentence, or (a faulty plug-in) a cycle.
    The first root stays; whatever else reaches no root hangs on it as ``dep``.
    """
    head, rel = list(heads), list(deprels)
    bounds = [*starts, len(head)]
    for low, high in pairwise(bounds):
        root = next((i for i in range(low, high) if head[i] == -1 or head[i] == i), low)
        head[root], rel[root] = -1, "root"
        safe = {root}
        for token in range(low, high):
            path: list[int] = []
            at = token
            while at not in safe:
                if not low <= at < high or at in path:
                    at = path[-1]
                    head[at], rel[at] = root, "dep"
                    break
                path.append(at)
                at = head[at]
            safe.update(path)
    return head, rel


def to_scheme(graph: TextGraph, scheme: str) -> TextGraph:
    """Return a parsed caption with heads and labels of another scheme.

    Raises: UnknownName: no such scheme.
    """
    if scheme not in SCHEMES:
        raise UnknownName.of("scheme", scheme, SCHEMES)
    if graph.scheme == scheme:
        return graph
    forms = [token.lower() for token in graph.tokens]
    heads, rels = list(graph.heads), list(graph.deprels)
    if graph.scheme == "clear":
        heads, rels = clear_to_ud(forms, graph.xpos, heads, rels)
    elif graph.scheme == "ud1-basic":
        heads, rels = v1_to_ud(graph.xpos, heads, rels)
    if scheme == "clear":
        heads, rels = ud_to_clear(graph.xpos, heads, rels)
    elif scheme == "ud1-basic":
        heads, rels = ud_to_v1(graph.xpos, heads, rels)
    return replace(graph, heads=tuple(heads), deprels=tuple(rels), scheme=scheme)


def ud_to_clear(
    tags: Sequence[str], heads: Sequence[int], deprels: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Convert UD v2 to CLEAR: prepositions and copulas govern again, conjuncts form a chain."""
    head, rel = list(heads), list(deprels)
    back = {new: old for old, new in _RENAMED.items() if old not in ("pobj", "pcomp", "prep")}
    back |= {"advmod": "advmod", "xcomp": "xcomp", "compound": "compound", "dep": "dep"}
    last: dict[int, int] = {}
    for token, label in enumerate(deprels):  # conjuncts: each hangs on the one before
        if label == "conj" and heads[token] >= 0:
            first = heads[token]
            head[token] = last.get(first, first)
            last[first] = token
    for token, label in enumerate(deprels):
        parent = heads[token]
        if label in ("cc", "punct") and parent > token and deprels[parent] == "conj":
            head[token] = head[parent]
        elif label == "cop":
            _raise_verb(token, parent, tags, head, rel)
    for token, label in enumerate(deprels):
        noun = heads[token]
        if label != "case" or tags[token] == "POS" or noun < 0:
            continue
        if rel[noun] in ("pobj", "conj"):  # inner preposition of `out of the box`
            rel[token] = "prep"
            continue
        head[token], head[noun] = head[noun], token
        rel[token] = "agent" if rel[noun] == "obl:agent" else "prep"
        rel[token] = "ROOT" if rel[noun] == "root" else rel[token]
        rel[noun] = "pobj"
    return head, [back.get(label, label) for label in rel]


def _raise_verb(
    verb: int, predicate: int, tags: Sequence[str], head: list[int], rel: list[str]
) -> None:
    """Let a copula govern its predicate and the clause's other parts."""
    head[verb], rel[verb] = head[predicate], rel[predicate]
    inner = ("det", "amod", "compound", "case", "nummod", "nmod", "nmod:poss", "advmod", "acl")
    for child, parent in enumerate(head):
        if parent == predicate and child != verb and rel[child] not in inner:
            head[child] = verb
    head[predicate] = verb
    rel[predicate] = "acomp" if tags[predicate][:1] == "J" else "attr"
