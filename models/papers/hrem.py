"""HREM: Learning Semantic Relationship among Instances for Image-Text Matching.

Fu et al., CVPR 2023. Two encoders embed images and captions. In training, the embeddings of a
batch also exchange information through a graph whose edges come from matching fragments (regions
and words). At test time they do not, so the score of a whole split is one matrix product.

    3.1    feature extraction                        RegionProjection, nn.text_encoders;
                                                     size augmentation: drop_regions, drop_words
    3.2    fragment-level relations, Eq. (1)-(3)     Attention, RelationLayer, pool
    3.3.1  association graph, Eq. (4)-(11)           RelationBlocks, nearest_neighbours,
                                                     FragmentMatching, embedding_relevance,
                                                     Hrem.relations, Hrem.regularize
    3.3.2  relation mechanisms, Eq. (12)             attention_bias, CrossLayer, Hrem.enhance
    3.4    optimization, Eq. (13)-(14)               pair_loss, Hrem.loss; neighbour batches:
                                                     models.training.neighbours

Symbols: regions r, words c, image embeddings v, caption embeddings u, connection A, relevance S.
I images of R regions, C captions of T words, N pairs of a batch, d = embed_dim.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    batch_norm,
    dropout,
    kl_div,
    leaky_relu,
    linear,
    scaled_dot_product_attention,
)

from features.batches import CaptionBatch, ImageBatch
from models.compute import ALONE, Exchange
from models.nn import (
    BertText,
    EmbeddingOptions,
    GruText,
    Network,
    l2norm,
    masked_mean,
    masked_softmax,
    triplet_loss,
    xavier_linear,
)
from models.registry import register

Distance = Literal["l2", "squared"]


@dataclass(frozen=True)
class HremOptions(EmbeddingOptions):
    """Options of HREM; the defaults are the published Fusion model with a Bi-GRU."""

    text_encoder: Literal["gru", "bert"] = "gru"
    bert: str = "minilm"
    """Folder of a BERT, or the packaged MiniLM; the paper uses BERT-base."""
    image_mlp: bool = True
    """Add the released code's MLP with batch norm to the paper's linear layer."""
    heads: int = 16
    dropout: float = 0.1
    relate_regions: bool = True
    """False: Table 3a without visual fragment-level relations."""
    relate_words: bool = True
    """False: Table 3a without textual fragment-level relations."""
    beta: float = 0.8
    """Share of the maximum in Eq. (2)-(3)."""
    maxk: int = 2
    """The released MaxPool averages the two largest values; 1 is the paper's."""
    mechanism: Literal["fusion", "standalone"] = "fusion"
    relate_instances: Literal["both", "inter", "intra", "none"] = "both"
    """Table 3a: the blocks of the association graph that take part."""
    instance_layers: int = 1
    connection: bool = True
    """False: Table 3b without the connection matrix A."""
    relevance: bool = True
    """False: Table 3b without the relevance matrix S."""
    consistency: bool = True
    """False: Table 3b w/o consistency."""
    without_consistency: Literal["enhanced", "released"] = "enhanced"
    """What is left without consistency: L(v', u') alone, as the bracket of Eq. (14) says, or also
    L(v, u), which the released switch keeps."""
    regularization: float = 10.0
    """Weight of Eq. (11), which the paper does not state; 0: Table 3b without it."""
    tau: float = 0.5
    """Share of the batch that is connected in Eq. (5)-(6)."""
    topk: int = 10
    """Scores that the MLPs of Eq. (8)-(9) read, K."""
    relevance_weight: float = 1.0
    """lambda of Eq. (12): released 1.0 for Flickr30K and 1.5 for COCO; the paper says 1.5."""
    relevance_distance: Distance = "l2"
    """Distance in Eq. (10): the paper squares it, the released code does not."""
    scan_norm: bool = True
    """Normalise fragment products as in stacked cross attention; False: Eq. (7) as printed."""
    official_pad: bool = False
    """Include the pads of short captions and of images in Eq. (7)-(8), as the released code."""
    warm_up: int = 8000
    """Steps before the association graph takes part; the paper does not say."""
    negatives: Literal["distance", "likeliest", "hardest", "all"] = "distance"
    """Negatives of Eq. (13): drawn by distance, the heaviest instead of a draw, the most similar
    one, or all."""
    far: float = 1.7
    """Distance from which negatives are not drawn: 1.7 on Flickr30K, 1.9 on COCO."""
    margin: float = 0.2
    drop_regions: float = 0.2
    drop_words: float = 0.2
    """Shares of regions and words disturbed in training (released size augmentation)."""


class Embeddings(NamedTuple):
    """Unit embeddings of images or captions: all that scoring needs."""

    vectors: Tensor  # (N, d)


class Encoded(NamedTuple):
    """Embeddings with the fragments that training needs."""

    vectors: Tensor  # (N, d), unit length
    fragments: Tensor  # (N, R or T, d)
    mask: Tensor  # (N, R or T) bool


# 3.1 Feature extraction

UNKNOWN_WORD = 3  # <unk> of the vocabulary
MASK_PIECE = 103  # [MASK] of the word pieces of BERT and MiniLM


class RegionProjection(nn.Module):
    """A linear layer on region features, with the released code's MLP beside it."""

    def __init__(self, inputs: int, width: int, *, mlp: bool) -> None:
        super().__init__()
        self.fc = xavier_linear(inputs, width)
        hidden = width // 2
        self.mlp = (
            nn.ModuleList(
                [
                    xavier_linear(inputs, hidden),
                    nn.BatchNorm1d(hidden),
                    xavier_linear(hidden, width),
                ]
            )
            if mlp
            else None
        )

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Project (I, R, D) regions to (I, R, d).

        In training, batch statistics are those of real regions; a batch of one region has none, and
        is normalised as in evaluation.
        """
        projected: Tensor = self.fc(regions)
        if self.mlp is None:
            return projected
        first, norm, second = self.mlp
        hidden = first(regions)
        if self.training:
            real = hidden[mask]
            if len(real) > 1 or isinstance(norm, nn.SyncBatchNorm):  # which all ranks must enter
                real = norm(real)
            else:
                assert isinstance(norm, nn.BatchNorm1d)
                known = norm.running_mean, norm.running_var, norm.weight, norm.bias
                real = batch_norm(real, *known, eps=norm.eps)
            hidden = hidden.masked_scatter(mask.unsqueeze(-1), real)
        else:
            hidden = norm(hidden.flatten(0, 1)).view(hidden.shape)
        deep: Tensor = second(hidden.relu())
        return projected + deep


def drop_regions(mask: Tensor, rate: float) -> Tensor:
    """Hide each real region with probability ``rate``, but never all regions of an image."""
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= rate)
    return torch.where(kept.any(1, keepdim=True), kept, mask)


def drop_words(
    ids: Tensor, mask: Tensor, rate: float, unknown: int, size: int, owner: Tensor | None = None
) -> Tensor:
    """Disturb a share of the words: half are masked, a tenth replaced, the rest deleted.

    All pieces of a word are masked, replaced or deleted together, as in the released code, which
    replaces each of them by a piece of its own.

    Args:
        ids: (C, T) int64 words or word pieces, 0 where padded.
        mask: (C, T) bool; the first and the last word are never disturbed.
        rate: share of words.   unknown: id that masks a word.
        size: replacements are drawn from ids 4 to ``size`` - 1.
        owner: (C, T) int64, the word of each piece, from 0; None: each position is a word.
    Returns: (C, T) int64 with the remaining words moved to the front, then 0.
    """
    position = torch.arange(ids.shape[1], device=ids.device)
    word = position.expand_as(ids) if owner is None else owner.clamp(min=0)
    last = word.masked_fill(~mask, 0).amax(1, keepdim=True)
    inner = mask & (word > 0) & (word < last)
    draws = ids.shape if owner is None else (len(ids), int(word.amax()) + 1)
    chosen = inner & (torch.rand(draws, device=ids.device).gather(1, word) < rate)
    lot = torch.rand(draws, device=ids.device).gather(1, word)
    other = torch.randint_like(ids, min(4, size - 1), size)
    ids = torch.where(chosen & (lot < 0.5), unknown, ids)
    ids = torch.where(chosen & (lot >= 0.5) & (lot < 0.6), other, ids)
    gone = ~mask | (chosen & (lot >= 0.6))
    order = gone.long().argsort(dim=1, stable=True)
    return ids.masked_fill(gone, 0).gather(1, order)


# 3.2 Fragment-level relation modeling


class Attention(nn.Module):
    """Multi-head scaled dot-product attention. HREM Eq. (1)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend from queries to keys: (B, N, d), with the bias of HREM Eq. (12).

        Args:
            queries: (B, N, d).   keys: (B, M, d), also the values.
            bias: broadcasts to (B, 1, N, M); added to the scaled products, see
                ``attention_bias``.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d')
            for x, w, b in zip((queries, keys, keys), weights, biases, strict=True)
        )
        rate = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=rate)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward block, with LayerNorm after each residual."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def drop(self, x: Tensor) -> Tensor:
        """Apply dropout while training."""
        return dropout(x, self.dropout, self.training)

    def attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Relate (B, N, d) nodes to each other."""
        out: Tensor = self.norm1(x + self.drop(self.self_attn(x, x, bias)))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """Transform each of (B, N, d) nodes."""
        hidden = self.drop(self.linear1(x).relu())
        out: Tensor = self.norm2(x + self.drop(self.linear2(hidden)))
        return out


class RelationLayer(TransformerLayer):
    """The relation module of fragments, and of instances under the Fusion mechanism."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Relate (B, N, d) nodes to each other; ``bias`` as in ``Attention``."""
        return self.feed_forward(self.attend(x, bias))


def pool(fragments: Tensor, related: Tensor | None, mask: Tensor, beta: float, maxk: int) -> Tensor:
    """Pool fragments to one embedding: (B, d). HREM Eq. (2)-(3).

    Args:
        fragments: (B, N, d) before relation modelling.
        related: (B, N, d) after it; None without it (ablation), then fragments are averaged.
        mask: (B, N) bool.   beta: share of the maximum.
        maxk: the maximum is the mean of the k largest values, or of all where there are fewer.
    """
    real = mask.unsqueeze(-1)
    average = masked_mean(fragments if related is None else related, real, 1)
    lowest = torch.finfo(fragments.dtype).min
    k = min(maxk, fragments.shape[1])
    largest = fragments.masked_fill(~real, lowest).topk(k, dim=1).values  # (B, k, d)
    count = mask.sum(1, keepdim=True)  # (B, 1)
    taken = torch.arange(k, device=mask.device) < count
    largest = largest.masked_fill(~taken.unsqueeze(-1), 0.0).sum(1) / count.clamp(1, k)
    return beta * largest + (1 - beta) * average


# 3.3.1 Cross-embedding association graph: which instances are connected, and how relevant


class RelationBlocks(NamedTuple):
    """The four N x N blocks of a relation matrix. HREM Eq. (4)."""

    i2i: Tensor
    i2t: Tensor
    t2i: Tensor
    t2t: Tensor

    def joined(self) -> Tensor:
        """Return the (2 N, 2 N) matrix, images first."""
        upper = torch.cat([self.i2i, self.i2t], 1)
        return torch.cat([upper, torch.cat([self.t2i, self.t2t], 1)])


def nearest_neighbours(similar: Tensor, share: float) -> Tensor:
    """Connect each row to its most similar columns: (N, M) bool. HREM Eq. (5)-(6).

    Args:
        similar: (N, M) similarities.
        share: tau, the share of columns that is connected; at least one, ties included.
    """
    k = max(1, int(share * similar.shape[1]))
    return similar >= similar.topk(k, dim=1).values[:, -1:]


class FragmentMatching(nn.Module):
    """Relevance between images and captions, from their best matching fragments.

    Args:
        topk: scores that the MLPs read, K.
        normalised: similarities pass LeakyReLU and an L2 norm over the attending side, as
            released; False: plain products, as printed.
        official_pad: pads of short captions and of images take part, as released.
    """

    def __init__(self, topk: int, *, normalised: bool, official_pad: bool) -> None:
        super().__init__()
        self.topk = topk
        self.normalised = normalised
        self.official_pad = official_pad
        self.i2t = nn.Sequential(nn.Linear(topk, topk), nn.ReLU(), nn.Linear(topk, 1))
        self.t2i = nn.Sequential(nn.Linear(topk, topk), nn.ReLU(), nn.Linear(topk, 1))
        self.t2i.load_state_dict(self.i2t.state_dict())  # both start equal

    def forward(
        self, regions: Tensor, region_mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Match the fragments of all pairs. HREM Eq. (7)-(9).

        Args:
            regions: (I, R, d).   region_mask: (I, R) bool.
            words: (C, T, d).   word_mask: (C, T) bool.

        Returns:
            Matching values p (i2t, then t2i) and relevances s (i2t, then t2i); those of i2t are
            (I, C), those of t2i (C, I). An image without regions and a caption without words have
            the matching value 0.
        """
        regions, words = regions.detach(), words.detach()
        counted = word_mask
        if self.official_pad:
            region_mask = torch.ones_like(region_mask)
            positions = torch.arange(words.shape[1], device=words.device)
            counted = word_mask | (positions < self.topk)
        if self.normalised:
            regions, words = l2norm(regions), l2norm(words)
        products = torch.einsum("ird,ctd->icrt", regions, words)
        pair = region_mask[:, None, :, None] & counted[None, :, None, :]
        over_regions = over_words = products
        if self.normalised:
            products = leaky_relu(products, 0.1).masked_fill(~pair, 0.0)
            over_regions, over_words = l2norm(products, dim=2), l2norm(products, dim=3)
        lowest = torch.finfo(products.dtype).min
        exact = pair & word_mask[None, :, None, :]
        i2t = over_regions.masked_fill(~exact, lowest).amax(3)  # (I, C, R)
        t2i = over_words.masked_fill(~pair, lowest).amax(2)  # (I, C, T)
        no_words, no_regions = ~word_mask.any(1).view(1, -1, 1), ~region_mask.any(1).view(-1, 1, 1)
        i2t = i2t.masked_fill(no_words, 0.0)
        t2i = t2i.masked_fill(no_regions, 0.0).transpose(0, 1)  # (C, I, T)
        real = region_mask[:, None]  # (I, 1, R)
        p_i2t = masked_mean(i2t, real, -1)
        p_t2i = masked_mean(t2i, word_mask[:, None], -1)
        s_i2t = self.i2t(self._largest(i2t, real)).squeeze(-1) + p_i2t
        s_t2i = self.t2i(self._largest(t2i, counted[:, None])).squeeze(-1) + p_t2i
        return p_i2t, p_t2i, s_i2t, s_t2i

    def _largest(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the K largest real scores, descending; zeros where there are fewer."""
        lowest = torch.finfo(scores.dtype).min
        k = min(self.topk, scores.shape[-1])
        best = scores.masked_fill(~mask, lowest).topk(k, dim=-1).values
        best = best.masked_fill(best == lowest, 0.0)
        return nn.functional.pad(best, (0, self.topk - k))


def embedding_relevance(one: Tensor, other: Tensor, distance: Distance) -> Tensor:
    """Return exp(-distance) of all pairs of embeddings: (N, M). HREM Eq. (10).

    sigma is 1. The paper also swaps the letters of the modalities, which must be a misprint.
    """
    square = (one.unsqueeze(1) - other.unsqueeze(0)).square().sum(-1)
    if distance == "l2":
        square = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
    return torch.exp(-square)


def regularization_loss(learned: Tensor, given: Tensor) -> Tensor:
    """Keep learned relevance close to that of the embeddings, one half of HREM Eq. (11).

    Args:
        learned: (N, N) relevance S between the modalities.
        given: (N, N) relevance S^g of the embeddings, used without gradient.
    """
    return kl_div(given.detach().log_softmax(1), learned.softmax(1), reduction="batchmean")


# 3.3.2 Relation interaction mechanisms


def attention_bias(connected: Tensor | None, relevance: Tensor | None, weight: float) -> Tensor:
    """Return lambda * S where connected and the lowest number elsewhere, for ``Attention``.

    Args:
        connected: bool matrix A; None: everything is connected.
        relevance: matrix S; None: 0.   weight: lambda.
    """
    if relevance is None:
        if connected is None:
            return torch.zeros(())
        relevance = torch.zeros_like(connected, dtype=torch.get_default_dtype())
    bias = weight * relevance
    if connected is None:
        return bias
    return bias.masked_fill(~connected, torch.finfo(bias.dtype).min)


class CrossLayer(TransformerLayer):
    """One branch of the Standalone mechanism: other modality, own modality, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, heads, hidden, dropout)
        self.cross_attn = Attention(width, heads, dropout)
        self.norm0 = nn.LayerNorm(width)

    def forward(self, x: Tensor, other: Tensor, inter: Tensor, intra: Tensor, parts: str) -> Tensor:
        """Relate x (B, N, d) to the other modality (B, M, d), then to itself.

        Args:
            x: own modality.   other: the other one.
            inter, intra: biases of the two attentions.
            parts: ``"both"``, ``"inter"`` or ``"intra"``, the attentions that take part.
        """
        if parts != "intra":
            x = self.norm0(x + self.drop(self.cross_attn(x, other, inter)))
        if parts != "inter":
            x = self.attend(x, intra)
        return self.feed_forward(x)


# 3.4 Optimization: negatives sampled by distance (Wu et al., Sampling Matters, ICCV 2017)

CUTOFF = 0.5  # shorter distances count as this one
DIMENSION = 512  # of the sphere; the released code keeps 512 for embeddings of 1024


def distance_weights(scores: Tensor, negatives: Tensor, far: float) -> Tensor:
    """Weigh negatives against the density of distances on a sphere.

    The weights are a softmax over the negatives that are near enough. Positives must not take
    part in its maximum: they are the nearest pairs of a trained model, and the weights of all
    negatives would underflow. (The released code masks positives before the maximum, but not the
    distant negatives, which can make a row underflow in the same way.)

    Args:
        scores: (N, M) cosines.   negatives: (N, M) bool.
        far: negatives from this distance on have no weight.
    Returns: (N, M); a row sums to 1, or to 0 when no negative is near enough.
    """
    distance = (2 - 2 * scores).clamp_min(0).sqrt().clamp_min(CUTOFF)
    inner = (1 - distance.square() / 4).clamp_min(1e-8)
    log_weight = (2.0 - DIMENSION) * distance.log() - (DIMENSION - 3) / 2 * inner.log()
    return masked_softmax(log_weight, negatives & (distance < far))


def sampled_triplet_loss(
    scores: Tensor, positives: Tensor, *, margin: float, far: float, sampled: bool = True
) -> Tensor:
    """Sum the hinge over all positive pairs, each with one negative of its row. HREM Eq. (13).

    Args:
        scores: (N, M) cosines; pass the transpose for the other direction.
        positives: (N, M) bool; all other pairs are negatives.
        margin: alpha.   far: see ``distance_weights``.
        sampled: draw the negative by weight; False: take the heaviest.
    """
    weights = distance_weights(scores.detach(), ~positives, far)
    usable = weights.sum(1) > 0
    anchor, matching = positives.nonzero(as_tuple=True)
    if sampled:  # every positive pair draws its own
        rows = torch.where(usable.unsqueeze(1), weights, 1.0)[anchor]
        chosen = torch.multinomial(rows, 1).squeeze(1)
    else:
        chosen = weights.argmax(1)[anchor]
    hinge = (margin - scores[anchor, matching] + scores[anchor, chosen]).clamp_min(0)
    return (hinge * usable[anchor]).sum()


def pair_loss(
    images: Tensor,
    captions: Tensor,
    positives: Tensor,
    *,
    negatives: str,
    margin: float,
    far: float,
) -> Tensor:
    """Compare two sets of unit embeddings in both directions. HREM Eq. (13).

    Args:
        images: (N, d).   captions: (N, d).   positives: (N, N) bool.
        negatives: see ``HremOptions.negatives``.   margin: alpha.   far: see ``distance_weights``.
    """
    scores = images @ captions.T
    if negatives in ("hardest", "all"):
        hard = negatives == "hardest"
        return triplet_loss(scores, ~positives, margin=margin, hard_negatives=hard)
    drawn = negatives == "distance"
    return sampled_triplet_loss(
        scores, positives, margin=margin, far=far, sampled=drawn
    ) + sampled_triplet_loss(scores.T, positives.T, margin=margin, far=far, sampled=drawn)


@register("hrem", HremOptions)
class Hrem(Network[HremOptions]):
    """HREM with both text encoders and both relation mechanisms.

    Args:
        options: see ``HremOptions``.
        text: replaces the text encoder that the options name.
    """

    reads_unions = False

    def __init__(self, options: HremOptions, text: GruText | BertText | None = None) -> None:
        super().__init__(options)
        o = options
        d = o.embed_dim
        self.step = 0
        self.region_layer = RegionProjection(o.image_dim, d, mlp=o.image_mlp)
        if text is None and o.text_encoder == "bert":
            text = BertText(o.bert, d, xavier=False)
        self.text = text or GruText(o.vocab_size, o.word_dim, d)
        if isinstance(self.text, GruText):
            self.word_tables = (self.text.embed,)
        sizes = d, o.heads, d, o.dropout
        self.region_relation = RelationLayer(*sizes) if o.relate_regions else None
        self.word_relation = RelationLayer(*sizes) if o.relate_words else None
        if o.relate_instances != "none":
            self.matching = FragmentMatching(
                o.topk, normalised=o.scan_norm, official_pad=o.official_pad
            )
            depth = range(o.instance_layers)
            if o.mechanism == "fusion":
                self.fusion = nn.ModuleList(RelationLayer(*sizes) for _ in depth)
            else:
                self.image_branch = nn.ModuleList(CrossLayer(*sizes) for _ in depth)
                self.text_branch = nn.ModuleList(CrossLayer(*sizes) for _ in depth)

    def set_step(self, step: int) -> None:
        """Set the number of the next training step, which ends the warm-up."""
        self.step = step

    # 3.1 and 3.2 Encoders with fragment-level relations

    def encode_image_fragments(self, images: ImageBatch) -> Encoded:
        """Encode regions and pool them. HREM Eq. (2)."""
        o = self.options
        mask = images.object_mask
        if self.training and o.drop_regions:
            mask = drop_regions(mask, o.drop_regions)
        regions = self.region_layer(images.objects.to(self.region_layer.fc.weight.dtype), mask)
        return self._pool(regions, mask, self.region_relation)

    def encode_caption_fragments(self, captions: CaptionBatch) -> Encoded:
        """Encode words or word pieces and pool them. HREM Eq. (3)."""
        words, mask = self._words(captions)
        return self._pool(words, mask, self.word_relation)

    def _words(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        rate = self.options.drop_words if self.training else 0.0
        if isinstance(self.text, GruText):
            words, mask = captions.words, captions.word_mask
            if rate:
                size = self.text.embed.num_embeddings
                words = drop_words(words, mask, rate, UNKNOWN_WORD, size)
                mask = words > 0
            return self.text(words, mask), mask
        if rate and captions.pieces is not None and captions.piece_words is not None:
            real = captions.piece_words >= 0
            size = self.text.bert.config.vocab_size
            pieces = drop_words(captions.pieces, real, rate, MASK_PIECE, size, captions.piece_words)
            left = (pieces > 0).long() - 1  # only the sign of piece_words is read below
            captions = dataclasses.replace(captions, pieces=pieces, piece_words=left)
        return self.text.encode_pieces(captions)

    def _pool(self, fragments: Tensor, mask: Tensor, layer: RelationLayer | None) -> Encoded:
        related = None
        if layer is not None:
            keys = mask | ~mask.any(1, keepdim=True)  # an empty item attends to its pads
            related = layer(fragments, attention_bias(keys[:, None, None], None, 0.0))
        vectors = pool(fragments, related, mask, self.options.beta, self.options.maxk)
        return Encoded(l2norm(vectors), fragments, mask)

    def encode_images(self, images: ImageBatch) -> Embeddings:
        """Return unit embeddings."""
        return Embeddings(self.encode_image_fragments(images).vectors)

    def encode_captions(self, captions: CaptionBatch) -> Embeddings:
        """Return unit embeddings."""
        return Embeddings(self.encode_caption_fragments(captions).vectors)

    def score(self, images: Embeddings, captions: Embeddings) -> Tensor:
        """Return the cosines of all pairs: (I, C)."""
        return images.vectors @ captions.vectors.T

    def plain_score(self, images: Embeddings, captions: Embeddings) -> Tensor:
        """Return the cosines of I images with one caption: (I, 1)."""
        return (images.vectors * captions.vectors).sum(-1, keepdim=True)

    # 3.3 Instance-level relation modeling

    def relations(
        self, images: Encoded, captions: Encoded
    ) -> tuple[RelationBlocks, RelationBlocks]:
        """Return connection A and relevance S of a batch, the matrices of HREM Eq. (4).

        As released, the relevance within a modality has a gradient to the embeddings, and that
        between the modalities only to the MLPs.
        """
        o = self.options
        v, u = images.vectors, captions.vectors
        p_i2t, p_t2i, s_i2t, s_t2i = self.matching(
            images.fragments, images.mask, captions.fragments, captions.mask
        )
        connected = RelationBlocks(
            *(nearest_neighbours(similar, o.tau) for similar in (v @ v.T, p_i2t, p_t2i, u @ u.T))
        )
        return connected, RelationBlocks(
            embedding_relevance(v, v, o.relevance_distance),
            s_i2t,
            s_t2i,
            embedding_relevance(u, u, o.relevance_distance),
        )

    def regularize(self, v: Tensor, u: Tensor, relevance: RelationBlocks) -> Tensor:
        """Tie learned relevance to that of the embeddings in both directions. HREM Eq. (11)."""
        given = embedding_relevance(v, u, self.options.relevance_distance)
        return regularization_loss(relevance.i2t, given) + regularization_loss(
            relevance.t2i, given.T
        )

    def enhance(
        self, v: Tensor, u: Tensor, connected: RelationBlocks, relevance: RelationBlocks
    ) -> tuple[Tensor, Tensor]:
        """Let the embeddings of a batch interact. HREM Eq. (12).

        Args:
            v: (N, d) images.   u: (N, d) captions.   connected: A.   relevance: S.
        Returns: Unit embeddings of the same shapes.
        """
        o = self.options
        parts, weight = o.relate_instances, o.relevance_weight
        if o.mechanism == "standalone":
            i2i, i2t, t2i, t2t = (
                attention_bias(a if o.connection else None, s if o.relevance else None, weight)
                for a, s in zip(connected, relevance, strict=True)
            )
            x, y = v[None], u[None]
            for image, text in zip(self.image_branch, self.text_branch, strict=True):
                x, y = image(x, y, i2t, i2i, parts), text(y, x, t2i, t2t, parts)
            return l2norm(x[0]), l2norm(y[0])
        allowed = connected if o.connection else RelationBlocks(*map(torch.ones_like, connected))
        none = torch.zeros_like(allowed.i2i)
        if parts == "inter":
            allowed = allowed._replace(i2i=none, t2t=none)
        elif parts == "intra":
            allowed = allowed._replace(i2t=none, t2i=none)
        bias = attention_bias(allowed.joined(), relevance.joined() if o.relevance else None, weight)
        nodes = torch.cat([v, u])[None]
        for layer in self.fusion:
            nodes = layer(nodes, bias)
        enhanced_v, enhanced_u = nodes[0].split(len(v))
        return l2norm(enhanced_v), l2norm(enhanced_u)

    # 3.4 Optimization

    def loss(
        self, images: ImageBatch, captions: CaptionBatch, exchange: Exchange = ALONE
    ) -> Tensor:
        """Return the matching losses and the weighted regularisation. HREM Eq. (14)."""
        image_code = exchange.gather(self.encode_image_fragments(images))
        caption_code = exchange.gather(self.encode_caption_fragments(captions))
        return self.batch_loss(image_code, caption_code, ~self.negatives(captions, exchange))

    def batch_loss(self, images: Encoded, captions: Encoded, positives: Tensor) -> Tensor:
        """Return the loss of N encoded pairs; ``positives`` is (N, N) bool."""
        o = self.options

        def compare(v: Tensor, u: Tensor) -> Tensor:
            return pair_loss(v, u, positives, negatives=o.negatives, margin=o.margin, far=o.far)

        v, u = images.vectors, captions.vectors
        if o.relate_instances == "none" or self.step < o.warm_up:
            return compare(v, u)
        connected, relevance = self.relations(images, captions)
        enhanced_v, enhanced_u = self.enhance(v, u, connected, relevance)
        total = compare(enhanced_v, enhanced_u)
        if o.consistency or o.without_consistency == "released":
            total = total + compare(v, u)
        if o.consistency:
            total = total + compare(enhanced_v, u) + compare(v, enhanced_u)
        if o.regularization and o.relevance and o.relate_instances != "intra":
            total = total + o.regularization * self.regularize(v, u, relevance)
        return total
