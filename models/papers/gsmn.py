"""GSMN: Graph Structured Network for Image-Text Matching (Liu et al., CVPR 2020).

Words and regions are nodes of two graphs. Each node is matched with the nodes of the other graph
block by block; the matching vectors then travel along the edges and become the score. The paper's
parts stand in ``gsmn_graphs`` (3.1), ``gsmn_matching`` (3.2.1) and ``gsmn_structure`` (3.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from features.batches.batch import CaptionBatch, ImageBatch
from features.errors import ConfigError
from models.nn.layers import BiGru, embedding, l2norm, linear
from models.nn.losses import negative_mask, triplet_loss
from models.nn.text_encoders import copy_rows
from models.nn.tiling import by_length, tiles
from models.papers.gsmn_graphs import PolarKernels, text_adjacency, text_edges
from models.papers.gsmn_matching import (
    AttentionNorm,
    Nodes,
    match_nodes,
    match_nodes_plainly,
    prepare,
)
from models.papers.gsmn_structure import (
    MatchingHead,
    Propagation,
    RegionConvolution,
    TextKernelNorm,
    WordConvolution,
)
from models.registry import register

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Gsmn", "GsmnCaptions", "GsmnImages", "GsmnOptions"]


@dataclass(frozen=True)
class GsmnOptions:
    """Options of GSMN; the defaults are the published model with a sparse text graph."""

    image_dim: int = 2048
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    word_dim: int = 300
    embed_dim: int = 1024
    bidirectional: bool = True
    """False: GSMN-GRU of Table 3."""
    text_graph: Literal["sparse", "dense"] = "sparse"
    """Dependency edges, or all words connected; the published best averages both models."""
    graph: bool = True
    """False: GSMN-w/o graph of Table 3, the head reads node-level matching vectors."""
    directions: Literal["both", "t2i", "i2t"] = "both"
    """Which scores Eq. (9) adds: ``i2t`` is GSMN-w/o t2i of Table 3, ``t2i`` is w/o i2t."""
    layers: int = 1
    """Graph convolutions in a row; 2: GSMN-2GCN of Table 3."""
    scale: float = 20.0
    """lambda: 20 on Flickr30K, 10 on COCO."""
    blocks: int = 16
    kernels: int = 8
    kernel_dim: int = 4
    """Outputs of one kernel: 4 as released (32 together), 32 as the paper may be read."""
    propagation: Propagation = "paper"
    attention_norm: AttentionNorm = "clipped_l2norm"
    text_kernel_norm: TextKernelNorm = "official"
    activation: Literal["none", "tanh"] = "none"
    """sigma of Eq. (6); the released code has none."""
    region_bias: bool = False
    """b of Eq. (6) in the visual graph; the released code has it in the text graph only."""
    margin: float = 0.2
    hard_negatives: bool = True
    mask_same_image: bool = True


class GsmnImages(NamedTuple):
    """What the score needs of I images."""

    regions: Tensor  # (I, R, d), unit length
    mask: Tensor  # (I, R) bool
    boxes: Tensor  # (I, R, 4)


class GsmnCaptions(NamedTuple):
    """What the score needs of C captions."""

    words: Tensor  # (C, T, d), unit length
    mask: Tensor  # (C, T) bool
    heads: Tensor  # (C, T)


@register("gsmn", GsmnOptions)
class Gsmn(nn.Module):
    """GSMN with options for both readings of every disputed step."""

    reads_unions = False

    def __init__(self, options: GsmnOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or GsmnOptions()
        if o.embed_dim % o.blocks:
            raise ConfigError(
                f"gsmn: embed_dim {o.embed_dim} cannot be cut into blocks = {o.blocks} equal "
                "parts; choose a divisor."
            )
        self.region_layer = linear(o.image_dim, o.embed_dim)
        self.word_table = embedding(o.vocab_size, o.word_dim)
        self.word_rnn = BiGru(o.word_dim, o.embed_dim, bidirectional=o.bidirectional)
        width = o.kernels * o.kernel_dim
        depth = range(o.layers if o.graph else 0)
        into = [o.blocks if layer == 0 else width for layer in depth]
        last = width if o.graph else o.blocks
        if o.directions != "i2t":
            self.word_layers = nn.ModuleList(
                WordConvolution(n, o.kernels, o.kernel_dim, o.propagation, o.text_kernel_norm)
                for n in into
            )
            self.word_head = MatchingHead(last, width)
        if o.directions != "t2i":
            self.polar = nn.ModuleList(PolarKernels(o.kernels) for _ in depth)
            self.region_layers = nn.ModuleList(
                RegionConvolution(n, o.kernels, o.kernel_dim, o.propagation, bias=o.region_bias)
                for n in into
            )
            self.region_head = MatchingHead(last, width)

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start from given word vectors, (vocab_size, word_dim); NaN rows stay random."""
        copy_rows(self.word_table, vectors)

    def encode_images(self, images: ImageBatch) -> GsmnImages:
        """Project regions to unit vectors, GSMN Eq. (11)."""
        regions = l2norm(self.region_layer(images.objects.to(self.region_layer.weight.dtype)))
        mask = images.object_mask
        return GsmnImages(regions.masked_fill(~mask.unsqueeze(-1), 0.0), mask, images.boxes)

    def encode_captions(self, captions: CaptionBatch) -> GsmnCaptions:
        """Read the words with a Bi-GRU and average its directions (GSMN section 3.3)."""
        words = l2norm(self.word_rnn(self.word_table(captions.words), captions.lengths))
        return GsmnCaptions(words, captions.word_mask, captions.heads)

    def score(self, images: GsmnImages, captions: GsmnCaptions) -> Tensor:
        """Score all pairs, tile by tile: (I, C).

        Captions of like length share a tile, and nothing bigger than a tile's similarities is
        ever held, so the numbers stay in the processor's cache.
        """
        order, undo = by_length(captions.mask)
        captions = GsmnCaptions(*(part[order] for part in captions))
        pair_bytes = 4 * self.options.blocks * images.mask.shape[1] * captions.mask.shape[1]
        image_tiles, caption_tiles = tiles(images.mask, captions.mask, pair_bytes, shape=0.7)
        texts = [
            self._prepare_captions(GsmnCaptions(*(part[rows, :longest] for part in captions)))
            for rows, longest in caption_tiles
        ]
        bands = []
        with cached():  # the weights of the heads are normalised once, not for every tile
            for rows in image_tiles:
                regions, edges = self._prepare_images(GsmnImages(*(part[rows] for part in images)))
                bands.append(torch.cat([self._tile(regions, edges, *text) for text in texts]))
        return torch.cat(bands, dim=1)[undo].T

    def _prepare_images(self, images: GsmnImages) -> tuple[Nodes, list[Tensor]]:
        nodes = prepare(images.regions, images.mask, self.options.blocks)
        return nodes, self._region_edges(images)

    def _prepare_captions(self, captions: GsmnCaptions) -> tuple[Nodes, Tensor]:
        nodes = prepare(captions.words, captions.mask, self.options.blocks)
        return nodes, self._text_edges(captions)

    def _region_edges(self, images: GsmnImages) -> list[Tensor]:
        if self.options.directions == "t2i":
            return []
        return [kernels(images.boxes, images.mask) for kernels in self.polar]

    def _text_edges(self, captions: GsmnCaptions) -> Tensor:
        o = self.options
        adjacency = text_adjacency(captions.heads, captions.mask, dense=o.text_graph == "dense")
        return text_edges(captions.words, captions.mask, adjacency, o.scale)

    def _tile(
        self, regions: Nodes, polar: list[Tensor], words: Nodes, dependencies: Tensor
    ) -> Tensor:
        """Score C captions against I images at once: (C, I)."""
        o = self.options
        word_vectors, region_vectors = match_nodes(
            words,
            regions,
            o.scale,
            o.attention_norm,
            for_words=o.directions != "i2t",
            for_regions=o.directions != "t2i",
        )
        return self._match_structures(
            word_vectors, words.mask, dependencies, region_vectors, regions.mask, polar
        )

    def _match_structures(
        self,
        word_vectors: Tensor | None,
        word_mask: Tensor,
        dependencies: Tensor,
        region_vectors: Tensor | None,
        region_mask: Tensor,
        polar: list[Tensor],
    ) -> Tensor:
        """Propagate both sides and add their scores, GSMN Eq. (6)-(9)."""
        scores = []
        if word_vectors is not None:  # (C, T, I, t)
            for word_layer in self.word_layers:
                word_vectors = self._activate(word_layer(word_vectors, dependencies))
            nodes = self.word_head(word_vectors, -1) * word_mask.unsqueeze(-1)
            scores.append(nodes.sum(1) / word_mask.sum(1, keepdim=True).clamp_min(1))
        if region_vectors is not None:  # (I, t, C, R)
            for region_layer, edges in zip(self.region_layers, polar, strict=True):
                region_vectors = self._activate(region_layer(region_vectors, edges))
            nodes = self.region_head(region_vectors, 1) * region_mask.unsqueeze(1)
            means = nodes.sum(-1) / region_mask.sum(-1, keepdim=True).clamp_min(1)
            scores.append(means.T)
        return torch.stack(scores).sum(0)

    def _activate(self, vectors: Tensor) -> Tensor:
        return vectors.tanh() if self.options.activation == "tanh" else vectors

    def plain_score(self, images: GsmnImages, captions: GsmnCaptions) -> Tensor:
        """Score I images against one caption as the equations are written: (I, 1)."""
        o = self.options
        text = GsmnCaptions(*(part[:, : int(captions.mask.sum())] for part in captions))
        words = text.words.expand(len(images.mask), -1, -1)  # (I, T, d)
        word_vectors = region_vectors = None
        if o.directions != "i2t":
            word_vectors = match_nodes_plainly(
                words, images.regions, images.mask, o.scale, o.attention_norm, o.blocks
            ).transpose(0, 1)[None]  # (1, T, I, t)
        if o.directions != "t2i":
            region_vectors = (
                match_nodes_plainly(
                    images.regions, words, text.mask, o.scale, o.attention_norm, o.blocks
                )
                .transpose(1, 2)
                .unsqueeze(2)
            )  # (I, t, 1, R)
        dependencies, polar = self._text_edges(text), self._region_edges(images)
        return self._match_structures(
            word_vectors, text.mask, dependencies, region_vectors, images.mask, polar
        ).T

    def loss(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Return the triplet loss with hard negatives, GSMN Eq. (10)."""
        scores = self.score(self.encode_images(images), self.encode_captions(captions))
        negatives = negative_mask(captions.image_rows, mask_same_image=self.options.mask_same_image)
        return triplet_loss(
            scores,
            negatives,
            margin=self.options.margin,
            hard_negatives=self.options.hard_negatives,
        )
