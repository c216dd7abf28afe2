"""Initialise word, label and predicate embeddings from word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import ConfigError
from features.vocab import Codebook, WordVectors, load_vectors

if TYPE_CHECKING:
    from torch import nn


def word_width(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return model options with ``word_dim`` set to the width of the vectors.

    Raises: ConfigError: the configuration has another ``word_dim``.
    """
    width = load_vectors(source).dim
    if options.get("word_dim", width) != width:
        raise ConfigError(
            f"model.options.word_dim is {options['word_dim']}, but the vectors {source!r} have "
            f"width {width}. Leave word_dim out."
        )
    return {**options, "word_dim": width}


def start_from_vectors(model: nn.Module, source: str, codebook: Codebook, *, labels: bool) -> None:
    """Initialise the embeddings of a model; names without a vector stay random.

    Args:
        model: with ``init_words`` and perhaps ``init_labels``.
        source: ``minilm`` or a file of vectors.
        codebook: names of the ids.
        labels: initialise label and predicate embeddings, too.

    Raises: ConfigError: the model has no word embeddings.
    """
    vectors = load_vectors(source)
    init_words = getattr(model, "init_words", None)
    if init_words is None:
        raise ConfigError(
            f"{type(model).__name__} has no word embeddings to initialise. Use --data.vectors none."
        )
    init_words(vector_rows(vectors, codebook.words.names))
    init_labels = getattr(model, "init_labels", None)
    if labels and init_labels is not None:
        init_labels(
            vector_rows(vectors, codebook.labels.names),
            vector_rows(vectors, codebook.predicates.names),
        )


def vector_rows(vectors: WordVectors, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the vector of each name, (n, D): the mean of its words; NaN if none has a vector.

    Names in angle brackets, such as ``<pad>``, have no vector.
    """
    rows = np.stack([vectors.phrase(name) for name in names])
    special = np.array([name.startswith("<") and name.endswith(">") for name in names])
    rows[special | ~rows.any(1)] = np.nan
    return rows.astype(np.float32)
