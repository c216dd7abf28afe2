"""Parts of caption and image graphs that several papers share.

``text_adjacency`` is the word graph of GSMN and RACG; ``GraphConvolution`` and
``TextGraphEncoder`` are the scene-graph encoders of SGM and CFSGR.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from models.nn.layers import (
    Activation,
    BiGru,
    activate,
    last_state,
    uniform_embedding,
    xavier_linear,
)
from models.nn.parts import RealRows, linear_of_parts, picked

PathState = Literal["end", "final"]
"""How a Bi-GRU becomes the vector of a triplet or sentence. ``end``: both directions at ``<end>``,
as released, so that the backward half is the same for all. ``final``: the final state of each."""


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

    def __init__(
        self, inputs: int, outputs: int, act: Activation = "tanh", *, relations: bool = True
    ) -> None:
        super().__init__()
        self.act: Activation = act
        self.g_o = xavier_linear(inputs, outputs)
        self.g_r = xavier_linear(3 * inputs, outputs) if relations else None

    def update_objects(self, objects: Tensor) -> Tensor:
        """Return the objects (..., D) of the next layer."""
        return activate(self.g_o(objects), self.act)

    def update_relations(self, objects: Tensor, relations: Tensor, ends: Tensor) -> Tensor:
        """Return the relations (M, D) of the next layer.

        Args:
            objects: (N, d).   relations: (M, d).
            ends: (M, 2) int64, rows of the subject and object of each relation.
        """
        assert self.g_r is not None
        subject, other = (picked(objects, ends[:, end]) for end in (0, 1))
        updated = linear_of_parts(self.g_r, [subject, (relations, None), other])
        return activate(updated, self.act)

    def forward(self, objects: Tensor, relations: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objects (B, K, D) and relations (B, R, D) of the next layer.

        Args:
            objects: (B, K, d).   relations: (B, R, d).
            pairs: (B, R, 2) int64, rows of the subject and object of each relation.
        """
        ends = flat_pairs(pairs, objects.shape[1]).flatten(0, 1)
        updated = self.update_relations(objects.flatten(0, 1), relations.flatten(0, 1), ends)
        return self.update_objects(objects), updated.view(*relations.shape[:2], -1)


def flat_pairs(pairs: Tensor, width: int) -> Tensor:
    """Turn (B, R, 2) rows of an item's ``width`` objects into rows of all B * width objects."""
    first = torch.arange(len(pairs), device=pairs.device) * width
    return pairs + first.view(-1, 1, 1)


class VisualRows:
    """The real objects and relations of a batch of images, one row each.

    An object that a relation names is kept even if its mask pads it.

    Args:
        images: the batch.   dtype: of the features (stored ones are float16).
    """

    def __init__(self, images: ImageBatch, dtype: torch.dtype) -> None:
        self._images, self._dtype = images, dtype
        self._of_relations = RealRows(images.relation_mask)
        ends = self._of_relations.flatten(flat_pairs(images.relations, images.labels.shape[1]))
        held = images.object_mask.flatten().index_fill(0, ends.flatten(), True)
        self._of_objects = RealRows(held.view_as(images.object_mask))
        self.ends = self._of_objects.place[ends]  # (M, 2), rows of the objects

    @property
    def objects(self) -> tuple[Tensor, Tensor]:
        """Features (N, d1) and labels (N,) of the objects."""
        rows, images = self._of_objects, self._images
        return rows.flatten(images.objects).to(self._dtype), rows.flatten(images.labels)

    @property
    def relations(self) -> tuple[Tensor, Tensor]:
        """Features (M, d1) and predicates (M,) of the relations."""
        rows, images = self._of_relations, self._images
        return rows.flatten(images.unions).to(self._dtype), rows.flatten(images.predicates)

    def pad_objects(self, rows: Tensor) -> Tensor:
        """Return (B, K, D) of (N, D) rows of objects."""
        return self._of_objects.pad(rows)

    def pad_relations(self, rows: Tensor) -> Tensor:
        """Return (B, R, D) of (M, D) rows of relations."""
        return self._of_relations.pad(rows)


class TextGraphEncoder(nn.Module):
    """Bi-GRUs over the words of a caption and over its triplets. CFSGR Eq. (2).

    Args:
        vocab_size: words in the table.   word_dim: width of a word vector.
        embed_dim: width of a node, D.
        context: False encodes each word alone with a Linear (SGM Table 1, OOM w/o TCxt).
        paths: False leaves out the Bi-GRU of the triplets.
        path_state: see ``PathState``.
    """

    def __init__(
        self,
        vocab_size: int,
        word_dim: int,
        embed_dim: int,
        *,
        context: bool = True,
        paths: bool = True,
        path_state: PathState = "end",
    ) -> None:
        super().__init__()
        self.path_state = path_state
        self.embed = uniform_embedding(vocab_size, word_dim)  # W_e
        self.word_gru = BiGru(word_dim, embed_dim) if context else None
        self.word_layer = None if context else xavier_linear(word_dim, embed_dim)
        self.path_gru = BiGru(word_dim, embed_dim) if paths else None

    def encode_words(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Encode the word-order path, the mean of both directions. SGM Eq. (4).

        Returns:
            (C, T, D) words and (C, D) sentences.
        """
        vectors = self.embed(captions.words)  # (C, T, d2)
        if self.word_gru is None:
            assert self.word_layer is not None
            alone: Tensor = self.word_layer(vectors)
            return alone, last_state(alone, captions.lengths)
        return self._run(self.word_gru, vectors, captions.lengths)

    def path_states(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Encode all triplet paths: states (C P, L, D) and their last one (C P, D).

        The last state of a missing triplet is zero.
        """
        assert self.path_gru is not None
        return self._run(self.path_gru, *self._paths(captions))

    def _paths(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        """Return the word vectors of all triplet paths (C P, L, d2) and their lengths (C P,)."""
        spans = captions.triplet_spans.sum(-1).flatten()  # words of each triplet
        lengths = torch.where(spans > 0, spans + 2, 0)  # with <start> and <end>
        return self.embed(captions.triplets.flatten(0, 1)), lengths

    def _run(self, gru: BiGru, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        states, final = gru.run(vectors, lengths)
        return states, final if self.path_state == "final" else last_state(states, lengths)

    def encode_paths(
        self, captions: CaptionBatch, sentence: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the last state of each triplet path and its mask. SGM Eq. (5).

        Args:
            captions: C captions of P triplets.
            sentence: (C, D) from ``encode_words``, to be appended as one more triplet.

        Returns:
            (C, P, D), zeros where there is no triplet, and (C, P) bool; P + 1 with the sentence.
        """
        assert self.path_gru is not None
        vectors, lengths = self._paths(captions)
        if self.path_state == "final":
            last = self.path_gru.run(vectors, lengths)[1]
        else:
            last = self.path_gru.at_end(vectors, lengths)
        paths = last.view(*captions.triplets.shape[:2], -1)
        mask = captions.triplet_mask
        if sentence is not None:
            paths = torch.cat([paths, sentence.unsqueeze(1)], 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return paths, mask
