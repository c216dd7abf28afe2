"""Stanza backend: our tokens, pretokenized, through Stanza's tagger and dependency parser.

Stanza's English models are UD v2 already. The folder of models is the user's (``stanza.download``
makes one); without ``download=True`` nothing touches the network. Captions go through in one
``bulk_process`` a batch, on the GPU when there is one.
"""

from __future__ import annotations

import importlib.util
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

from features.errors import InputError, MissingDependency, MissingInput
from features.records import TextGraph
from pipeline.language.dependency import coarse_tag, one_tree
from pipeline.language.lemmas import LEMMAS_VERSION, Lemmas
from pipeline.language.repair import repair
from pipeline.language.tokenizer import Tokens, lowered, tokenize

__all__ = ["StanzaParser"]


class StanzaParser:
    """Parse captions with Stanza models.

    Args:
        model_dir: folder with ``resources.json`` and the models; "" = Stanza's own default folder.
        package: name of the models in that folder.
        download: fetch missing models; False never touches the network.
        gpu: use a GPU when there is one.
        batch_size: captions per call.

    Raises:
        MissingDependency: Stanza is not installed.
        MissingInput: no models in ``model_dir``, and ``download`` is off.
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
        import stanza
        from stanza.resources.common import DEFAULT_MODEL_DIR

        folder = Path(model_dir or DEFAULT_MODEL_DIR)
        advice = (
            f"Get them once with: python -c \"import stanza; stanza.download('en', "
            f"model_dir='{folder}')\", or name their folder with model_dir."
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
        self.batch_size = batch_size
        self.version = f"{package}+stanza-{stanza.__version__}+lemmas-{LEMMAS_VERSION}"
        self._lemmas = Lemmas.installed()

    def parse(self, captions: list[str]) -> list[TextGraph]:
        """Return tokens, lemmas, tags and UD v2 dependencies of each caption, in order."""
        graphs: list[TextGraph] = []
        for low in range(0, len(captions), self.batch_size):
            graphs += self._batch(captions[low : low + self.batch_size])
        return graphs

    def _batch(self, captions: list[str]) -> list[TextGraph]:
        split = [tokenize(caption) for caption in captions]
        documents = [_document(tokens) for tokens in split if tokens.words]
        done = iter(self.pipeline.bulk_process(documents) if documents else ())
        return [
            self._graph(caption, tokens, next(done))
            if tokens.words
            else TextGraph(caption, problem=tokens.problem, sentence_starts=())
            for caption, tokens in zip(captions, split, strict=True)
        ]

    def _graph(self, caption: str, tokens: Tokens, document: Any) -> TextGraph:
        tags: list[str] = []
        heads: list[int] = []
        rels: list[str] = []
        for start, sentence in zip(tokens.starts, document.sentences, strict=True):
            for word in sentence.words:
                tags.append(word.xpos or "XX")
                heads.append(start + word.head - 1 if word.head else -1)
                rels.append(word.deprel or "dep")
        lower = [word.lower() for word in tokens.words]
        repair(lower, tags, heads, rels, self._lemmas.is_third_person)
        heads, rels = one_tree(heads, rels, tokens.starts)
        return TextGraph(
            caption=caption,
            tokens=tuple(tokens.words),
            lemmas=tuple([self._lemmas.of(w, t) for w, t in zip(lower, tags, strict=True)]),
            upos=tuple([coarse_tag(tag, rel) for tag, rel in zip(tags, rels, strict=True)]),
            xpos=tuple(tags),
            heads=tuple(heads),
            deprels=tuple(rels),
            problem=tokens.problem,
            sentence_starts=tuple(tokens.starts),
        )


def _document(tokens: Tokens) -> Any:
    """Return the tokens as a Stanza document, capitals lowered where they say nothing."""
    from stanza import Document

    words = lowered(tokens.words)
    bounds = [*tokens.starts, len(words)]
    sentences = [
        [{"id": at + 1, "text": word} for at, word in enumerate(words[low:high])]
        for low, high in pairwise(bounds)
    ]
    return Document(sentences)
