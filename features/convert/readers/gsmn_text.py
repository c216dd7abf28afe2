"""GSMN's caption files: word ids, dependency pairs and their vocabulary.

``{split}_precaps_stan.txt``: word ids of a caption, separated by commas, ``<start>`` first and
``<end>`` last. ``{split}_caps.json``: for each caption a list of ``[head, dependent]``, ROOT's pair
first; words are numbered from 1 and 0 is ROOT, as in CoreNLP. The released code skips the first
pair and uses the numbers as rows of the word ids, which is right because row 0 is ``<start>``:
**word i of the caption (from 1) is row i**. ``{name}_vocab.json``: ``{"word2idx", "idx2word",
"idx"}`` with ``<pad> <start> <end> <unk>`` as 0 to 3.

For a caption of several sentences, stanfordcorenlp gives a pair ``[0, r]`` and numbers from 1 for
each sentence; the released code ignores that and connects words of the second sentence to those of
the first. Here ``_join`` separates the sentences and numbers their words consecutively.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from features.convert.safe.inputs import BOM, read_bytes, visible
from features.convert.safe.json_files import read_json
from features.convert.safe.values import integers
from features.errors import InputError
from features.records import TextGraph

_START, _END, _UNKNOWN = 1, 2, 3
Pairs = list[list[int]]
Pair = tuple[int, int]
_STOPS = frozenset({".", "!", "?", "..."})


def dependency_pairs(graph: TextGraph) -> Pairs:
    """Return the ``[head, dependent]`` pairs of a caption, from 1, the first root's pair first.

    Roots of further sentences get no pair: the released code would connect them to ``<start>``.

    >>> dependency_pairs(TextGraph("a dog ran", ("a", "dog", "ran"), heads=(1, 2, -1)))
    [[0, 3], [2, 1], [3, 2]]
    """
    roots = [[0, at + 1] for at, head in enumerate(graph.heads) if head < 0]
    edges = [[head + 1, at + 1] for at, head in enumerate(graph.heads) if head >= 0]
    return roots[:1] + edges


def word_ids(graph: TextGraph, word2idx: Mapping[str, int]) -> list[int]:
    """Return the ids of ``<start>``, the lower-case words and ``<end>``."""
    words = (word2idx.get(token.lower(), _UNKNOWN) for token in graph.tokens)
    return [_START, *words, _END]


def read_graphs(folder: Path, split: str, captions: Sequence[str]) -> list[TextGraph] | None:
    """Read tokens and heads of a split's captions; None if a file is missing.

    Tokens are words of the vocabulary (rare ones ``<unk>``), and so are lemmas; tags are empty, and
    the relation of every edge is ``dep``, because the format has no names for them.

    Args:
        folder: the precomputed folder, which also has the vocabulary, ``*_vocab.json``.
        split: SCAN's name of the split.
        captions: the split's captions.

    Raises:
        InputError: lengths that differ, ids without a word, heads outside the caption or in a
            cycle, a word with two heads, sentences that cannot be separated, several vocabularies.
    """
    words_path = folder / f"{split}_precaps_stan.txt"
    pairs_path = folder / f"{split}_caps.json"
    if not (words_path.is_file() and pairs_path.is_file()):
        return None
    words = _read_vocabulary(folder)
    if words is None:
        return None
    lines = read_bytes(words_path).removeprefix(BOM).decode("ascii", "replace").splitlines()
    pairs = read_json(pairs_path)
    if not isinstance(pairs, list) or not len(pairs) == len(lines) == len(captions):
        n_pairs = len(pairs) if isinstance(pairs, list) else "not a list of"
        raise InputError(
            f"{pairs_path}: {n_pairs} entries, {words_path.name} has {len(lines)} lines, "
            f"there are {len(captions)} captions."
        )
    return [
        _graph(f"{words_path}, line {at + 1}", caption, line, edges, words)
        for at, (caption, line, edges) in enumerate(zip(captions, lines, pairs, strict=True))
    ]


def _read_vocabulary(folder: Path) -> dict[int, str] | None:
    """Read the vocabulary with the name of the folder, else the only one; None without one."""
    found = visible(folder, "*_vocab.json")
    if not found:
        return None
    named = folder / f"{folder.absolute().name}_vocab.json"
    path = named if named in found else found[0]
    if path != named and len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise InputError(
            f"{folder}: {names} are vocabularies; the one of the word ids cannot be determined. "
            f"Keep only that one, or name it {named.name}."
        )
    document = read_json(path)
    table = document.get("word2idx") if isinstance(document, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{path}: not a vocabulary, which has 'word2idx'.")
    codes = integers(str(path), "ids", list(table.values()), len(table))
    return dict(zip(codes, table, strict=True))


def _graph(
    where: str, caption: str, line: str, edges: object, words: Mapping[int, str]
) -> TextGraph:
    parts = line.split(",")
    ids = list(integers(where, "word ids", parts, len(parts)))
    if ids[:1] != [_START] or ids[-1:] != [_END] or len(ids) < 2:
        raise InputError(f"{where}: word ids must begin with <start> and end with <end>.")
    if unknown := [code for code in ids if code not in words]:
        raise InputError(f"{where}: word id {unknown[0]} is not in the vocabulary.")
    tokens = tuple(words[code] for code in ids[1:-1])
    heads = _heads(where, edges, tokens)
    return TextGraph(
        caption=caption,
        tokens=tokens,
        lemmas=tokens,
        upos=("",) * len(tokens),
        xpos=("",) * len(tokens),
        heads=tuple(heads),
        deprels=tuple("root" if head < 0 else "dep" for head in heads),
        roles=("other",) * len(tokens),
        scheme="gsmn",
    )


def _heads(where: str, edges: object, tokens: Sequence[str]) -> list[int]:
    """Return the head of each word, from 0; -1 for roots and words without a pair."""
    if not isinstance(edges, list):
        raise InputError(f"{where}: the dependencies are not a list of pairs.")
    pairs = []
    for edge in edges:
        head, dependent = integers(where, "a dependency", edge, 2)
        if not (0 <= head <= len(tokens) and 1 <= dependent <= len(tokens)):
            raise InputError(f"{where}: dependency {edge} is outside the {len(tokens)} words.")
        pairs.append((head, dependent))
    # without repeats, the numbers already cover the whole caption
    repeated = len({dependent for _, dependent in pairs}) < len(pairs)
    if repeated and sum(head == 0 for head, _ in pairs) > 1:
        pairs = _join(where, pairs, tokens)
    heads = [-1] * len(tokens)
    seen: set[int] = set()
    for head, dependent in pairs:
        if dependent in seen:
            raise InputError(f"{where}: word {dependent} has two heads in the dependencies.")
        seen.add(dependent)
        heads[dependent - 1] = head - 1
    try:
        TopologicalSorter({at: [head] for at, head in enumerate(heads)}).prepare()
    except CycleError as error:
        word = error.args[1][0] + 1
        raise InputError(f"{where}: the heads of word {word} form a cycle.") from error
    return heads


def _join(where: str, pairs: Sequence[Pair], tokens: Sequence[str]) -> list[Pair]:
    """Number the words of several sentences consecutively; in ``pairs`` each starts at 1.

    CoreNLP's basic dependencies start each sentence with its ``[0, r]`` and have one pair per word,
    so a sentence has as many words as pairs. This is accepted if the dependents of each sentence
    are exactly 1 .. n, and either all sentences together have the caption's words, or each but
    the last ends at a full stop, exclamation or question mark.

    Raises: InputError: otherwise, because the ends of the sentences are unknown.
    """
    starts = [at for at, (head, _) in enumerate(pairs) if head == 0]
    joined: list[Pair] = []
    closed = True
    for start, stop in itertools.pairwise([*starts, len(pairs)]):
        before, n = len(joined), stop - start
        closed = closed and (not before or (before <= len(tokens) and tokens[before - 1] in _STOPS))
        sentence = pairs[start:stop]
        whole = sorted(dependent for _, dependent in sentence) == list(range(1, n + 1))
        if not whole or max(head for head, _ in sentence) > n:
            break
        joined += [(head and head + before, dependent + before) for head, dependent in sentence]
    missing = len(tokens) - len(joined)
    if len(joined) < len(pairs) or missing < 0 or (missing and not closed):
        raise InputError(
            f"{where}: the dependencies belong to {len(starts)} sentences whose ends in the "
            f"{len(tokens)} words cannot be determined. Parse the caption again, or move "
            "_caps.json away to import without words."
        )
    return joined
