"""spaCy backend: our tokens through tok2vec, tagger and parser only, in batches.

Entity recognizer, attribute ruler and lemmatizer are left out: UPOS follows from the Penn tag and
the dependency, lemmas come from a memo by form and tag. The dependencies arrive in CLEAR style and
leave in UD v2.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from features.errors import MissingDependency, MissingInput
from features.records import TextGraph
from pipeline.language.dependency import clear_to_ud, coarse_tag, one_tree
from pipeline.language.embedding_cache import remember_words
from pipeline.language.lemmas import LEMMAS_VERSION, MODELS, Lemmas
from pipeline.language.repair import repair
from pipeline.language.tokenizer import lowered, tokenize

__all__ = ["SpacyParser"]

_FULL_STOPS = frozenset((".", "!", "?", "...", "''"))
_UNUSED = ["ner", "attribute_ruler", "lemmatizer", "senter"]


class SpacyParser:
    """Parse captions with a spaCy model.

    Args:
        model: package name or folder of a spaCy English model; "" takes the first installed of
            ``MODELS``.
        batch_size: captions per batch.

    Raises:
        MissingDependency: no model is installed.
        MissingInput: ``model`` names neither a package nor a folder.
    """

    name = "spacy"

    def __init__(self, model: str = "", batch_size: int = 256) -> None:
        import spacy
        from spacy.tokens import Doc

        found = model or next((name for name in MODELS if importlib.util.find_spec(name)), "")
        if not found:
            raise MissingDependency.of(
                MODELS[-1], "parsing captions with spaCy", f"pip install {MODELS[-1]}"
            )
        if model and not Path(model).is_dir() and importlib.util.find_spec(model) is None:
            raise MissingInput(
                f"spaCy model {model!r} is neither an installed package nor a folder. "
                f"Install it, or leave the option out to use {' or '.join(MODELS)}."
            )
        self.nlp: Any = spacy.load(found, exclude=_UNUSED)
        remember_words(self.nlp)
        self.batch_size = batch_size
        meta = self.nlp.meta
        self.version = f"{meta['name']}-{meta['version']}+spacy-{spacy.about.__version__}"
        self.version += f"+lemmas-{LEMMAS_VERSION}"
        self._doc = Doc
        self._lemmas = Lemmas.from_model(Path(self.nlp.path))
        self._strings: dict[int, str] = {}

    def parse(self, captions: list[str]) -> list[TextGraph]:
        """Return tokens, lemmas, tags and UD v2 dependencies of each caption, in order."""
        split = [tokenize(caption) for caption in captions]
        docs = []
        for tokens in split:
            if not tokens.words:
                continue
            words = lowered(tokens.words)
            if words[-1] not in _FULL_STOPS:
                words = [*words, "."]  # the model was trained on whole sentences
            begins: list[bool | int | None] = [False] * len(words)
            for start in tokens.starts:
                begins[start] = True
            docs.append(self._doc(self.nlp.vocab, words=words, sent_starts=begins))
        parsed = iter(self.nlp.pipe(docs, batch_size=self.batch_size))
        graphs = []
        for caption, tokens in zip(captions, split, strict=True):
            if tokens.words:
                graphs.append(
                    self._graph(caption, tokens.words, tokens.starts, tokens.problem, next(parsed))
                )
            else:
                graphs.append(TextGraph(caption, problem=tokens.problem, sentence_starts=()))
        return graphs

    def _graph(
        self, caption: str, words: list[str], starts: list[int], problem: str, doc: Any
    ) -> TextGraph:
        table = doc.to_array(["TAG", "DEP", "HEAD"]).astype("int64").tolist()
        strings = self._strings
        tags: list[str] = []
        deps: list[str] = []
        heads: list[int] = []
        n = len(words)
        for at, (tag, dep, offset) in enumerate(table[:n]):
            tags.append(strings.get(tag) or self._string(tag))
            deps.append(strings.get(dep) or self._string(dep))
            heads.append(at + offset if offset and at + offset < n else -1)
        lower = [word.lower() for word in words]
        heads, rels = clear_to_ud(lower, tags, heads, deps)
        repair(lower, tags, heads, rels, self._lemmas.is_third_person)
        heads, rels = one_tree(heads, rels, starts)
        lemma = self._lemmas.of
        return TextGraph(
            caption=caption,
            tokens=tuple(words),
            lemmas=tuple([lemma(word, tag) for word, tag in zip(lower, tags, strict=True)]),
            upos=tuple([coarse_tag(tag, rel) for tag, rel in zip(tags, rels, strict=True)]),
            xpos=tuple(tags),
            heads=tuple(heads),
            deprels=tuple(rels),
            scheme="ud",
            problem=problem,
            sentence_starts=tuple(starts),
        )

    def _string(self, number: int) -> str:
        text = str(self.nlp.vocab.strings[number % (1 << 64)]) if number else "dep"
        self._strings[number] = text
        return text
