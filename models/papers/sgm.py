"""SGM: cross-modal scene graph matching for relationship-aware image-text retrieval (WACV 2020).

Both sides are scene graphs. Objects meet words, relationships meet triplet paths; the score of a
pair is the sum of both levels. The paper's order: visual encoder, textual encoder, similarity.

Where the paper is silent, the default follows the authors' code and an option gives the other
reading: fusion layers of their own for objects and relations (``share_fusion``), the sentence as
one more textual relation, so that captions without triplets have a relation level
(``sentence_relation``), unit vectors on both sides (``image_norm``, ``text_norm``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from features.batches.batch import CaptionBatch, ImageBatch
from models.nn.attention import mean_of_max, mean_of_max_plainly
from models.nn.layers import BiGru, embedding, l2norm, last_state, linear
from models.nn.losses import negative_mask, triplet_loss
from models.nn.text_encoders import copy_rows
from models.registry import register

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Sgm",
    "SgmCaptions",
    "SgmImages",
    "SgmOptions",
    "TextGraphEncoder",
    "VisualGraphEncoder",
]

Activation = Literal["tanh", "relu", "leaky_relu", "none"]
Variant = Literal["sgm", "oom", "oom_no_context", "oom_visual_relations", "oom_text_relations"]


@dataclass(frozen=True)
class SgmOptions:
    """Options of SGM; the defaults are the paper's.

    Attributes:
        image_dim, vocab_size, n_labels, n_predicates, n_tags: what the data says.
        word_dim: width of word and label vectors, d2.
        embed_dim: width of both feature graphs, D.
        gcn_layers: m, layers of the graph convolution.
        share_fusion: one W_u for objects and relations, without bias, as in the formulas.
        fusion_act, gcn_act: what follows the fusion and the graph layers.
        sentence_relation: append the sentence vector to the triplet paths.
        variant: rows of the paper's Table 1. ``oom``: objects only; ``oom_no_context``: words
            encoded one by one; ``oom_visual_relations`` and ``oom_text_relations``: the relation
            features of one side join its objects in a single level.
        image_norm, text_norm: unit vectors, so that h^T h is a cosine.
        relation_weight: weight of S^r in the sum.
        margin, hard_negatives, mask_same_image: see ``models.nn.losses``.
    """

    image_dim: int = 2048
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    word_dim: int = 300
    embed_dim: int = 1024
    gcn_layers: int = 1
    share_fusion: bool = False
    fusion_act: Activation = "tanh"
    gcn_act: Activation = "tanh"
    sentence_relation: bool = True
    variant: Variant = "sgm"
    image_norm: bool = True
    text_norm: bool = True
    relation_weight: float = 1.0
    margin: float = 0.2
    hard_negatives: bool = True
    mask_same_image: bool = True


class SgmImages(NamedTuple):
    """The visual feature graphs of I images."""

    objects: Tensor  # (I, K, D)
    object_mask: Tensor  # (I, K) bool
    relations: Tensor  # (I, R, D)
    relation_mask: Tensor  # (I, R) bool


class SgmCaptions(NamedTuple):
    """The textual feature graphs of C captions."""

    words: Tensor  # (C, T, D)
    word_mask: Tensor  # (C, T) bool
    paths: Tensor  # (C, P, D), triplet paths, and the sentence vector when it is asked for
    path_mask: Tensor  # (C, P) bool


def activate(x: Tensor, name: Activation) -> Tensor:
    """Return the named activation of ``x``."""
    if name == "tanh":
        return x.tanh()
    if name == "relu":
        return x.relu()
    return nn.functional.leaky_relu(x, 0.1) if name == "leaky_relu" else x


class Fusion(nn.Module):
    """Multi-modal fusion of a node's region feature and its label. SGM Eq. (1)-(2)."""

    def __init__(
        self, image_dim: int, word_dim: int, *, shared: bool, act: Activation = "tanh"
    ) -> None:
        super().__init__()
        self.act: Activation = act
        self.objects = linear(image_dim + word_dim, image_dim, bias=not shared)
        self.relations = (
            self.objects if shared else linear(image_dim + word_dim, image_dim, bias=True)
        )

    def forward(
        self, objects: Tensor, labels: Tensor, unions: Tensor, predicates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return u_o (B, K, d1) and u_r (B, R, d1).

        Args:
            objects: v_o (B, K, d1).   labels: e_o (B, K, d2).
            unions: v_r (B, R, d1).   predicates: e_r (B, R, d2).
        """
        u_o = activate(self.objects(torch.cat([objects, labels], -1)), self.act)
        u_r = activate(self.relations(torch.cat([unions, predicates], -1)), self.act)
        return u_o, u_r


class GraphLayer(nn.Module):
    """Update objects from themselves, relations from their triplet. SGM Eq. (3)."""

    def __init__(self, inputs: int, outputs: int, act: Activation = "tanh") -> None:
        super().__init__()
        self.act: Activation = act
        self.g_o = linear(inputs, outputs)
        self.g_r = linear(3 * inputs, outputs)

    def forward(self, objects: Tensor, relations: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return h_o (B, K, D) and h_r (B, R, D) of the next layer.

        Args:
            objects: (B, K, d).   relations: (B, R, d).
            pairs: (B, R, 2) int64, object row of subject and object.
        """
        width = objects.shape[-1]
        s, o = (
            objects.gather(1, pairs[..., end : end + 1].expand(-1, -1, width)) for end in (0, 1)
        )
        triplets = torch.cat([s, relations, o], -1)  # (B, R, 3 d)
        return activate(self.g_o(objects), self.act), activate(self.g_r(triplets), self.act)


class VisualGraphEncoder(nn.Module):
    """MGCN: label embedding, fusion, graph convolution; the visual half of SGM."""

    def __init__(self, options: SgmOptions) -> None:
        super().__init__()
        d1, d2, D = options.image_dim, options.word_dim, options.embed_dim
        self.label_embed = embedding(options.n_labels, d2)  # W_o
        self.predicate_embed = embedding(options.n_predicates, d2)  # W_r
        self.fusion = Fusion(d1, d2, shared=options.share_fusion, act=options.fusion_act)
        widths = [d1] + [D] * options.gcn_layers
        self.layers = nn.ModuleList(GraphLayer(a, b, options.gcn_act) for a, b in pairwise(widths))

    def forward(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return h_o (B, K, D) and h_r (B, R, D); rows of padding hold no meaning."""
        kind = self.label_embed.weight.dtype  # stored features are float16
        h_o, h_r = self.fusion(
            images.objects.to(kind),
            self.label_embed(images.labels),
            images.unions.to(kind),
            self.predicate_embed(images.predicates),
        )
        for layer in self.layers:
            h_o, h_r = layer(h_o, h_r, images.relations)
        return h_o, h_r


class TextGraphEncoder(nn.Module):
    """Word-order path and triplet paths, each with a Bi-GRU of its own. CFSGR Eq. (2)."""

    def __init__(
        self, vocab_size: int, word_dim: int, embed_dim: int, *, context: bool = True
    ) -> None:
        super().__init__()
        self.embed = embedding(vocab_size, word_dim)  # W_e
        self.word_gru = BiGru(word_dim, embed_dim) if context else None
        self.word_layer = None if context else linear(word_dim, embed_dim)
        self.path_gru = BiGru(word_dim, embed_dim)

    def encode_words(self, captions: CaptionBatch) -> Tensor:
        """Word features along the sentence, directions averaged. SGM Eq. (4).

        Returns:
            (C, T, D); without context each word goes through one Linear by itself.
        """
        vectors = self.embed(captions.words)  # (C, T, d2)
        if self.word_gru is None:
            assert self.word_layer is not None
            alone: Tensor = self.word_layer(vectors)
            return alone
        states: Tensor = self.word_gru(vectors, captions.lengths)
        return states

    def encode_paths(self, captions: CaptionBatch) -> Tensor:
        """Relation features: the last state of each triplet path. SGM Eq. (5).

        Returns:
            (C, P, D), zeros where there is no triplet.
        """
        n, P, L = captions.triplets.shape
        spans = captions.triplet_spans.sum(-1).flatten()  # (C P,)
        lengths = torch.where(spans > 0, spans + 2, 0)  # with <start> and <end>
        states = self.path_gru(self.embed(captions.triplets.view(n * P, L)), lengths)
        return last_state(states, lengths).view(n, P, -1)


@register("sgm", SgmOptions)
class Sgm(nn.Module):
    """Scene graph matching."""

    def __init__(self, options: SgmOptions) -> None:
        super().__init__()
        self.options = options
        self.visual = VisualGraphEncoder(options)
        context = options.variant != "oom_no_context"
        self.text = TextGraphEncoder(
            options.vocab_size, options.word_dim, options.embed_dim, context=context
        )

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start the word embedding from given vectors, (vocab_size, word_dim)."""
        copy_rows(self.text.embed, vectors)

    def init_labels(self, labels: npt.ArrayLike, predicates: npt.ArrayLike) -> None:
        """Start both label embeddings from given vectors, (n_labels | n_predicates, word_dim)."""
        copy_rows(self.visual.label_embed, labels)
        copy_rows(self.visual.predicate_embed, predicates)

    def encode_images(self, images: ImageBatch) -> SgmImages:
        """Return the visual feature graphs."""
        h_o, h_r = self.visual(images)
        if self.options.image_norm:
            h_o, h_r = l2norm(h_o), l2norm(h_r)
        objects, relations = images.object_mask, images.relation_mask
        if self.options.variant in ("oom", "oom_no_context", "oom_text_relations"):
            h_r, relations = h_r[:, :0], relations[:, :0]
        elif self.options.variant == "oom_visual_relations":
            h_o, objects = torch.cat([h_o, h_r], 1), torch.cat([objects, relations], 1)
            h_r, relations = h_r[:, :0], relations[:, :0]
        h_o = h_o.masked_fill(~objects.unsqueeze(-1), 0.0)
        h_r = h_r.masked_fill(~relations.unsqueeze(-1), 0.0)
        return SgmImages(h_o, objects, h_r, relations)

    def encode_captions(self, captions: CaptionBatch) -> SgmCaptions:
        """Return the textual feature graphs."""
        words, word_mask = self.text.encode_words(captions), captions.word_mask
        if self.options.variant in ("oom", "oom_no_context", "oom_visual_relations"):
            paths, path_mask = words[:, :0], word_mask[:, :0]
        else:
            paths, path_mask = self.text.encode_paths(captions), captions.triplet_mask
            if self.options.sentence_relation:
                sentence = last_state(words, captions.lengths).unsqueeze(1)
                paths = torch.cat([paths, sentence], 1)
                path_mask = torch.cat([path_mask, path_mask.new_ones(len(path_mask), 1)], 1)
        if self.options.text_norm:
            words, paths = l2norm(words), l2norm(paths)
        if self.options.variant == "oom_text_relations":
            words, word_mask = torch.cat([words, paths], 1), torch.cat([word_mask, path_mask], 1)
            paths, path_mask = paths[:, :0], path_mask[:, :0]
        words = words.masked_fill(~word_mask.unsqueeze(-1), 0.0)
        paths = paths.masked_fill(~path_mask.unsqueeze(-1), 0.0)
        return SgmCaptions(words, word_mask, paths, path_mask)

    def score(self, images: SgmImages, captions: SgmCaptions) -> Tensor:
        """Object level plus relation level, S = S^o + S^r. SGM Eq. (6)-(7).

        Returns:
            (n_images, n_captions).
        """
        i, c = images, captions
        s_o = mean_of_max(i.objects, i.object_mask, c.words, c.word_mask)
        s_r = mean_of_max(i.relations, i.relation_mask, c.paths, c.path_mask)
        return s_o + self.options.relation_weight * s_r

    def plain_score(self, images: SgmImages, captions: SgmCaptions) -> Tensor:
        """Return (n_images, 1): the same for one caption, pair by pair."""
        words = captions.words[0][captions.word_mask[0]]
        paths = captions.paths[0][captions.path_mask[0]]
        s_o = mean_of_max_plainly(images.objects, images.object_mask, words)
        s_r = mean_of_max_plainly(images.relations, images.relation_mask, paths)
        return (s_o + self.options.relation_weight * s_r).unsqueeze(1)

    def loss(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Triplet loss of B matching pairs, row by row."""
        o = self.options
        scores = self.score(self.encode_images(images), self.encode_captions(captions))
        negatives = negative_mask(captions.image_rows, mask_same_image=o.mask_same_image)
        return triplet_loss(scores, negatives, margin=o.margin, hard_negatives=o.hard_negatives)
