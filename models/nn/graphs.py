"""Parts of caption and image graphs that several papers share.

``text_adjacency`` is the word graph of GSMN and RACG; ``GraphConvolution`` and
``TextGraphEncoder`` are the scene-graph encoders of SGM and CFSGR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.batches import CaptionBatch
from models.nn.layers import (
    Activation,
    BiGru,
    activate,
    last_state,
    uniform_embedding,
    xavier_linear,
)


def text_adjacency(heads: Tensor, word_mask: Tensor, *, dense: bool = False) -> Tensor:
    """Return which words share an edge: a dependent and its head, and each word with itself.

    Args:
        heads: (C, T) int64, position of each word's head, -1 without one.
        word_mask: (C, T) bool.
        dense: connect all real words of a caption instead.
    Returns: (C, T, T) bool, symmetric; False for padded words.
    """
    real = word_mask.unsqueeze(2) & word_mask.unsqueeze(1)
    if dense:
        return real
    positions = torch.arange(heads.shape[1], device=heads.device)
    arcs = heads.unsqueeze(2) == positions  # (C, T, T): word t has head j
    loops = torch.eye(heads.shape[1], dtype=torch.bool, device=heads.device)
    return (arcs | arcs.transpose(1, 2) | loops) & real


class GraphConvolution(nn.Module):
    """Update objects from themselves and relations from their triplets. SGM Eq. (3)."""

    def __init__(self, inputs: int, outputs: int, act: Activation = "tanh") -> None:
        super().__init__()
        self.act: Activation = act
        self.g_o = xavier_linear(inputs, outputs)
        self.g_r = xavier_linear(3 * inputs, outputs)

    def forward(self, objects: Tensor, relations: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objects (B, K, D) and relations (B, R, D) of the next layer.

        Args:
            objects: (B, K, d).   relations: (B, R, d).
            pairs: (B, R, 2) int64, rows of the subject and object of each relation.
        """
        width = objects.shape[-1]
        s, o = (
            objects.gather(1, pairs[..., end : end + 1].expand(-1, -1, width)) for end in (0, 1)
        )
        triplets = torch.cat([s, relations, o], -1)  # (B, R, 3 d)
        return activate(self.g_o(objects), self.act), activate(self.g_r(triplets), self.act)


class TextGraphEncoder(nn.Module):
    """Bi-GRUs over the words of a caption and over its triplets. CFSGR Eq. (2).

    Args:
        vocab_size: words in the table.   word_dim: width of a word vector.
        embed_dim: width of a node, D.
        context: False encodes each word alone with a Linear (SGM Table 1, OOM w/o TCxt).
    """

    def __init__(
        self, vocab_size: int, word_dim: int, embed_dim: int, *, context: bool = True
    ) -> None:
        super().__init__()
        self.embed = uniform_embedding(vocab_size, word_dim)  # W_e
        self.word_gru = BiGru(word_dim, embed_dim) if context else None
        self.word_layer = None if context else xavier_linear(word_dim, embed_dim)
        self.path_gru = BiGru(word_dim, embed_dim)

    def encode_words(self, captions: CaptionBatch) -> Tensor:
        """Encode the word-order path: (C, T, D), the mean of both directions. SGM Eq. (4)."""
        vectors = self.embed(captions.words)  # (C, T, d2)
        if self.word_gru is None:
            assert self.word_layer is not None
            alone: Tensor = self.word_layer(vectors)
            return alone
        states: Tensor = self.word_gru(vectors, captions.lengths)
        return states

    def path_states(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Encode all triplet paths: states (C P, L, D) and lengths (C P,), 0 for no triplet."""
        spans = captions.triplet_spans.sum(-1).flatten()  # words of each triplet
        lengths = torch.where(spans > 0, spans + 2, 0)  # with <start> and <end>
        return self.path_gru(self.embed(captions.triplets.flatten(0, 1)), lengths), lengths

    def encode_paths(
        self, captions: CaptionBatch, words: Tensor, *, sentence: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the last state of each triplet path and its mask. SGM Eq. (5).

        Args:
            captions: C captions of P triplets.
            words: (C, T, D) from ``encode_words``.
            sentence: append the last state of the words as one more triplet.

        Returns:
            (C, P, D), zeros where there is no triplet, and (C, P) bool; P + 1 with the sentence.
        """
        paths = last_state(*self.path_states(captions)).view(*captions.triplets.shape[:2], -1)
        mask = captions.triplet_mask
        if sentence:
            paths = torch.cat([paths, last_state(words, captions.lengths).unsqueeze(1)], 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return paths, mask
