"""Grammar that a small parser misses: agreement inside a caption, put right in its UD tree.

Captions are short and often lack the cues of newswire: *a white crane flies over water* becomes a
plural noun *flies*. English agreement settles such cases without knowing any word: no plural noun
follows *a*, and no coordination of two takes *is*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

__all__ = ["repair"]

_SINGULAR_DETERMINERS = frozenset(["a", "an", "one", "another", "each", "every", "this"])
_INNER_TAGS = frozenset(("NN", "NNP", "JJ", "JJR", "JJS", "VBN", "VBG", "HYPH"))
_OPENERS = frozenset(("VB", "VBZ", "VBP", "VBD", "VBN", "RB"))
_NOMINAL = frozenset(("nsubj", "obj", "obl", "nmod"))
_CLAUSES = frozenset(("advcl", "ccomp", "acl:relcl", "parataxis"))
_SINGULAR_VERBS = frozenset(("is", "was", "has", "'s"))


def repair(
    words: Sequence[str],
    tags: list[str],
    heads: list[int],
    rels: list[str],
    is_verb: Callable[[str], bool],
) -> None:
    """Correct tags, heads and labels in place.

    Args:
        words: lower-cased forms.
        tags: Penn tags.
        heads: UD v2 heads, 0-based, -1 at roots.
        rels: UD v2 labels.
        is_verb: says whether a form in -s can be a verb's third person.
    """
    _open_with_noun(tags, heads, rels)
    for token, tag in enumerate(tags):
        rel = rels[token]
        if tag == "CD" and "-" in words[token] and words[token][0].isalpha():
            tags[token] = "JJ"  # black-and-white
            rels[token] = "amod" if rel in ("nummod", "compound") else rel
        elif rel == "amod" and tag in ("NN", "NNP"):
            tags[token] = "JJ"
        elif rel == "xcomp" and tag == "VB" and tags[token - 1] == "IN":
            tags[token], rels[token] = "NN", "obl"  # attached to (IN) pole
            rels[token - 1] = "case"
        elif tag == "JJ" and rel in _NOMINAL:
            tags[token] = "NN"  # a person in black
        elif tag == "NN" and token and words[token].endswith("ing"):
            _noun_to_participle(token, tags, heads, rels)
        elif tag == "VBG" and token:
            _subject_of_participle(token, tags, heads, rels)
        elif rel == "root" and tag[0] == "N":
            _object_of_participle(token, tags, heads, rels)
        if token > 1 and words[token][-1] == "s" and tag in ("NNS", "VBZ", "JJ"):
            if tag == "VBZ" and rel not in ("nmod", "obl", "obj", "amod", "compound"):
                continue
            start = _singular_phrase(words, tags, token)
            if start >= 0 and is_verb(words[token]):
                _make_verb(token, start, tags, heads, rels)
    if rels.count("nsubj") > 1:
        _relative_clause(tags, heads, rels)
    if "conj" in rels or rels.count("nsubj") > 1:
        _lower_conjuncts(words, tags, heads, rels)


def _singular_phrase(words: Sequence[str], tags: Sequence[str], token: int) -> int:
    """Return where the singular noun phrase that ends before ``token`` starts, -1 if none does."""
    if tags[token - 1] not in ("NN", "NNP") and (tags[token] == "NNS" or tags[token - 1] != "JJ"):
        return -1
    start = token - 1
    while start > 0 and tags[start] in _INNER_TAGS:
        start -= 1
    if words[start] in _SINGULAR_DETERMINERS:
        return start
    return -1


def _open_with_noun(tags: list[str], heads: list[int], rels: list[str]) -> None:
    """A caption names something first: *balcony on ...* is no adverb, *open door* no command."""
    if len(tags) < 2 or rels[0] != "root" or tags[0] not in _OPENERS:
        return
    kids = [i for i, parent in enumerate(heads) if parent == 0]
    thing = 1 if rels[1] == "obj" and heads[1] == 0 and tags[1][0] == "N" else 0
    if thing:
        tags[0] = "VBN" if tags[0] in ("VBN", "VBD") else "JJ"
        for child in kids:
            heads[child] = thing
        heads[0], rels[0] = thing, "amod"
        heads[thing], rels[thing] = -1, "root"
    elif tags[1] == "IN" and rels[1] == "case" and heads[heads[1]] == 0 and tags[0] != "VBN":
        tags[0] = "NNS" if tags[0] == "VBZ" else "NN"
    else:
        return
    for child in kids:
        if rels[child] == "obl":
            rels[child] = "nmod"


def _relative_clause(tags: Sequence[str], heads: list[int], rels: list[str]) -> None:
    """*the platter the cake is sitting on*: of two bare subjects the first is what it is about."""
    subjects = [i for i, rel in enumerate(rels) if rel == "nsubj"]
    for first, second in pairwise(subjects):
        verb = heads[first]
        if heads[second] != verb or heads[verb] >= 0 or tags[verb][0] != "V" or second > verb:
            continue
        opening = min([second, *(i for i, parent in enumerate(heads) if parent == second)])
        if tags[opening] not in ("DT", "PRP$") or any(
            rels[i] in ("cc", "punct") for i in range(first, opening)
        ):
            continue
        if any(heads[i] == verb and rels[i] == "obj" for i in range(len(rels))):
            continue
        heads[first], rels[first] = -1, "root"
        heads[verb], rels[verb] = first, "acl:relcl"


def _noun_to_participle(token: int, tags: list[str], heads: list[int], rels: list[str]) -> None:
    """*zebra standing in dirt*: -ing between a noun and a preposition is what the noun does."""
    noun = token - 1
    if heads[noun] != token or rels[noun] != "compound" or token + 1 >= len(tags):
        return
    if tags[token + 1] not in ("IN", "TO", "RP") or rels[token] in ("nsubj", "compound"):
        return
    tags[token] = "VBG"
    heads[noun], rels[noun] = heads[token], rels[token]
    for child, parent in enumerate(heads):
        if parent == token and child != noun:
            if child < noun:
                heads[child] = noun
            elif rels[child] == "nmod":
                rels[child] = "obl"
    heads[token], rels[token] = noun, "acl"


def _subject_of_participle(verb: int, tags: list[str], heads: list[int], rels: list[str]) -> None:
    """*hands swinging bat*, *chain hanging from ...*: the noun before a participle does it."""
    noun = verb - 1
    if heads[noun] != verb or tags[noun][0] != "N" or rels[noun] not in ("obl:npmod", "compound"):
        return
    if rels[verb] == "root":
        rels[noun] = "nsubj"
    elif rels[verb] == "amod" and heads[verb] > verb:
        thing = heads[verb]
        heads[noun], rels[noun] = heads[thing], rels[thing]
        heads[verb], rels[verb] = noun, "acl"
        heads[thing], rels[thing] = verb, "obj"
        for child, parent in enumerate(heads):
            if parent == thing and child < noun:
                heads[child] = noun


def _object_of_participle(
    noun: int, tags: Sequence[str], heads: list[int], rels: list[str]
) -> None:
    """*people flying kites*: a root noun with a subject, no copula, is the participle's object."""
    kids = [i for i, parent in enumerate(heads) if parent == noun]
    subject = next((i for i in kids if rels[i] == "nsubj" and i < noun), -1)
    if subject < 0 or any(rels[i] in ("cop", "case") for i in kids):
        return
    before = min([i for i in kids if i > subject] + [noun]) - 1
    if before <= subject or tags[before] != "VBG" or rels[before] != "acl":
        return
    heads[subject], rels[subject] = -1, "root"
    heads[noun], rels[noun] = before, "obj"
    for child in kids:
        if rels[child] == "punct":
            heads[child] = subject


def _make_verb(verb: int, start: int, tags: list[str], heads: list[int], rels: list[str]) -> None:
    """Turn a supposed plural noun into the finite verb after the phrase ``start`` .. verb-1."""
    noun = verb - 1
    head, rel = heads[verb], rels[verb]
    top = verb
    while heads[top] >= 0:
        top = heads[top]
    if top != verb and tags[top][0] == "V" and rel not in _CLAUSES:
        return
    role = (head, rel)
    if head > verb and rel in ("amod", "compound"):  # it stood before its own object
        role = (heads[head], rels[head])
        for child, parent in enumerate(heads):
            if parent == head and child < verb:
                heads[child] = noun
        if role[0] == verb:
            return
        heads[head], rels[head] = verb, "obj"
        heads[noun] = verb  # takes the role below
    for child, parent in enumerate(heads):
        if parent != verb or child == noun:
            continue
        if start <= child < noun or (child < start and rels[child] in ("case", "cc", "det")):
            heads[child] = noun
        elif child > verb and rels[child] == "nmod":
            rels[child] = "obl"
    tags[verb] = "VBZ"
    tags[noun] = tags[noun] if tags[noun][0] == "N" else "NN"
    if top == verb or rel in _CLAUSES:
        if heads[noun] == verb:
            rels[noun] = "nsubj"
        return
    if heads[noun] == verb:
        heads[noun], rels[noun] = role
    heads[verb], rels[verb] = -1, "root"
    heads[top] = verb
    if top < verb:
        rels[top] = "nsubj"
        return
    rels[top] = (
        "obl" if any(heads[i] == top and rels[i] == "case" for i in range(len(rels))) else "obj"
    )
    for child, parent in enumerate(heads):
        if parent == top and rels[child] in ("nsubj", "punct", "advmod", "aux"):
            heads[child] = verb


def _lower_conjuncts(
    words: Sequence[str], tags: Sequence[str], heads: list[int], rels: list[str]
) -> None:
    """Hang *jeans* of *a man in a jacket and jeans is ...* on *jacket*, not on *man*."""
    for noun, label in enumerate(rels):
        if tags[noun][0] != "N":
            continue
        if label == "conj":
            first = heads[noun]
        elif label == "nsubj":  # a second subject of the same predicate
            first = next(
                (i for i in range(noun) if rels[i] == "nsubj" and heads[i] == heads[noun]), -1
            )
        else:
            continue
        if first < 0 or tags[first] not in ("NN", "NNP") or rels[first] == "conj":
            continue
        inner = _last_phrase(first, noun, tags, heads, rels)
        if inner < 0:
            continue
        predicate = heads[first]
        singular = rels[first] == "nsubj" and (
            (tags[predicate] == "VBZ" and noun < predicate)
            or any(
                heads[i] == predicate and words[i] in _SINGULAR_VERBS and i > noun
                for i in range(noun, len(rels))
            )
        )
        bare = (
            label == "conj"
            and not any(
                heads[i] == noun and rels[i] in ("det", "nummod", "nmod:poss", "case")
                for i in range(len(rels))
            )
            and any(heads[i] == first and rels[i] == "det" for i in range(len(rels)))
        )
        if singular or bare:
            old = first
            heads[noun], rels[noun] = inner, "conj"
            for child, parent in enumerate(heads):
                if parent == old and rels[child] == "cc" and inner < child < noun:
                    heads[child] = noun


def _last_phrase(
    first: int, before: int, tags: Sequence[str], heads: Sequence[int], rels: Sequence[str]
) -> int:
    """Return the last prepositional object of ``first`` left of ``before``, -1 if none."""
    found = -1
    for token in range(first + 1, before):
        if rels[token] == "nmod" and heads[token] == first and tags[token][0] == "N":
            found = token
    return found
