"""Corrections of frequent errors of small parsers, using agreement within the caption.

Captions are short and often lack the cues of newswire: *flies* of *a white crane flies over water*
is parsed as a plural noun. English agreement decides such cases without knowing any word: *a* is
not followed by a plural noun, and two coordinated subjects do not take *is*.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from pipeline.language.dependency import Tree

_SINGULAR_DETERMINERS = frozenset(["a", "an", "one", "another", "each", "every", "this"])
_INNER_TAGS = frozenset(("NN", "NNP", "JJ", "JJR", "JJS", "VBN", "VBG", "HYPH"))
_OPENERS = frozenset(("VB", "VBZ", "VBP", "VBD", "VBN", "RB"))
_NOMINAL = frozenset(("nsubj", "obj", "obl", "nmod"))
_CLAUSES = frozenset(("advcl", "ccomp", "acl:relcl", "parataxis"))
_SINGULAR_VERBS = frozenset(("is", "was", "has", "'s"))


def repair(tree: Tree, is_verb: Callable[[str], bool]) -> None:
    """Correct tags, heads and labels in place.

    Args:
        tree: a UD v2 tree.
        is_verb: returns whether a form in -s can be the third person of a verb.
    """
    words, tags, rels = tree.words, tree.tags, tree.rels
    _open_with_noun(tree)
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
            _noun_to_participle(tree, token)
        elif tag == "VBG" and token:
            _subject_of_participle(tree, token)
        elif rel == "root" and tag[0] == "N":
            _object_of_participle(tree, token)
        if token > 1 and words[token][-1] == "s" and tag in ("NNS", "VBZ", "JJ"):
            if tag == "VBZ" and rel not in ("nmod", "obl", "obj", "amod", "compound"):
                continue
            start = _singular_phrase(tree, token)
            if start >= 0 and is_verb(words[token]):
                _make_verb(tree, token, start)
    if rels.count("nsubj") > 1:
        _relative_clause(tree)
    if "conj" in rels or rels.count("nsubj") > 1:
        _lower_conjuncts(tree)


def _singular_phrase(tree: Tree, token: int) -> int:
    """Return the start of the singular noun phrase that ends before ``token``, -1 if none does."""
    words, tags = tree.words, tree.tags
    if tags[token - 1] not in ("NN", "NNP") and (tags[token] == "NNS" or tags[token - 1] != "JJ"):
        return -1
    start = token - 1
    while start > 0 and tags[start] in _INNER_TAGS:
        start -= 1
    return start if words[start] in _SINGULAR_DETERMINERS else -1


def _open_with_noun(tree: Tree) -> None:
    """Begin with a noun phrase: *balcony on ...* is no adverb, *open door* no command."""
    tags, heads, rels = tree.tags, tree.heads, tree.rels
    if len(tags) < 2 or rels[0] != "root" or tags[0] not in _OPENERS:
        return
    kids = tree.children(0)
    if rels[1] == "obj" and heads[1] == 0 and tags[1][0] == "N":
        tags[0] = "VBN" if tags[0] in ("VBN", "VBD") else "JJ"
        for child in kids:
            heads[child] = 1
        tree.attach(0, 1, "amod")
        tree.attach(1, -1, "root")
    elif tags[1] == "IN" and rels[1] == "case" and heads[heads[1]] == 0 and tags[0] != "VBN":
        tags[0] = "NNS" if tags[0] == "VBZ" else "NN"
    else:
        return
    for child in kids:
        if rels[child] == "obl":
            rels[child] = "nmod"


def _relative_clause(tree: Tree) -> None:
    """Make the first of two bare subjects the head: *the platter the cake is sitting on*."""
    tags, heads, rels = tree.tags, tree.heads, tree.rels
    subjects = [i for i, rel in enumerate(rels) if rel == "nsubj"]
    for first, second in pairwise(subjects):
        verb = heads[first]
        if heads[second] != verb or heads[verb] >= 0 or tags[verb][0] != "V" or second > verb:
            continue
        opening = min([second, *tree.children(second)])
        if tags[opening] not in ("DT", "PRP$") or any(
            rels[i] in ("cc", "punct") for i in range(first, opening)
        ):
            continue
        if any(rels[i] == "obj" for i in tree.children(verb)):
            continue
        tree.attach(first, -1, "root")
        tree.attach(verb, first, "acl:relcl")


def _noun_to_participle(tree: Tree, token: int) -> None:
    """Make -ing between a noun and a preposition a participle: *zebra standing in dirt*."""
    tags, heads, rels = tree.tags, tree.heads, tree.rels
    noun = token - 1
    if heads[noun] != token or rels[noun] != "compound" or token + 1 >= len(tags):
        return
    if tags[token + 1] not in ("IN", "TO", "RP") or rels[token] in ("nsubj", "compound"):
        return
    tags[token] = "VBG"
    tree.attach(noun, heads[token], rels[token])
    for child in tree.children(token):
        if child < noun:
            heads[child] = noun
        elif child > noun and rels[child] == "nmod":
            rels[child] = "obl"
    tree.attach(token, noun, "acl")


def _subject_of_participle(tree: Tree, verb: int) -> None:
    """Make the noun before a participle its subject: *hands swinging bat*, *chain hanging from*."""
    tags, heads, rels = tree.tags, tree.heads, tree.rels
    noun = verb - 1
    if heads[noun] != verb or tags[noun][0] != "N" or rels[noun] not in ("obl:npmod", "compound"):
        return
    if rels[verb] == "root":
        rels[noun] = "nsubj"
    elif rels[verb] == "amod" and heads[verb] > verb:
        other = heads[verb]
        tree.attach(noun, heads[other], rels[other])
        tree.attach(verb, noun, "acl")
        tree.attach(other, verb, "obj")
        for child in tree.children(other):
            if child < noun:
                heads[child] = noun


def _object_of_participle(tree: Tree, noun: int) -> None:
    """Make a root noun with a subject and no copula an object: *people flying kites*."""
    tags, heads, rels = tree.tags, tree.heads, tree.rels
    kids = tree.children(noun)
    subject = next((i for i in kids if rels[i] == "nsubj" and i < noun), -1)
    if subject < 0 or any(rels[i] in ("cop", "case") for i in kids):
        return
    before = min([i for i in kids if i > subject] + [noun]) - 1
    if before <= subject or tags[before] != "VBG" or rels[before] != "acl":
        return
    tree.attach(subject, -1, "root")
    tree.attach(noun, before, "obj")
    for child in kids:
        if rels[child] == "punct":
            heads[child] = subject


def _make_verb(tree: Tree, verb: int, start: int) -> None:
    """Make a plural noun the finite verb of the noun phrase ``start`` to ``verb - 1``."""
    tags, heads, rels = tree.tags, tree.heads, tree.rels
    noun = verb - 1
    head, rel = heads[verb], rels[verb]
    top = verb
    while heads[top] >= 0:
        top = heads[top]
    if top != verb and tags[top][0] == "V" and rel not in _CLAUSES:
        return
    role = (head, rel)
    if head > verb and rel in ("amod", "compound"):  # a modifier of what is its object
        role = (heads[head], rels[head])
        for child in tree.children(head):
            if child < verb:
                heads[child] = noun
        if role[0] == verb:
            return
        tree.attach(head, verb, "obj")
        heads[noun] = verb  # gets its role below
    for child in tree.children(verb):
        if child == noun:
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
        tree.attach(noun, *role)
    tree.attach(verb, -1, "root")
    heads[top] = verb
    if top < verb:
        rels[top] = "nsubj"
        return
    rels[top] = "obl" if any(rels[i] == "case" for i in tree.children(top)) else "obj"
    for child in tree.children(top):
        if rels[child] in ("nsubj", "punct", "advmod", "aux"):
            heads[child] = verb


def _lower_conjuncts(tree: Tree) -> None:
    """Attach *jeans* of *a man in a jacket and jeans is ...* to *jacket*, not to *man*."""
    words, tags, heads, rels = tree.words, tree.tags, tree.heads, tree.rels
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
        inner = max(
            (
                i
                for i in range(first + 1, noun)
                if rels[i] == "nmod" and heads[i] == first and tags[i][0] == "N"
            ),
            default=-1,
        )  # the last prepositional object of ``first``
        if inner < 0:
            continue
        predicate = heads[first]
        singular = rels[first] == "nsubj" and (
            (tags[predicate] == "VBZ" and noun < predicate)
            or any(words[i] in _SINGULAR_VERBS and i > noun for i in tree.children(predicate))
        )
        bare = (
            label == "conj"
            and not any(
                rels[i] in ("det", "nummod", "nmod:poss", "case") for i in tree.children(noun)
            )
            and any(rels[i] == "det" for i in tree.children(first))
        )
        if singular or bare:
            tree.attach(noun, inner, "conj")
            for child in tree.children(first):
                if rels[child] == "cc" and inner < child < noun:
                    heads[child] = noun
