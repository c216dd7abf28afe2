"""The parser ``spacy``: tok2vec, tagger and parser of a spaCy model, run on our tokens.

Entity recognizer, attribute ruler and lemmatizer are not loaded: UPOS follows from the Penn tag and
the dependency, lemmas are cached by form and tag. Dependencies are converted from CLEAR to UD v2.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from features.errors import MissingDependency, MissingInput
from pipeline.language.dependency import Tree
from pipeline.language.embedding_cache import cache_embeddings
from pipeline.language.lemmas import LEMMAS_VERSION, MODELS, Lemmas
from pipeline.language.parsers.token_parser import TokenParser
from pipeline.language.tokenizer import Tokens, lowered

_FULL_STOPS = frozenset((".", "!", "?", "...", "''"))
_UNUSED = ["ner", "attribute_ruler", "lemmatizer", "senter"]


def _model(name: str) -> str:
    """Return the package or folder of a model. Raises: MissingDependency, MissingInput."""
    found = name or next((one for one in MODELS if importlib.util.find_spec(one)), "")
    if not found:
        raise MissingDependency.of(
            MODELS[-1], "parsing captions with spaCy", f"pip install {MODELS[-1]}"
        )
    if name and not Path(name).is_dir() and importlib.util.find_spec(name) is None:
        raise MissingInput(
            f"spaCy model {name!r} is neither an installed package nor a folder. Install it, "
            f"or leave the option out to use {' or '.join(MODELS)}."
        )
    return found


def _only_parses() -> bool:
    """Return whether this process is a worker of a build or runs ``python -m pipeline``."""
    program = getattr(sys.modules["__main__"], "__spec__", None)
    worker = multiprocessing.current_process().name == "scenestore-worker"
    return worker or (program is not None and program.name == "pipeline.__main__")


def _import_thinc_alone() -> None:
    """Import thinc, which spaCy is built on, without torch.

    It imports torch wherever that is installed, which takes longer than all of spaCy, and the
    packaged models do not use it. Only models that do are lost to this process.
    """
    if "torch" in sys.modules or "thinc" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # an ImportError
    try:
        importlib.import_module("thinc.compat")
    finally:
        del sys.modules["torch"]


class SpacyParser(TokenParser):
    """Parse captions with a spaCy model.

    Args:
        model: package or folder of an English spaCy model; "": the first installed of ``MODELS``.
        batch_size: captions per batch.

    Raises:
        MissingDependency: no model is installed.
        MissingInput: ``model`` is neither an installed package nor a folder.
    """

    name = "spacy"

    def __init__(self, model: str = "", batch_size: int = 256) -> None:
        self.version = self.identify(model)
        found = _model(model)
        if found in MODELS and _only_parses():
            _import_thinc_alone()
        import spacy  # loads spaCy
        from spacy.tokens import Doc

        self.nlp: Any = spacy.load(found, exclude=_UNUSED)
        cache_embeddings(self.nlp)
        super().__init__(Lemmas.from_model(Path(self.nlp.path)))
        self.batch_size = batch_size
        self._doc = Doc
        self._strings: dict[int, str] = {}

    @staticmethod
    def identify(model: str = "", batch_size: int = 256) -> str:
        """Return the version of the parser from package metadata; spaCy is not imported.

        Raises: MissingDependency, MissingInput: as the constructor.
        """
        found = _model(model)
        spec = None if Path(found).is_dir() else importlib.util.find_spec(found)
        folder = Path(str(spec.origin)).parent if spec else Path(found)
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            name, number = meta["name"], meta["version"]
        except (OSError, ValueError, KeyError) as error:
            raise MissingInput(
                f"{folder}: not a spaCy model; meta.json cannot be read. Install it again."
            ) from error
        return f"{name}-{number}+spacy-{version('spacy')}+lemmas-{LEMMAS_VERSION}"

    def trees(self, captions: list[Tokens]) -> Iterator[Tree]:
        """Yield the UD v2 tree of each caption."""
        docs = self.nlp.pipe([self._document(c) for c in captions], batch_size=self.batch_size)
        for tokens, doc in zip(captions, docs, strict=True):
            yield self._tree(tokens.words, doc)

    def _document(self, tokens: Tokens) -> Any:
        words = lowered(tokens.words)
        if words[-1] not in _FULL_STOPS:
            words = [*words, "."]  # the model was trained on complete sentences
        begins: list[bool | int | None] = [False] * len(words)
        for start in tokens.starts:
            begins[start] = True
        return self._doc(self.nlp.vocab, words=words, sent_starts=begins)

    def _tree(self, words: list[str], doc: Any) -> Tree:
        table = doc.to_array(["TAG", "DEP", "HEAD"]).astype("int64").tolist()
        strings = self._strings
        tags: list[str] = []
        deps: list[str] = []
        heads: list[int] = []
        n = len(words)
        for at, (tag, dep, offset) in enumerate(table[:n]):  # without an added full stop
            tags.append(strings.get(tag) or self._string(tag))
            deps.append(strings.get(dep) or self._string(dep))
            heads.append(at + offset if offset and at + offset < n else -1)
        tree = Tree([word.lower() for word in words], tags, heads, deps)
        tree.clear_to_ud()
        return tree

    def _string(self, number: int) -> str:
        text = str(self.nlp.vocab.strings[number % (1 << 64)]) if number else "dep"
        self._strings[number] = text
        return text
