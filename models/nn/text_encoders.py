"""From ids to text features: word vectors and a Bi-GRU, or a BERT over word pieces.

Vectors to start from come from ``features.vocab.vectors`` (GloVe files, the packaged MiniLM's input
table, 384-d) through ``init_words``; without them the table starts random and is learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from features.batches.batch import CaptionBatch
from features.errors import ConfigError
from models.nn.bert import Bert, BertConfig, load_bert
from models.nn.layers import BiGru, embedding, linear

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BertText", "GruText", "copy_rows", "pool_pieces"]


def copy_rows(table: nn.Embedding, vectors: npt.ArrayLike) -> None:
    """Overwrite an embedding's rows with given vectors; unknown rows stay random.

    Args:
        table: (V, d).
        vectors: (V, d), as ``features.vocab.vectors.word_matrix`` makes them: zeros (or NaN) where
            a word has no vector.

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
    known = values.isfinite().all(1) & values.any(1)
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
        """Start from given word vectors, (vocab_size, word_dim); see ``copy_rows``."""
        copy_rows(self.embed, vectors)


def pool_pieces(pieces: Tensor, piece_words: Tensor, n_words: int) -> Tensor:
    """Average the features of a word's pieces: one row per word, as the graphs count them.

    [CLS] belongs to ``<start>`` and [SEP] to ``<end>``.

    Args:
        pieces: (C, S, D).   piece_words: (C, S) int64, word of each piece, -1 on pads.
        n_words: T.

    Returns:
        (C, T, D), zeros for a word without pieces.
    """
    words = torch.arange(n_words, device=pieces.device)
    member = (piece_words.unsqueeze(1) == words.view(1, -1, 1)).to(pieces.dtype)  # (C, T, S)
    return (member @ pieces) / member.sum(-1, keepdim=True).clamp(min=1.0)


class BertText(nn.Module):
    """A BERT over word pieces and a linear layer into the common space.

    Args:
        source: folder of a BERT, ``minilm`` (see ``models.nn.bert``), or the sizes of an empty one.
        embed_dim: width of a feature.
        weights: False leaves BERT's weights to a checkpoint that is loaded afterwards.
    """

    def __init__(self, source: str | BertConfig, embed_dim: int, *, weights: bool = True) -> None:
        super().__init__()
        if isinstance(source, BertConfig):
            self.bert = Bert(source)
        else:
            self.bert = load_bert(source, weights=weights)
        self.project = linear(self.bert.config.hidden_size, embed_dim)

    def encode_pieces(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Return the features of all pieces, [CLS] and [SEP] included: (C, S, D), mask (C, S)."""
        pieces, piece_words = _pieces_of(captions)
        mask = piece_words >= 0
        features: Tensor = self.project(self.bert(pieces, mask))
        return features.masked_fill(~mask.unsqueeze(-1), 0.0), mask

    def forward(self, captions: CaptionBatch) -> Tensor:
        """Return (C, T, D): the mean of each word's pieces, zeros where padded."""
        features, _ = self.encode_pieces(captions)
        _, piece_words = _pieces_of(captions)
        return pool_pieces(features, piece_words, captions.words.shape[1])


def _pieces_of(captions: CaptionBatch) -> tuple[Tensor, Tensor]:
    if captions.pieces is None or captions.piece_words is None:
        raise ConfigError(
            "this model reads word pieces, but the codebook has none; make it with "
            "Codebook.from_store(store, pieces=FOLDER / 'vocab.txt') of the same BERT."
        )
    return captions.pieces, captions.piece_words
