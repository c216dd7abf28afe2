"""From word ids to word features: learned vectors and a Bi-GRU, or a BERT over word pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from features.errors import ConfigError
from models.layers import BiGru, embedding

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["GruText", "copy_rows"]


def copy_rows(table: nn.Embedding, vectors: npt.ArrayLike) -> None:
    """Overwrite an embedding's rows with given vectors; rows of NaN keep their random start.

    Args:
        table: (V, d).
        vectors: (V, d) array; what ``models.word_vectors.load_vectors`` returns.

    Raises:
        ConfigError: the shapes differ.
    """
    values = torch.as_tensor(np.asarray(vectors), dtype=table.weight.dtype)
    if values.shape != table.weight.shape:
        have, want = tuple(values.shape), tuple(table.weight.shape)
        raise ConfigError(
            f"word vectors of shape {have} do not fit a table of {want}; "
            f"set word_dim to {have[-1]} and use the vocabulary they were looked up for."
        )
    known = ~torch.isnan(values).any(1)
    with torch.no_grad():
        table.weight[known] = values[known].to(table.weight.device)


class GruText(nn.Module):
    """Word vectors and the Bi-GRU over them, both directions averaged.

    Args:
        vocab_size: words in the table.
        word_dim: width of a word vector.
        embed_dim: width of a word feature.
    """

    def __init__(self, vocab_size: int, word_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.embed = embedding(vocab_size, word_dim)
        self.gru = BiGru(word_dim, embed_dim)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Encode padded captions.

        Args:
            words: (C, T) int64.   mask: (C, T) bool.

        Returns:
            (C, T, embed_dim), zeros where padded.
        """
        states: Tensor = self.gru(self.embed(words), mask.sum(1))
        return states

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start from given word vectors, (vocab_size, word_dim); NaN rows stay random."""
        copy_rows(self.embed, vectors)
