"""SGM: Cross-modal Scene Graph Matching for Relationship-aware Image-Text Retrieval.

Wang et al., WACV 2020. Images and captions are encoded as scene graphs. The words of a caption are
matched with the objects of an image, its triplets with the relations of the image; the score is
the sum of both levels.

    3.1  visual features, Eq. (1)-(3)     Fusion, nn.graphs.GraphConvolution, VisualGraphEncoder
    3.2  textual features, Eq. (4)-(5)    nn.graphs.TextGraphEncoder
    3.3  similarity, Eq. (6)-(7)          Sgm.score, nn.matching
    3.4  loss, Eq. (8)-(9)                nn.networks.TripletNetwork, nn.losses

Symbols: objects v_o, relations v_r, label vectors e, fused nodes u, graph nodes h.
K objects, R relations, T words, P triplets; d1 = image_dim, d2 = word_dim, D = embed_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from models.nn import (
    Activation,
    GraphConvolution,
    Part,
    PathState,
    TextGraphEncoder,
    TripletNetwork,
    TripletOptions,
    VisualRows,
    activate,
    copy_rows,
    distinct,
    l2norm,
    linear_of_parts,
    mean_of_max,
    mean_of_max_plain,
    uniform_embedding,
    xavier_linear,
    zero_padding,
)
from models.registry import WordRegions, register

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class SgmOptions(TripletOptions):
    """Options of SGM; the defaults are the paper's, or the authors' code where it is silent."""

    gcn_layers: int = 1
    """Layers of the graph convolution, m."""
    share_fusion: bool = False
    """True: one W_u without bias for objects and relations, as in Eq. (1)-(2)."""
    fusion_act: Activation = "tanh"
    gcn_act: Activation = "tanh"
    sentence_relation: bool = True
    """Append the sentence vector to the triplets, so that captions without any have a relation."""
    path_state: PathState = "end"
    """Eq. (5): ``end`` reads both directions at ``<end>``, as released, where the backward half is
    the same for every triplet; ``final`` reads the final state of each direction."""
    variant: Literal[
        "sgm", "oom", "oom_no_context", "oom_visual_relations", "oom_text_relations"
    ] = "sgm"
    """Rows of Table 1. ``oom``: objects only. ``oom_no_context``: each word encoded alone.
    ``oom_visual_relations``, ``oom_text_relations``: the relations of one side join its objects."""
    image_norm: bool = True
    """Scale image nodes to unit length, so that h^T h is a cosine."""
    text_norm: bool = True
    relation_weight: float = 1.0
    """Weight of S^r in the sum."""


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
    paths: Tensor  # (C, P, D), triplets, and the sentence where an option adds it
    path_mask: Tensor  # (C, P) bool


# 3.1 Visual feature embedding


class Fusion(nn.Module):
    """Fuse the region feature of each node with its label. SGM Eq. (1)-(2)."""

    def __init__(
        self,
        image_dim: int,
        word_dim: int,
        *,
        shared: bool,
        act: Activation,
        relations: bool = True,
    ) -> None:
        super().__init__()
        self.act: Activation = act
        width = image_dim + word_dim
        self.objects = xavier_linear(width, image_dim, bias=not shared)
        self.relations = None
        if relations:
            self.relations = self.objects if shared else xavier_linear(width, image_dim)

    def fuse_objects(self, objects: Tensor, labels: Part) -> Tensor:
        """Return u_o (N, d1) of v_o (N, d1) and e_o, a part of width d2."""
        return activate(linear_of_parts(self.objects, [(objects, None), labels]), self.act)

    def fuse_relations(self, unions: Tensor, predicates: Part) -> Tensor:
        """Return u_r (M, d1) of v_r (M, d1) and e_r, a part of width d2."""
        assert self.relations is not None
        return activate(linear_of_parts(self.relations, [(unions, None), predicates]), self.act)


class VisualGraphEncoder(nn.Module):
    """The multi-modal graph convolutional network: label embedding, fusion, graph convolution.

    Args:
        options: of the model.   relations: False leaves out all layers of the relations.
    """

    def __init__(self, options: SgmOptions, *, relations: bool = True) -> None:
        super().__init__()
        d1, d2, D = options.image_dim, options.word_dim, options.embed_dim
        self.label_embed = uniform_embedding(options.n_labels, d2)  # W_o
        self.predicate_embed = None  # W_r
        if relations:
            self.predicate_embed = uniform_embedding(options.n_predicates, d2)
        self.fusion = Fusion(
            d1, d2, shared=options.share_fusion, act=options.fusion_act, relations=relations
        )
        widths = [d1] + [D] * options.gcn_layers
        self.layers = nn.ModuleList(
            GraphConvolution(inputs, outputs, options.gcn_act, relations=relations)
            for inputs, outputs in pairwise(widths)
        )

    def forward(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return h_o (B, K, D) and h_r (B, R, D), zeros where padded.

        Without layers of the relations, R is 0.
        """
        rows = VisualRows(images, self.label_embed.weight.dtype)
        objects, labels = rows.objects
        h_o = self.fusion.fuse_objects(objects, distinct(self.label_embed, labels))
        layers = [layer for layer in self.layers if isinstance(layer, GraphConvolution)]
        if self.predicate_embed is None:
            for layer in layers:
                h_o = layer.update_objects(h_o)
            padded = rows.pad_objects(h_o)
            return padded, padded[:, :0]
        unions, predicates = rows.relations
        h_r = self.fusion.fuse_relations(unions, distinct(self.predicate_embed, predicates))
        for layer in layers:
            h_o, h_r = layer.update_objects(h_o), layer.update_relations(h_o, h_r, rows.ends)
        return rows.pad_objects(h_o), rows.pad_relations(h_r)


# 3.2 Textual feature embedding: nn.graphs.TextGraphEncoder


@register("sgm", SgmOptions)
class Sgm(TripletNetwork[SgmOptions]):
    """Scene graph matching."""

    def __init__(self, options: SgmOptions) -> None:
        super().__init__(options)
        o = options
        self.reads_unions = o.variant in ("sgm", "oom_visual_relations")
        self.visual = VisualGraphEncoder(o, relations=self.reads_unions)
        self.text = TextGraphEncoder(
            o.vocab_size,
            o.word_dim,
            o.embed_dim,
            context=o.variant != "oom_no_context",
            paths=o.variant in ("sgm", "oom_text_relations"),
            path_state=o.path_state,
        )
        self.word_tables = (self.text.embed,)

    def init_labels(self, labels: npt.ArrayLike, predicates: npt.ArrayLike) -> None:
        """Start both label embeddings from vectors, (n_labels | n_predicates, word_dim)."""
        copy_rows(self.visual.label_embed, labels)
        if self.visual.predicate_embed is not None:
            copy_rows(self.visual.predicate_embed, predicates)

    def encode_images(self, images: ImageBatch) -> SgmImages:
        """Return the visual feature graphs."""
        objects, relations = self.visual(images)
        object_mask = images.object_mask
        relation_mask = images.relation_mask[:, : relations.shape[1]]
        if self.options.image_norm:
            objects, relations = l2norm(objects), l2norm(relations)
        if self.options.variant == "oom_visual_relations":
            objects = torch.cat([objects, relations], 1)
            object_mask = torch.cat([object_mask, relation_mask], 1)
        if self.options.variant != "sgm":
            relations, relation_mask = relations[:, :0], relation_mask[:, :0]
        return SgmImages(
            zero_padding(objects, object_mask),
            object_mask,
            zero_padding(relations, relation_mask),
            relation_mask,
        )

    def encode_captions(self, captions: CaptionBatch) -> SgmCaptions:
        """Return the textual feature graphs."""
        o = self.options
        words, sentence = self.text.encode_words(captions)
        word_mask = captions.word_mask
        if o.variant in ("sgm", "oom_text_relations"):
            paths, path_mask = self.text.encode_paths(
                captions, sentence if o.sentence_relation else None
            )
        else:
            paths, path_mask = words[:, :0], word_mask[:, :0]
        if o.text_norm:
            words, paths = l2norm(words), l2norm(paths)
        if o.variant == "oom_text_relations":
            words, word_mask = torch.cat([words, paths], 1), torch.cat([word_mask, path_mask], 1)
            paths, path_mask = paths[:, :0], path_mask[:, :0]
        return SgmCaptions(
            zero_padding(words, word_mask), word_mask, zero_padding(paths, path_mask), path_mask
        )

    # 3.3 Similarity function

    def score(self, images: SgmImages, captions: SgmCaptions) -> Tensor:
        """Add object level and relation level, S = S^o + S^r: (I, C). SGM Eq. (6)-(7)."""
        i, c = images, captions
        s_o = mean_of_max(i.objects, i.object_mask, c.words, c.word_mask)
        s_r = mean_of_max(i.relations, i.relation_mask, c.paths, c.path_mask)
        return s_o + self.options.relation_weight * s_r

    def word_regions(self, images: SgmImages, captions: SgmCaptions) -> WordRegions:
        """Return the similarities of which the score takes each word's best one."""
        similar = captions.words[0] @ images.objects[0].T  # (T, K)
        return WordRegions("words", similar, "similarity")

    def plain_score(self, images: SgmImages, captions: SgmCaptions) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        words = captions.words[0][captions.word_mask[0]]
        paths = captions.paths[0][captions.path_mask[0]]
        s_o = mean_of_max_plain(images.objects, images.object_mask, words)
        s_r = mean_of_max_plain(images.relations, images.relation_mask, paths)
        return (s_o + self.options.relation_weight * s_r).unsqueeze(1)
