"""The parser ``stanza``: Stanza's tagger and dependency parser, run on our tokens.

Stanza's English models are UD v2. The model folder is the user's (``stanza.download`` creates one);
without ``download=True`` nothing is downloaded. Captions are processed by one ``bulk_process`` per
batch, on a GPU if there is one.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from features.errors import InputError, MissingDependency, MissingInput
from pipeline.language.dependency import Tree
from pipeline.language.lemmas import LEMMAS_VERSION, Lemmas
from pipeline.language.parsers.token_parser import TokenParser
from pipeline.language.tokenizer import Tokens, lowered


def _folder(model_dir: str) -> Path:
    """Return the folder of the models."""
    known = model_dir or os.environ.get("STANZA_RESOURCES_DIR")
    if known:
        return Path(known)
    from stanza.resources.common import DEFAULT_MODEL_DIR  # loads Stanza and torch

    return Path(DEFAULT_MODEL_DIR)


def _advice(model_dir: str) -> str:
    return (
        f"Download them once with: python -c \"import stanza; stanza.download('en', "
        f"model_dir='{_folder(model_dir)}')\", or pass their folder as model_dir."
    )


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
        self.version = self.identify(model_dir, package, download)
        import stanza  # loads Stanza and torch

        folder, advice = _folder(model_dir), _advice(model_dir)
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

    @staticmethod
    def identify(
        model_dir: str = "",
        package: str = "default",
        download: bool = False,
        gpu: bool = True,
        batch_size: int = 500,
    ) -> str:
        """Return the version of the parser from package metadata.

        Stanza is imported only to find its default folder, if ``STANZA_RESOURCES_DIR`` is not set.

        Raises: MissingDependency, MissingInput: as the constructor.
        """
        if importlib.util.find_spec("stanza") is None:
            raise MissingDependency.of(
                "stanza", "the parser 'stanza'", "pip install 'scenestore[stanza]'"
            )
        folder = _folder(model_dir)
        if not download and not (folder / "resources.json").is_file():
            raise MissingInput(
                f"{folder}: no Stanza models (resources.json is missing). {_advice(model_dir)}"
            )
        return f"{package}+stanza-{version('stanza')}+lemmas-{LEMMAS_VERSION}"

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
