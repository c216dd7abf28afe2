"""A cache for the word embeddings of a spaCy model.

A third of the work of ``tok2vec`` is its embedding layer: hashes of a word's norm, prefix, suffix
and shape, concatenated and fed to a maxout layer. The result does not depend on the context, and
captions use few distinct words, so it is cached per word. The contextual layers are unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT = 100_000  # words of 96 float32: 38 MB


class EmbeddingCache:
    """Outputs of an embedding layer by word (spaCy's ``ORTH``).

    Args:
        layer: the embedding layer.   vocab: vocabulary of the model.
        limit: words kept; the cache is emptied when it is full.
    """

    def __init__(self, layer: Any, vocab: Any, limit: int = LIMIT) -> None:
        self.layer, self.vocab, self.limit = layer, vocab, limit
        self.row: dict[int, int] = {}
        self.table: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def vectors(self, docs: list[Any]) -> list[npt.NDArray[np.float32]]:
        """Return one (tokens, width) array per document."""
        words = np.concatenate([doc.to_array("ORTH") for doc in docs] or [np.zeros(0, np.uint64)])
        distinct, place = np.unique(words, return_inverse=True)
        known = distinct.tolist()
        fresh = [word for word in known if word not in self.row]
        if fresh:
            if len(self.row) + len(fresh) > self.limit:
                self.row.clear()
                self.table = self.table[:0]
                fresh = known
            self._add(fresh)
        rows = np.fromiter((self.row[word] for word in known), np.int64, len(known))
        every = self.table[rows][place]
        ends = np.cumsum([len(doc) for doc in docs])
        return np.split(every, ends[:-1]) if docs else []

    def _add(self, fresh: list[int]) -> None:
        from spacy.tokens import Doc  # loads spaCy

        strings = self.vocab.strings
        doc = Doc(self.vocab, words=[strings[word] for word in fresh])
        found = np.asarray(self.layer.predict([doc])[0], dtype=np.float32)
        at = len(self.row)
        self.row.update(zip(fresh, range(at, at + len(fresh)), strict=True))
        self.table = np.concatenate([self.table.reshape(-1, found.shape[1]), found])


def cache_embeddings(nlp: Any) -> bool:
    """Cache the word embeddings of a model's tok2vec; return whether its architecture allows it.

    Models of other architectures (transformers, GPU) are left unchanged. Documents must be made
    from tokens, as they are here, because white space is not part of the cache key.
    """
    from thinc.api import Model, NumpyOps  # loads thinc

    if "tok2vec" not in nlp.pipe_names:
        return False
    model = nlp.get_pipe("tok2vec").model
    if not model.layers or not isinstance(model.ops, NumpyOps):
        return False
    layer = model.layers[0]
    if not layer.name.startswith("extract_features>>list2ragged>>with_array"):
        return False
    cache = EmbeddingCache(layer, nlp.vocab)

    def forward(_: Any, docs: list[Any], is_train: bool) -> tuple[list[Any], Any]:
        return cache.vectors(docs), lambda gradient: []

    model.layers[0] = Model("cached-words", forward, dims={"nO": layer.get_dim("nO")})
    return True
