"""Word embeddings of a spaCy model, computed once per distinct word.

A third of the work of ``tok2vec`` is its embedding layer: hashes of a word's norm, prefix, suffix
and shape, concatenated and sent through a maxout. None of it depends on the context, and captions
use few distinct words, so the layer's output is kept per word. The contextual layers are untouched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["remember_words"]

_LIMIT = 100_000  # words; 96 float32 each: 38 MB


class _Memo:
    """The embedding layer's output by word (``ORTH``)."""

    def __init__(self, layer: Any, vocab: Any) -> None:
        self.layer = layer
        self.vocab = vocab
        self.row: dict[int, int] = {}
        self.table: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def vectors(self, docs: list[Any]) -> list[npt.NDArray[np.float32]]:
        """Return one (tokens, width) array per document."""
        words = np.concatenate([doc.to_array("ORTH") for doc in docs] or [np.zeros(0, np.uint64)])
        distinct, place = np.unique(words, return_inverse=True)
        known = distinct.tolist()
        fresh = [word for word in known if word not in self.row]
        if fresh:
            if len(self.row) + len(fresh) > _LIMIT:
                self.row.clear()
                self.table = self.table[:0]
                fresh = known
            self._add(fresh)
        rows = np.fromiter((self.row[word] for word in known), np.int64, len(known))
        every = self.table[rows][place]
        ends = np.cumsum([len(doc) for doc in docs])
        return np.split(every, ends[:-1]) if docs else []

    def _add(self, fresh: list[int]) -> None:
        from spacy.tokens import Doc

        strings = self.vocab.strings
        doc = Doc(self.vocab, words=[strings[word] for word in fresh])
        found = np.asarray(self.layer.predict([doc])[0], dtype=np.float32)
        at = len(self.row)
        self.row.update(zip(fresh, range(at, at + len(fresh)), strict=True))
        self.table = np.concatenate([self.table.reshape(-1, found.shape[1]), found])


def remember_words(nlp: Any) -> bool:
    """Let ``nlp``'s tok2vec keep its word embeddings; say whether the model allows it.

    Models with another architecture (transformers, GPU) and documents whose words carry their own
    spaces are left as they are: here every document is made from ready tokens.
    """
    from thinc.api import Model, NumpyOps

    if "tok2vec" not in nlp.pipe_names:
        return False
    model = nlp.get_pipe("tok2vec").model
    if not model.layers or not isinstance(model.ops, NumpyOps):
        return False
    layer = model.layers[0]
    if not layer.name.startswith("extract_features>>list2ragged>>with_array"):
        return False
    memo = _Memo(layer, nlp.vocab)

    def forward(_: Any, docs: list[Any], is_train: bool) -> tuple[list[Any], Any]:
        return memo.vectors(docs), lambda gradient: []

    model.layers[0] = Model("remembered-words", forward, dims={"nO": layer.get_dim("nO")})
    return True
