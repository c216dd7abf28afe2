"""Text encoders: word vectors and a Bi-GRU, or a BERT over word pieces.

Word vectors start random, or are copied from those that ``features.vocab.vectors`` reads from GloVe
files or from the packaged MiniLM (384-d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from features.batches import CaptionBatch
from features.errors import ConfigError
from models.nn.bert import Bert, BertConfig, load_bert
from models.nn.layers import BiGru, uniform_embedding, xavier_linear, zero_padding

if TYPE_CHECKING:
    import numpy.typing as npt


def copy_rows(table: nn.Embedding, vectors: npt.ArrayLike) -> None:
    """Copy pretrained vectors into an embedding; a row of zeros or NaN keeps its random values.

    Args:
        table: (V, d).
        vectors: (V, d), for example from ``features.vocab.vectors.word_matrix``.
    Raises: ConfigError: the shapes differ.
    """
    values = torch.as_tensor(np.asarray(vectors), dtype=table.weight.dtype)
    if values.shape != table.weight.shape:
        have, want = tuple(values.shape), tuple(table.weight.shape)
        raise ConfigError(
            f"word vectors have shape {have}, but the embedding has {want}. "
            f"Set word_dim to {have[-1]} and use the vocabulary the vectors were made for."
        )
    known = values.isfinite().all(1) & values.any(1)
    with torch.no_grad():
        table.weight[known] = values[known].to(table.weight.device)


class GruText(nn.Module):
    """Word vectors and a Bi-GRU over them, both directions averaged.

    Args:
        vocab_size: words in the table.   word_dim: width of a word vector.
        embed_dim: width of a word feature.
    """

    def __init__(self, vocab_size: int, word_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.embed = uniform_embedding(vocab_size, word_dim)
        self.gru = BiGru(word_dim, embed_dim)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Encode words (C, T) with mask (C, T): (C, T, embed_dim), zeros where padded."""
        states: Tensor = self.gru(self.embed(words), mask.sum(1))
        return states


def pool_pieces(pieces: Tensor, piece_words: Tensor, n_words: int) -> Tensor:
    """Average the features of each word's pieces: (C, T, D), zeros for a word without pieces.

    [CLS] belongs to ``<start>`` and [SEP] to ``<end>``.

    Args:
        pieces: (C, S, D).   piece_words: (C, S) int64, word of each piece, -1 where padded.
        n_words: T.
    """
    words = torch.arange(n_words, device=pieces.device)
    member = (piece_words.unsqueeze(1) == words.view(1, -1, 1)).to(pieces.dtype)  # (C, T, S)
    return (member @ pieces) / member.sum(-1, keepdim=True).clamp(min=1.0)


class BertText(nn.Module):
    """A BERT over word pieces and a linear layer into the common space.

    Args:
        source: folder of a BERT, ``minilm`` (see ``models.nn.bert``), or the sizes of a BERT whose
            weights are loaded later.
        embed_dim: width of a feature.
        xavier: Xavier-uniform weights and no bias at the start; False: those of ``nn.Linear``,
            two thirds as large for BERT-base, as in the released HREM.
    """

    def __init__(self, source: str | BertConfig, embed_dim: int, *, xavier: bool = True) -> None:
        super().__init__()
        self.bert = Bert(source) if isinstance(source, BertConfig) else load_bert(source)
        layer = xavier_linear if xavier else nn.Linear
        self.project = layer(self.bert.config.hidden_size, embed_dim)

    def encode_pieces(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Return features (C, S, D) and mask (C, S) of all pieces, [CLS] and [SEP] included."""
        pieces, piece_words = _pieces_of(captions)
        mask = piece_words >= 0
        return zero_padding(self.project(self.bert(pieces, mask)), mask), mask

    def forward(self, captions: CaptionBatch) -> Tensor:
        """Return the mean of each word's pieces: (C, T, D), zeros where padded."""
        features, _ = self.encode_pieces(captions)
        _, piece_words = _pieces_of(captions)
        return pool_pieces(features, piece_words, captions.words.shape[1])


def _pieces_of(captions: CaptionBatch) -> tuple[Tensor, Tensor]:
    if captions.pieces is None or captions.piece_words is None:
        raise ConfigError(
            "this model reads word pieces, but the codebook has none. Create the codebook with "
            "Codebook.from_store(store, pieces=FOLDER / 'vocab.txt'), where FOLDER holds its BERT."
        )
    return captions.pieces, captions.piece_words
