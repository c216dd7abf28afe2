"""The parser spacy: the parses of spaCy's components, with cached embeddings."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from features.errors import MissingInput
from pipeline.language.embedding_cache import EmbeddingCache, cache_embeddings
from pipeline.language.tokenizer import tokenize
from pipeline.parse import load_parser, parser_version

CAPTIONS = [
    "A man in a red jacket is riding a brown horse on the beach.",
    "Two young women sit next to an old stone fountain.",
    "A dog that is wearing a scarf jumps over a fallen tree.",
    "Several people, some with umbrellas, wait in line outside of a theatre.",
]


@pytest.fixture(scope="module", name="plain")
def _plain():
    """Load the model without our changes."""
    return spacy.load(
        load_parser("spacy").nlp.path, exclude=["ner", "attribute_ruler", "lemmatizer", "senter"]
    )


def docs(nlp, captions: list[str]) -> list[Doc]:
    return [Doc(nlp.vocab, words=tokenize(caption).words) for caption in captions]


def test_tags_and_trees_equal_spacys(plain) -> None:
    ours = load_parser("spacy").nlp
    assert ours.get_pipe("tok2vec").model.layers[0].name == "cached-words"
    for one, other in zip(
        ours.pipe(docs(ours, CAPTIONS)), plain.pipe(docs(plain, CAPTIONS)), strict=True
    ):
        assert [t.tag_ for t in one] == [t.tag_ for t in other]
        assert [(t.head.i, t.dep_) for t in one] == [(t.head.i, t.dep_) for t in other]


def test_cached_vectors_equal_the_layers_output(plain) -> None:
    layer = plain.get_pipe("tok2vec").model.layers[0]
    cache = EmbeddingCache(layer, plain.vocab, limit=20)  # fewer than the words: it is emptied
    for captions in (CAPTIONS[:1], CAPTIONS[1:], CAPTIONS[:2], []):
        made = docs(plain, captions)
        found = cache.vectors(made)
        assert len(found) == len(made)
        for one, other in zip(found, layer.predict(made) if made else [], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_other_architectures_are_unchanged() -> None:
    nlp = spacy.blank("en")
    assert cache_embeddings(nlp) is False


def test_only_the_used_components_are_loaded() -> None:
    assert load_parser("spacy").nlp.pipe_names == ["tok2vec", "tagger", "parser"]


def test_a_model_folder() -> None:
    folder = str(load_parser("spacy").nlp.path)
    assert load_parser("spacy", model=folder).parse(["A dog runs."])[0].heads == (1, 2, -1, 2)


def test_the_version_is_known_without_loading_the_model():
    program = (
        "import sys; from pipeline.parse import parser_version;"
        "print(*parser_version('spacy'), 'spacy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["spacy", load_parser("spacy").version, "False"]


def test_a_folder_that_is_no_model_is_an_error(tmp_path):
    with pytest.raises(MissingInput, match=r"meta\.json cannot be read"):
        parser_version(f"spacy:{tmp_path}")
