"""GSMN's caption files: word ids, dependency pairs and the vocabulary they count in.

``{split}_precaps_stan.txt``: word ids of a caption, separated by commas, ``<start>`` first and
``<end>`` last. ``{split}_caps.json``: for each caption a list of ``[head, dependent]``; words count
from 1 and 0 is ROOT, as CoreNLP writes it, ROOT's own pair first. The released code skips that
first pair and uses the numbers as rows of the word ids, which fits exactly because row 0 is
``<start>``: **word i of the caption (from 1) is row i**. ``{name}_vocab.json``: ``{"word2idx",
"idx2word", "idx"}`` with ``<pad> <start> <end> <unk>`` as 0 to 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from features.convert.source import integers, need_file, read_json
from features.errors import InputError
from features.records import TextGraph

__all__ = ["dependency_pairs", "read_graphs", "word_ids"]

_START, _END, _UNKNOWN = 1, 2, 3
Pairs = list[list[int]]


def dependency_pairs(graph: TextGraph) -> Pairs:
    """Return ``[head, dependent]`` of a caption, from 1, the pair of the first root in front.

    Roots of further sentences get no pair: the released code would tie them to ``<start>``.

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
    """Read tokens and heads of a split's captions, None where a file is missing.

    Tokens are the vocabulary's words (rare ones ``<unk>``), lemmas equal them; tags are empty, the
    relation of an edge is ``dep`` because the format has no names for them.

    Args:
        folder: the precomputed folder; it also has the vocabulary, ``*_vocab.json``.
        split: SCAN's name of the split.
        captions: the split's captions.

    Raises: InputError: lengths that differ, ids without a word, heads outside the caption.
    """
    words_path = folder / f"{split}_precaps_stan.txt"
    pairs_path = folder / f"{split}_caps.json"
    vocabularies = sorted(folder.glob("*_vocab.json"))
    if not (words_path.is_file() and pairs_path.is_file() and vocabularies):
        return None
    words = _read_vocabulary(vocabularies[0])
    lines = need_file(words_path).read_bytes().decode("ascii", "replace").splitlines()
    pairs = read_json(pairs_path)
    if not isinstance(pairs, list) or not len(pairs) == len(lines) == len(captions):
        n_pairs = len(pairs) if isinstance(pairs, list) else "no list of"
        raise InputError(
            f"{pairs_path}: {n_pairs} entries, {words_path.name} has {len(lines)} lines, "
            f"there are {len(captions)} captions."
        )
    return [
        _graph(f"{words_path}, line {at + 1}", caption, line, edges, words)
        for at, (caption, line, edges) in enumerate(zip(captions, lines, pairs, strict=True))
    ]


def _read_vocabulary(path: Path) -> dict[int, str]:
    document = read_json(path)
    table = document.get("word2idx") if isinstance(document, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{path}: no vocabulary; it needs 'word2idx'.")
    return dict(
        zip(integers(str(path), "ids", list(table.values()), len(table)), table, strict=True)
    )


def _graph(
    where: str, caption: str, line: str, edges: object, words: Mapping[int, str]
) -> TextGraph:
    parts = line.split(",")
    ids = list(integers(where, "word ids", parts, len(parts)))
    if ids[:1] != [_START] or ids[-1:] != [_END] or len(ids) < 2:
        raise InputError(f"{where}: word ids must begin with <start> and stop with <end>.")
    if unknown := [code for code in ids if code not in words]:
        raise InputError(f"{where}: word id {unknown[0]} is not in the vocabulary.")
    tokens = tuple(words[code] for code in ids[1:-1])
    heads = [-1] * len(tokens)
    if not isinstance(edges, list):
        raise InputError(f"{where}: the dependencies are no list of pairs.")
    for edge in edges:
        head, dependent = integers(where, "a dependency", edge, 2)
        if not (0 <= head <= len(tokens) and 1 <= dependent <= len(tokens)):
            raise InputError(f"{where}: dependency {edge} lies outside {len(tokens)} words.")
        heads[dependent - 1] = head - 1
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
