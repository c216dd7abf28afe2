"""The parser ``stanza``: Stanza's tagger and dependency parser, run on our tokens.

Stanza's English models are UD v2. The model folder is the user's (``stanza.download`` creates one);
without ``download=True`` nothing is downloaded. Captions are processed by one ``bulk_process`` per
batch, on a GPU if there is one.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from features.errors import InputError, MissingDependency, MissingInput
from pipeline.language.dependency import Tree
from pipeline.language.lemmas import LEMMAS_VERSION, Lemmas
from pipeline.language.parsers.token_parser import TokenParser
from pipeline.language.tokenizer import Tokens, lowered


class StanzaParser(TokenParser):
    """Parse captions with Stanza models.

    Args:
        model_dir: folder with ``resources.json`` and the models; "": Stanza's default folder.
        package: name of the models in that folder.
        download: download missing models.
        gpu: use a GPU if there is one.
        batch_size: captions per batch.

    Raises:
        MissingDependency: Stanza is not installed.
        MissingInput: ``model_dir`` has no models, and ``download`` is off.
        InputError: Stanza cannot use the models.
    """

    name = "stanza"

    def __init__(
        self,
        model_dir: str = "",
        package: str = "default",
        download: bool = False,
        gpu: bool = True,
        batch_size: int = 500,
    ) -> None:
        if importlib.util.find_spec("stanza") is None:
            raise MissingDependency.of(
                "stanza", "the parser 'stanza'", "pip install 'scenestore[stanza]'"
            )
        import stanza  # loads Stanza and torch
        from stanza.resources.common import DEFAULT_MODEL_DIR

        folder = Path(model_dir or DEFAULT_MODEL_DIR)
        advice = (
            f"Download them once with: python -c \"import stanza; stanza.download('en', "
            f"model_dir='{folder}')\", or pass their folder as model_dir."
        )
        if not download and not (folder / "resources.json").is_file():
            raise MissingInput(f"{folder}: no Stanza models (resources.json is missing). {advice}")
        settings: dict[str, Any] = {
            "lang": "en",
            "dir": str(folder),
            "package": package,
            "processors": "tokenize,pos,lemma,depparse",
            "tokenize_pretokenized": True,
            "lemma_use_identity": True,  # lemmas are ours, the same for every parser
            "use_gpu": gpu,
            "verbose": False,
            "logging_level": logging.ERROR,
        }
        if not download:
            settings["download_method"] = None
        try:
            self.pipeline: Any = stanza.Pipeline(**settings)
        except FileNotFoundError as error:
            raise MissingInput(
                f"{folder}: a Stanza model is missing ({error}). {advice}"
            ) from error
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{folder}: Stanza cannot use these models: {error}. {advice}"
            ) from error
        super().__init__(Lemmas.installed())
        self.batch_size = batch_size
        self.version = f"{package}+stanza-{stanza.__version__}+lemmas-{LEMMAS_VERSION}"

    def trees(self, captions: list[Tokens]) -> Iterator[Tree]:
        """Yield the UD v2 tree of each caption."""
        for low in range(0, len(captions), self.batch_size):
            batch = captions[low : low + self.batch_size]
            done = self.pipeline.bulk_process([_document(tokens) for tokens in batch])
            for tokens, document in zip(batch, done, strict=True):
                yield _tree(tokens, document)


def _tree(tokens: Tokens, document: Any) -> Tree:
    tags: list[str] = []
    heads: list[int] = []
    rels: list[str] = []
    for start, sentence in zip(tokens.starts, document.sentences, strict=True):
        for word in sentence.words:
            tags.append(word.xpos or "XX")
            heads.append(start + word.head - 1 if word.head else -1)
            rels.append(word.deprel or "dep")
    return Tree([word.lower() for word in tokens.words], tags, heads, rels)


def _document(tokens: Tokens) -> Any:
    """Return the tokens as a Stanza document, captions in capitals in lower case."""
    from stanza import Document  # loads Stanza and torch

    words = lowered(tokens.words)
    bounds = [*tokens.starts, len(words)]
    sentences = [
        [{"id": at + 1, "text": word} for at, word in enumerate(words[low:high])]
        for low, high in pairwise(bounds)
    ]
    return Document(sentences)
