"""Base of the packaged parsers: tokens before the model, corrections and lemmas after it."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from features.records import TextGraph
from pipeline.language.dependency import Tree, coarse_tag
from pipeline.language.lemmas import Lemmas
from pipeline.language.repair import repair
from pipeline.language.tokenizer import Tokens, tokenize


class TokenParser(abc.ABC):
    """Base of parsers whose model tags and parses our tokens.

    Args:
        lemmas: lemmatizer; the same for every parser.
    """

    def __init__(self, lemmas: Lemmas) -> None:
        self._lemmas = lemmas

    @abc.abstractmethod
    def trees(self, captions: list[Tokens]) -> Iterable[Tree]:
        """Yield the UD v2 tree of each caption, in order; no caption is without tokens."""

    def parse(self, captions: list[str]) -> list[TextGraph]:
        """Return tokens, lemmas, tags and UD v2 dependencies of each caption, in order."""
        split = [tokenize(caption) for caption in captions]
        trees = iter(self.trees([tokens for tokens in split if tokens.words]))
        return [
            self._graph(caption, tokens, next(trees))
            if tokens.words
            else TextGraph(caption, problem=tokens.problem, sentence_starts=())
            for caption, tokens in zip(captions, split, strict=True)
        ]

    def _graph(self, caption: str, tokens: Tokens, tree: Tree) -> TextGraph:
        repair(tree, self._lemmas.is_third_person)
        tree.connect(tokens.starts)
        lemma, tags, rels = self._lemmas.of, tree.tags, tree.rels
        return TextGraph(
            caption=caption,
            tokens=tuple(tokens.words),
            lemmas=tuple([lemma(word, tag) for word, tag in zip(tree.words, tags, strict=True)]),
            upos=tuple([coarse_tag(tag, rel) for tag, rel in zip(tags, rels, strict=True)]),
            xpos=tuple(tags),
            heads=tuple(tree.heads),
            deprels=tuple(rels),
            problem=tokens.problem,
            sentence_starts=tuple(tokens.starts),
        )
