"""GSMN: Graph Structured Network for Image-Text Matching.

Liu et al., CVPR 2020. The words of a caption and the regions of an image are the nodes of two
graphs. Each node is matched with the nodes of the other graph, block by block; the matching
vectors are then propagated along the edges of their own graph and read as a score.

    3.1    graph construction, Eq. (1)-(2)          nn.graphs.text_adjacency, text_edges,
                                                    PolarKernels
    3.2.1  node-level matching, Eq. (3)-(5)         nn.blockwise.match_nodes, match_nodes_plain
    3.2.2  structure-level matching, Eq. (6)-(9)    WordConvolution, RegionConvolution,
                                                    MatchingHead, Gsmn._match_structures
    3.2.3  objective function, Eq. (10)             nn.networks.TripletNetwork
    3.3    feature representation, Eq. (11)         Gsmn.encode_images, Gsmn.encode_captions

Symbols: words u, regions v, matching vectors x, edge weights W_e. C captions of T words, I images
of R regions, d = embed_dim, t blocks, K kernels of k outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu, linear
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import cached

from features.batches import CaptionBatch, ImageBatch
from features.errors import ConfigError
from models.nn import (
    AttentionNorm,
    BiGru,
    BlockNodes,
    TripletNetwork,
    TripletOptions,
    activate,
    apply_linear,
    attention_logits,
    clipped_l2norm,
    cosine,
    cut_blocks,
    l2norm,
    masked_l2norm,
    masked_mean,
    masked_softmax,
    match_nodes,
    score_in_tiles,
    text_adjacency,
    uniform_embedding,
    xavier_linear,
)
from models.registry import WordRegions, register

Propagation = Literal["paper", "official"]
TextKernelNorm = Literal["official", "none"]


@dataclass(frozen=True)
class GsmnOptions(TripletOptions):
    """Options of GSMN; the defaults are the published model with a sparse text graph."""

    bidirectional: bool = True
    """False: GSMN-GRU of Table 3."""
    text_graph: Literal["sparse", "dense"] = "sparse"
    """Dependency edges, or all words connected; the published best averages both models."""
    graph: bool = True
    """False: GSMN-w/o graph of Table 3; the head reads the node-level matching vectors."""
    directions: Literal["both", "t2i", "i2t"] = "both"
    """The scores that Eq. (9) adds: ``i2t`` is GSMN-w/o t2i of Table 3, ``t2i`` is w/o i2t."""
    layers: int = 1
    """Graph convolutions in a row; 2: GSMN-2GCN of Table 3."""
    scale: float = 20.0
    """lambda: 20 on Flickr30K, 10 on COCO."""
    blocks: int = 16
    kernels: int = 8
    kernel_dim: int = 4
    """Outputs of one kernel: 4 as released (32 in all), 32 as the paper can be read."""
    propagation: Propagation = "paper"
    """``paper``: a node receives its neighbours. ``official``: copies of itself, as released."""
    attention_norm: AttentionNorm = "clipped_l2norm"
    """LeakyReLU and an L2 norm over the queries before the softmax, as released; ``none``: the
    softmax alone, as printed in Eq. (3) and (5)."""
    text_kernel_norm: TextKernelNorm = "official"
    """``official``: the edges of a word sum to 1, so the scale of a kernel cancels. ``none``: each
    kernel has a scale."""
    activation: Literal["none", "tanh"] = "none"
    """sigma of Eq. (6); the released code has none."""
    region_bias: bool = False
    """b of Eq. (6) in the visual graph; the released code has it in the text graph only."""


class GsmnImages(NamedTuple):
    """The codes of I images."""

    regions: Tensor  # (I, R, d), unit length
    mask: Tensor  # (I, R) bool
    boxes: Tensor  # (I, R, 4)


class GsmnCaptions(NamedTuple):
    """The codes of C captions."""

    words: Tensor  # (C, T, d), unit length
    mask: Tensor  # (C, T) bool
    heads: Tensor  # (C, T)


# 3.1 Graph construction


def text_edges(words: Tensor, word_mask: Tensor, adjacency: Tensor, scale: float) -> Tensor:
    """Weigh the edges between words by their similarity. GSMN Eq. (1)-(2).

    Eq. (1) is a softmax over all words of the caption. Eq. (2) keeps the edges of the graph and
    divides each row by its L2 norm.

    Args:
        words: (C, T, d), unit length.   word_mask: (C, T) bool.
        adjacency: (C, T, T) bool.   scale: lambda.
    Returns: (C, T, T); row i weighs the neighbours of word i.
    """
    similar = scale * words @ words.transpose(1, 2)
    lowest = torch.finfo(similar.dtype).min
    weights = similar.masked_fill(~word_mask.unsqueeze(1), lowest).softmax(-1) * adjacency
    return weights / (weights.square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt() + 1e-8)


def polar_coordinates(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance and angle between the centres of all boxes (GSMN section 3.1).

    Args:
        boxes: (I, R, 4) xyxy, divided by width and height.

    Returns:
        ``rho`` and ``theta``, both (I, R, R). Entry (i, j) is the offset from region j to region
        i; its angle is measured from the y axis, in (-pi, pi].
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    offset = centre.unsqueeze(2) - centre.unsqueeze(1)  # (I, R, R, 2)
    return offset.norm(dim=-1), torch.atan2(offset[..., 0], offset[..., 1])


class PolarKernels(nn.Module):
    """Edge weights W_e between regions: a mixture of Gaussians over polar coordinates.

    The paper calls the pair (rho, theta) itself the weight, which Eq. (6) cannot multiply with.
    Like the released code, this is MoNet's mixture: one weight for each kernel.
    """

    def __init__(self, kernels: int) -> None:
        super().__init__()
        self.mean_rho = nn.Parameter(torch.rand(kernels))
        self.mean_theta = nn.Parameter((torch.rand(kernels) * 2 - 1) * math.pi)
        self.precision_rho = nn.Parameter(torch.rand(kernels))
        self.precision_theta = nn.Parameter(torch.rand(kernels))

    def forward(self, boxes: Tensor, region_mask: Tensor) -> Tensor:
        """Return (I, K, R, R): weight of region j (last axis) for region i; kernels sum to 1."""
        rho, theta = (part.unsqueeze(1) for part in polar_coordinates(boxes.to(self.mean_rho)))
        means, widths = (self.mean_rho, self.mean_theta), (self.precision_rho, self.precision_theta)
        edges: Tensor = _Mixture.apply(  # type: ignore[no-untyped-call]
            *(rho, theta, region_mask[:, None, None, :], *means, *widths)
        )
        return edges


class _Mixture(torch.autograd.Function):
    """The weights of ``PolarKernels``, with the gradient of a softmax over the exponents."""

    @staticmethod
    def forward(
        ctx: Any,
        rho: Tensor,
        theta: Tensor,
        mask: Tensor,
        mean_rho: Tensor,
        mean_theta: Tensor,
        precision_rho: Tensor,
        precision_theta: Tensor,
    ) -> Tensor:
        """Weigh pairs of regions, (I, K, R, R)."""
        distance = rho - mean_rho.view(-1, 1, 1)
        turn = _turn(theta - mean_theta.view(-1, 1, 1))
        widths = [
            (-2 * (1e-14 + precision**2)).view(-1, 1, 1)
            for precision in (precision_rho, precision_theta)
        ]
        weights = distance.square_().div_(widths[0]).exp_()
        weights *= turn.square_().div_(widths[1]).exp_()
        total = weights.sum(1, keepdim=True)
        # far from every mean all kernels underflow: such a pair has no edge
        edges = weights.div_(total.where(total > 0, 1.0)).mul_(mask)
        means = mean_rho, mean_theta
        ctx.save_for_backward(rho, theta, edges, *means, precision_rho, precision_theta)
        return edges

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the means and precisions, (K,) each."""
        rho, theta, edges, mean_rho, mean_theta, precision_rho, precision_theta = ctx.saved_tensors
        of_exponent = grad * edges
        of_exponent -= edges * of_exponent.sum(1, keepdim=True)
        gradients = []
        for offset, precision in (
            (rho - mean_rho.view(-1, 1, 1), precision_rho),
            (_turn(theta - mean_theta.view(-1, 1, 1)), precision_theta),
        ):
            variance = 1e-14 + precision**2
            first = of_exponent * offset
            second = (first * offset).sum((0, 2, 3))
            gradients.append((first.sum((0, 2, 3)) / variance, second * precision / variance**2))
        (of_mean_rho, of_precision_rho), (of_mean_theta, of_precision_theta) = gradients
        nothing = (None, None, None)
        return *nothing, of_mean_rho, of_mean_theta, of_precision_rho, of_precision_theta


def _turn(angle: Tensor) -> Tensor:
    """Return the shorter way round, signed; angles are differences of two in (-pi, pi]."""
    return torch.where(angle.abs() <= math.pi, angle, angle - 2 * math.pi * angle.sign())


# 3.2.1 Node-level matching: ``nn.blockwise.match_nodes``, and here by definition


def match_nodes_plain(
    queries: Tensor,
    sources: Tensor,
    source_mask: Tensor,
    scale: float,
    norm: AttentionNorm,
    blocks: int,
) -> Tensor:
    """Compute the matching vectors of one side by definition. GSMN Eq. (3)-(5).

    Eq. (3) and Eq. (5) mix the sources for each query, Eq. (4) compares block by block.

    Args:
        queries: (..., N, d) nodes, zero where padded.
        sources: (..., M, d) nodes of the other graph, zero where padded.
        source_mask: (..., M) bool.   scale: lambda.   blocks: t.
        norm: see ``GsmnOptions.attention_norm``.
    Returns: (..., N, t) cosines between each node and its context.
    """
    similar = queries @ sources.transpose(-1, -2)  # (..., N, M)
    logits = scale * similar if norm == "none" else clipped_l2norm(similar, -2, scale)
    context = masked_softmax(logits, source_mask.unsqueeze(-2)) @ sources
    return cosine(queries.unflatten(-1, (blocks, -1)), context.unflatten(-1, (blocks, -1)))


# 3.2.2 Structure-level matching
#
# Matching vectors of words are (C, T, I, t) here and those of regions (I, t, C, R). The edges of
# words are one matrix for all features, those of regions one for each kernel. In these layouts,
# linear layers and propagation of either side are a few large matrix products without copies.


def _linear_axis_1(vectors: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a (out, in) matrix to the second axis, as ``linear`` does to the last."""
    weight, flat = weight.expand(len(vectors), -1, -1), vectors.flatten(2)
    if bias is None:
        out = torch.bmm(weight, flat)
    else:
        out = torch.baddbmm(bias.view(1, -1, 1), weight, flat)
    return out.view(len(vectors), -1, *vectors.shape[2:])


class WordConvolution(nn.Module):
    """Graph convolution over the words of each caption. GSMN Eq. (6)."""

    def __init__(
        self,
        width: int,
        kernels: int,
        kernel_dim: int,
        propagation: Propagation,
        kernel_norm: TextKernelNorm,
    ) -> None:
        super().__init__()
        self.propagation = propagation
        self.kernel_dim = kernel_dim
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(kernels * kernel_dim, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(kernels * kernel_dim).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.rand(kernels) * 2 - 1) if kernel_norm == "none" else None

    def forward(self, vectors: Tensor, edges: Tensor) -> Tensor:
        """Convolve (C, T, I, t) matching vectors along (C, T, T) edges: (C, T, I, K * k)."""
        if self.scale is None:
            edges = edges / edges.sum(-1, keepdim=True).clamp_min(1e-30)
        if self.propagation == "paper":
            vectors = torch.bmm(edges, vectors.flatten(2)).view_as(vectors)
        else:
            vectors = vectors * edges.sum(-1)[:, :, None, None]
        weight: Tensor = self.weight
        if self.scale is not None:
            weight = weight * self.scale.repeat_interleave(self.kernel_dim).unsqueeze(1)
        return linear(vectors, weight, self.bias)


class RegionConvolution(nn.Module):
    """Graph convolution over the regions of each image. GSMN Eq. (6)."""

    def __init__(
        self, width: int, kernels: int, kernel_dim: int, propagation: Propagation, *, bias: bool
    ) -> None:
        super().__init__()
        self.propagation = propagation
        self.kernels = kernels
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(kernels * kernel_dim, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(kernels * kernel_dim)) if bias else None

    def forward(self, vectors: Tensor, edges: Tensor) -> Tensor:
        """Convolve (I, t, C, R) matching vectors along (I, K, R, R) edges: (I, K * k, C, R)."""
        hidden = _linear_axis_1(vectors, self.weight)
        if self.propagation == "paper":
            rows = hidden.view(len(edges) * self.kernels, -1, edges.shape[-1])  # (I K, k C, R)
            mixed = torch.bmm(rows, edges.flatten(0, 1).transpose(1, 2))
            hidden = mixed.view_as(hidden)
        else:
            own = hidden.unflatten(1, (self.kernels, -1))  # (I, K, k, C, R)
            hidden = (own * edges.sum(-1)[:, :, None, None]).flatten(1, 2)
        shifted: Tensor = hidden if self.bias is None else hidden + self.bias.view(-1, 1, 1)
        return shifted


class MatchingHead(nn.Module):
    """Two weight-normalised layers that score each node, the terms of GSMN Eq. (7)-(8).

    ``Gsmn._match_structures`` takes their mean.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = weight_norm(nn.Linear(width, hidden))
        self.outer = weight_norm(nn.Linear(hidden, 1))

    def forward(self, vectors: Tensor, axis: Literal[1, -1]) -> Tensor:
        """Score matching vectors whose features are on ``axis``: the same shape without it.

        tanh(x) is computed as 2 sigmoid(2 x) - 1: a processor computes sigmoid much faster.
        """
        layer = _linear_axis_1 if axis == 1 else linear
        outer = self.outer.weight
        gates = layer(vectors, 2 * self.inner.weight, 2 * self.inner.bias).sigmoid()
        scores: Tensor = layer(gates, 2 * outer, self.outer.bias - outer.sum(1))
        return scores.squeeze(axis)


@register("gsmn", GsmnOptions)
class Gsmn(TripletNetwork[GsmnOptions]):
    """Graph structured matching, with an option for each disputed step."""

    reads_unions = False

    def __init__(self, options: GsmnOptions) -> None:
        super().__init__(options)
        o = options
        if o.embed_dim % o.blocks:
            raise ConfigError(
                f"gsmn: embed_dim = {o.embed_dim} is not a multiple of blocks = {o.blocks}. "
                "Choose a divisor of embed_dim."
            )
        self.region_layer = xavier_linear(o.image_dim, o.embed_dim)
        self.word_table = uniform_embedding(o.vocab_size, o.word_dim)
        self.word_tables = (self.word_table,)
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

    # 3.3 Feature representation

    def encode_images(self, images: ImageBatch) -> GsmnImages:
        """Project regions to unit vectors. GSMN Eq. (11)."""
        dtype = self.region_layer.weight.dtype
        regions = apply_linear(self.region_layer, images.objects.to(dtype))
        mask = images.object_mask
        return GsmnImages(masked_l2norm(regions, mask), mask, images.boxes)

    def encode_captions(self, captions: CaptionBatch) -> GsmnCaptions:
        """Encode words with a Bi-GRU and average its directions (GSMN section 3.3)."""
        words = l2norm(self.word_rnn(self.word_table(captions.words), captions.lengths))
        return GsmnCaptions(words, captions.word_mask, captions.heads)

    # 3.2 Multimodal graph matching

    def score(self, images: GsmnImages, captions: GsmnCaptions) -> Tensor:
        """Score all pairs, tile by tile: (I, C)."""
        o = self.options

        def cut_images(rows: slice) -> tuple[BlockNodes, list[Tensor]]:
            some = GsmnImages(*(part[rows] for part in images))
            return cut_blocks(some.regions, some.mask, o.blocks), self._region_edges(some)

        def cut_captions(rows: Tensor, longest: int) -> tuple[BlockNodes, Tensor]:
            some = GsmnCaptions(*(part[rows, :longest] for part in captions))
            return cut_blocks(some.words, some.mask, o.blocks), self._word_edges(some)

        with cached():  # normalise the weights of the heads once, not in every tile
            return score_in_tiles(
                images.mask,
                captions.mask,
                4 * o.blocks * images.mask.shape[1] * captions.mask.shape[1],
                cut_images=cut_images,
                cut_captions=cut_captions,
                score=self._score_tile,
                shape=0.7,
            )

    def _score_tile(
        self, images: tuple[BlockNodes, list[Tensor]], captions: tuple[BlockNodes, Tensor]
    ) -> Tensor:
        o = self.options
        (regions, region_edges), (words, word_edges) = images, captions
        word_vectors, region_vectors = match_nodes(
            words,
            regions,
            o.scale,
            o.attention_norm,
            for_words=o.directions != "i2t",
            for_regions=o.directions != "t2i",
        )
        return self._match_structures(
            word_vectors, words.mask, word_edges, region_vectors, regions.mask, region_edges
        )

    def _word_edges(self, captions: GsmnCaptions) -> Tensor:
        o = self.options
        adjacency = text_adjacency(captions.heads, captions.mask, dense=o.text_graph == "dense")
        return text_edges(captions.words, captions.mask, adjacency, o.scale)

    def _region_edges(self, images: GsmnImages) -> list[Tensor]:
        if self.options.directions == "t2i":
            return []
        return [kernels(images.boxes, images.mask) for kernels in self.polar]

    def _match_structures(
        self,
        word_vectors: Tensor | None,
        word_mask: Tensor,
        word_edges: Tensor,
        region_vectors: Tensor | None,
        region_mask: Tensor,
        region_edges: list[Tensor],
    ) -> Tensor:
        """Propagate on both sides and add their scores: (I, C). GSMN Eq. (6)-(9)."""
        o = self.options
        scores = []
        if word_vectors is not None:  # (C, T, I, t)
            for word_layer in self.word_layers:
                word_vectors = activate(word_layer(word_vectors, word_edges), o.activation)
            nodes = self.word_head(word_vectors, -1)  # (C, T, I)
            scores.append(masked_mean(nodes, word_mask.unsqueeze(-1), 1).T)
        if region_vectors is not None:  # (I, t, C, R)
            for region_layer, edges in zip(self.region_layers, region_edges, strict=True):
                region_vectors = activate(region_layer(region_vectors, edges), o.activation)
            nodes = self.region_head(region_vectors, 1)  # (I, C, R)
            scores.append(masked_mean(nodes, region_mask.unsqueeze(1), -1))
        return torch.stack(scores).sum(0)

    def word_regions(self, images: GsmnImages, captions: GsmnCaptions) -> WordRegions:
        """Return the attention of the words of one caption to the regions of one image."""
        similar = (captions.words[0] @ images.regions[0].T)[None, :, None]  # (1, T, 1, R)
        similar = similar * captions.mask[0].view(1, -1, 1, 1)
        squares = None
        if self.options.attention_norm == "clipped_l2norm":
            similar = leaky_relu(similar, 0.1)
            squares = similar.square().sum(1, keepdim=True)
        logits = attention_logits(similar, squares, self.options.scale, images.mask)
        return WordRegions("words", logits.softmax(3)[0, :, 0], "attention")

    def plain_score(self, images: GsmnImages, captions: GsmnCaptions) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        o = self.options
        text = GsmnCaptions(*(part[:, : int(captions.mask.sum())] for part in captions))
        words = text.words.expand(len(images.mask), -1, -1)  # (I, T, d)
        rest = o.scale, o.attention_norm, o.blocks
        word_vectors = region_vectors = None
        if o.directions != "i2t":
            vectors = match_nodes_plain(words, images.regions, images.mask, *rest)  # (I, T, t)
            word_vectors = vectors.transpose(0, 1)[None]  # (1, T, I, t)
        if o.directions != "t2i":
            vectors = match_nodes_plain(images.regions, words, text.mask, *rest)  # (I, R, t)
            region_vectors = vectors.transpose(1, 2).unsqueeze(2)  # (I, t, 1, R)
        return self._match_structures(
            word_vectors,
            text.mask,
            self._word_edges(text),
            region_vectors,
            images.mask,
            self._region_edges(images),
        )
