"""RACG: Relation-Aggregated Cross-Graph Correlation Learning for Fine-Grained Image-Text Retrieval.

Peng et al., IEEE TNNLS, 2022. The regions of an image and the words of a caption form one graph.
Relations within the image, within the caption and across both update every node. Each node is then
reconstructed from the updated nodes, and compared with its reconstruction head by head.
No code was released, so each reading chosen here is an option.

    III-A  modality-specific representation, Eq. (1)-(4)    Racg.image_nodes, Racg.caption_nodes
    III-B  RACG encoder, Eq. (5)-(11)                       RelationMaps, relate, cross_words,
                                                            neighbour_counts, Racg._score_tile
    III-C  node-level correspondence, Eq. (12)-(14)         reconstruct
    III-D  multihead similarity, Eq. (15)-(20)              MultiHead, Racg._compare
    III-E  loss, Eq. (21)-(23)                              racg_loss, Racg.loss
    III-F  re-ranking, Eq. (24)-(27)                        models.evaluation.rerank

Symbols: nodes h, updated nodes c, adjacency A, n = n_o + n_w nodes of a pair.
C captions of T words, I images of R regions, d = embed_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from features.batches import CaptionBatch, ImageBatch
from features.errors import ConfigError
from models.compute import ALONE, Exchange
from models.nn import (
    BertText,
    BiGru,
    EmbeddingOptions,
    Network,
    cosine,
    l2norm,
    masked_mean,
    masked_softmax,
    score_in_tiles,
    text_adjacency,
    triplet_loss,
    uniform_embedding,
    xavier_linear,
    zero_padding,
)
from models.registry import WordRegions, register

CrossNodes = Literal["nouns_attributes", "nouns", "all"]


@dataclass(frozen=True)
class RacgOptions(EmbeddingOptions):
    """Options of RACG; the defaults are the published baseline with a Bi-GRU."""

    text_encoder: Literal["gru", "bert"] = "gru"
    bert: str = "minilm"
    """Folder of a BERT, or the packaged MiniLM; the paper uses BERT-base."""
    position_dim: int = 128
    """Part of embed_dim that encodes the box; 0: Table III without image position."""
    box_area: bool = False
    """Add the area to the four normalised coordinates of a box."""
    tag_dim: int = 15
    """Width of the part-of-speech embedding; 0: Table III without it."""
    bert_tags: bool = False
    """Concatenate the part of speech to the output of BERT before FC_b of Eq. (4), where the paper
    prints BERT alone; False: a model with BERT does not read the part of speech."""
    text_graph: Literal["sparse", "dense"] = "sparse"
    """Dependency edges, or all words connected (Table III, dense graph)."""
    relate_regions: bool = True
    """False: Table III without the image branch."""
    relate_words: bool = True
    """False: Table III without the text branch."""
    relate_across: bool = True
    """False: Table III without cross-graph relations."""
    cross_nodes: CrossNodes = "nouns_attributes"
    """Words that regions are connected to; Fig. 8 compares the three."""
    share_maps: bool = True
    """One kappa and mu for all three graphs, as the text says; False: one pair for each."""
    c_form: Literal["default", "literal", "vsrn"] = "default"
    """Reading of Eq. (11): the residual once inside W2; as printed; outside W2 as in VSRN."""
    unit_nodes: bool = True
    """Normalise h before the graph; the paper does not say."""
    scale: float = 4.0
    """lambda of Eq. (12)-(13)."""
    heads: int = 64
    head_hidden: int = 32
    multi_head: bool = True
    """False: Table III without multi-head similarity; plain cosines instead."""
    alpha: float = 0.2
    """Margin of Eq. (21)."""
    beta: float = 0.7
    """Score of Eq. (22) that matching pairs should exceed."""
    gamma: float = 0.3
    """Score of Eq. (22) that hard negatives should stay below."""
    tau: float = 0.2
    """Weight of the auxiliary loss; 0: Table III without it."""
    hard_negatives: bool = True
    """False: all negatives count in both losses, which helps to start on little data."""


class RacgImages(NamedTuple):
    """The codes of I images."""

    nodes: Tensor  # (I, R, d), h of Eq. (1)
    mask: Tensor  # (I, R) bool
    relations: Tensor  # (I, R, R), A of Eq. (6)
    sent: Tensor  # (I, R, d), W2 W1 h: what a node sends
    own: Tensor  # (I, R, d), what a node keeps of itself


class RacgCaptions(NamedTuple):
    """The codes of C captions."""

    nodes: Tensor  # (C, T, d), h of Eq. (3)-(4)
    mask: Tensor  # (C, T) bool
    relations: Tensor  # (C, T, T), A of Eq. (7)
    neighbours: Tensor  # (C, T, T) bool
    cross: Tensor  # (C, T) bool, words with cross-graph relations
    sent: Tensor  # (C, T, d)
    own: Tensor  # (C, T, d)
    as_tail: Tensor  # (C, T, d), W_kappa^T mu(h): its product with a region's h is kappa . mu
    tail_bias: Tensor  # (C, T), b_kappa . mu(h)
    as_head: Tensor  # (C, T, d), W_mu^T kappa(h)


# III-B RACG encoder


class RelationMaps(nn.Module):
    """Mapping functions of head and tail nodes, kappa and mu. RACG Eq. (5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kappa, self.mu = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.kappa, self.mu):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)


def relate(maps: RelationMaps, heads: Tensor, tails: Tensor, neighbours: Tensor) -> Tensor:
    """Spread the attention of each head over its neighbours. RACG Eq. (6)-(9).

    Eq. (6) relates regions to regions and Eq. (7) words to words. Eq. (8) and Eq. (9) are printed
    alike; they are read as region to words and word to regions.

    Args:
        maps: kappa and mu.   heads: (..., N, d) receiving nodes.   tails: (..., M, d) senders.
        neighbours: (..., N, M) bool.
    Returns: (..., N, M) weights; a row sums to 1, or is 0 without neighbours.
    """
    products = maps.kappa(heads) @ maps.mu(tails).transpose(-1, -2)
    return masked_softmax(products, neighbours)


def cross_words(roles: Tensor, mask: Tensor, nodes: CrossNodes) -> Tensor:
    """Return which words take part in cross-graph relations, (C, T) bool.

    Args:
        roles: (C, T) int64, 1 object, 2 attribute.   mask: (C, T) bool.   nodes: which roles.
    """
    if nodes == "all":
        return mask
    if nodes == "nouns":
        return mask & (roles == 1)
    return mask & ((roles == 1) | (roles == 2))


def both_sides(images: Tensor, captions: Tensor) -> Tensor:
    """Concatenate region rows (I, R, d) and word rows (C, T, d) of all pairs: (C, I, R + T, d)."""
    return torch.cat(
        [
            images[None].expand(len(captions), -1, -1, -1),
            captions[:, None].expand(-1, len(images), -1, -1),
        ],
        dim=2,
    )


def neighbour_counts(
    regions: Tensor, words: Tensor, cross: Tensor, *, within_regions: bool
) -> Tensor:
    """Count the neighbours of every node of every pair, for the literal RACG Eq. (11).

    Args:
        regions: (I, R) bool, real ones.   words: (C, T, T) bool, neighbours among words.
        cross: (C, T) bool, words with relations to all regions.
        within_regions: whether regions are neighbours of each other.
    Returns: (C, I, R + T), regions first.
    """
    n_o, across = regions.sum(1), cross.sum(1, keepdim=True)  # (I,), (C, 1)
    of_regions = (n_o * within_regions + across).unsqueeze(-1)  # (C, I, 1)
    of_words = words.sum(-1)[:, None] + cross[:, None] * n_o[None, :, None]  # (C, I, T)
    return torch.cat([of_regions.expand(-1, -1, regions.shape[1]), of_words], 2)


# III-C Node-level semantic correspondence


def reconstruct(nodes: Tensor, aggregated: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Reconstruct each node from the updated nodes of both modalities. RACG Eq. (12)-(14).

    Args:
        nodes: (B, N, d) nodes h of both modalities.
        aggregated: (B, N, d) updated nodes c, not yet of unit length.
        mask: (B, N) bool.   scale: lambda.
    Returns: (B, N, d).
    """
    length = aggregated.square().sum(-1).clamp_min(1e-24).sqrt() + 1e-8  # (B, N)
    similar = torch.bmm(nodes, aggregated.transpose(1, 2)) * (scale / length).unsqueeze(1)
    weights = masked_softmax(similar, mask.unsqueeze(1)) / length.unsqueeze(1)
    return torch.bmm(weights, aggregated)


# III-D Multihead similarity function


class MultiHead(nn.Module):
    """Cosine of each head and two layers over the cosines. RACG Eq. (15)-(19)."""

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = xavier_linear(heads, hidden), xavier_linear(hidden, 1)

    def forward(self, nodes: Tensor, rebuilt: Tensor) -> Tensor:
        """Compare (B, N, d) nodes with their reconstruction: (B, N) scores."""
        one = nodes.unflatten(-1, (self.heads, -1))
        other = rebuilt.unflatten(-1, (self.heads, -1))
        # squares instead of norms: the gradient of an all-zero head must be finite
        square = one.square().sum(-1) * other.square().sum(-1)
        cosines = (one * other).sum(-1) / square.clamp_min(1e-16).sqrt()  # (B, N, heads)
        scores: Tensor = self.second(self.first(cosines).tanh()).squeeze(-1)
        return scores


# III-E Loss function


def racg_loss(
    scores: Tensor,
    negatives: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
    hard_negatives: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the main and the auxiliary loss of a batch, two sums. RACG Eq. (21)-(22).

    Args:
        scores: (B, B), images by captions, matching pairs on the diagonal.
        negatives: (B, B) bool.
        alpha, beta, gamma: see ``RacgOptions``.
        hard_negatives: count only the hardest negative of each row and column, as printed,
            instead of the sum over all, in both losses.
    """
    main = triplet_loss(scores, negatives, margin=alpha, hard_negatives=hard_negatives)
    above = (scores - gamma).clamp_min(0).masked_fill(~negatives, 0.0)
    wrong = above.amax(1).sum() + above.amax(0).sum() if hard_negatives else 2 * above.sum()
    return main, wrong + (beta - scores.diagonal()).clamp_min(0).sum()


@register("racg", RacgOptions)
class Racg(Network[RacgOptions]):
    """Relation-aggregated cross-graph matching, with an option for each open reading."""

    reads_unions = False

    def __init__(self, options: RacgOptions) -> None:
        super().__init__(options)
        o = options
        self.hard_negatives = o.hard_negatives
        d = o.embed_dim
        if d % o.heads or o.position_dim >= d:
            raise ConfigError(
                f"racg: embed_dim = {d} must be a multiple of heads = {o.heads} and larger than "
                f"position_dim = {o.position_dim}."
            )
        self.object_layer = xavier_linear(o.image_dim, d - o.position_dim)
        corners = 5 if o.box_area else 4
        self.position_layer = xavier_linear(corners, o.position_dim) if o.position_dim else None
        if o.text_encoder == "bert":
            self.text: nn.Module = BertText(o.bert, d)
        else:
            self.word_table = uniform_embedding(o.vocab_size, o.word_dim)
            self.word_tables = (self.word_table,)
        reads_tags = o.tag_dim > 0 and (o.text_encoder == "gru" or o.bert_tags)
        self.tag_table = uniform_embedding(o.n_tags, o.tag_dim) if reads_tags else None
        if o.text_encoder == "bert":
            # a linear layer on [BERT; tag] is the sum of one on BERT and one on the tag
            if reads_tags:
                self.tag_layer = xavier_linear(o.tag_dim, d, bias=False)
        else:
            self.word_rnn = BiGru(o.word_dim + o.tag_dim, d)
        graphs = ("shared",) if o.share_maps else ("regions", "words", "across")
        self.maps = nn.ModuleDict({graph: RelationMaps(d) for graph in graphs})
        self.first = xavier_linear(d, d, bias=False)  # W1 of Eq. (11)
        self.second = xavier_linear(d, d)  # W2 and b
        if o.multi_head:
            self.region_head = MultiHead(o.heads, o.head_hidden)
            self.word_head = MultiHead(o.heads, o.head_hidden)

    # III-A Modality-specific representation

    def image_nodes(self, images: ImageBatch) -> Tensor:
        """Encode regions and their positions: (I, R, d). RACG Eq. (1)."""
        dtype = self.object_layer.weight.dtype
        nodes = self.object_layer(images.objects.to(dtype))
        if self.position_layer is not None:
            position = images.boxes.to(dtype)
            if self.options.box_area:
                side = position[..., 2:] - position[..., :2]
                position = torch.cat([position, side.prod(-1, keepdim=True)], -1)
            nodes = torch.cat([nodes, self.position_layer(position)], -1)
        return self._finish(nodes, images.object_mask)

    def caption_nodes(self, captions: CaptionBatch) -> Tensor:
        """Encode words: (C, T, d). RACG Eq. (2)-(4).

        Eq. (2) concatenates word and part-of-speech vectors, Eq. (3) encodes them with a Bi-GRU;
        Eq. (4) is the BERT that can take their place.
        """
        if self.options.text_encoder == "bert":
            nodes = self.text(captions)
            if self.tag_table is not None:
                nodes = nodes + self.tag_layer(self.tag_table(captions.tags))
        else:
            words = self.word_table(captions.words)
            if self.tag_table is not None:
                words = torch.cat([words, self.tag_table(captions.tags)], -1)
            nodes = self.word_rnn(words, captions.lengths)
        return self._finish(nodes, captions.word_mask)

    def _finish(self, nodes: Tensor, mask: Tensor) -> Tensor:
        return zero_padding(l2norm(nodes) if self.options.unit_nodes else nodes, mask)

    # III-B RACG encoder: W1, W2, kappa and mu are applied to each side alone

    def encode_images(self, images: ImageBatch) -> RacgImages:
        """Compute all that a score needs of images alone."""
        nodes, mask = self.image_nodes(images), images.object_mask
        sent, own = self._send(nodes)
        return RacgImages(nodes, mask, self._relate_regions(nodes, mask), sent, own)

    def encode_captions(self, captions: CaptionBatch) -> RacgCaptions:
        """Compute all that a score needs of captions alone."""
        o = self.options
        nodes, mask = self.caption_nodes(captions), captions.word_mask
        neighbours = text_adjacency(captions.heads, mask, dense=o.text_graph == "dense")
        maps = self._maps("across")
        tails, heads = maps.mu(nodes), maps.kappa(nodes)
        sent, own = self._send(nodes)
        return RacgCaptions(
            nodes,
            mask,
            self._relate_words(nodes, neighbours),
            neighbours,
            cross_words(captions.roles, mask, o.cross_nodes) & o.relate_across,
            sent,
            own,
            tails @ maps.kappa.weight,
            tails @ maps.kappa.bias,
            heads @ maps.mu.weight,
        )

    def _maps(self, graph: str) -> RelationMaps:
        maps = self.maps["shared" if self.options.share_maps else graph]
        assert isinstance(maps, RelationMaps)
        return maps

    def _relate_regions(self, nodes: Tensor, mask: Tensor) -> Tensor:
        both = mask.unsqueeze(2) & mask.unsqueeze(1) & self.options.relate_regions
        return relate(self._maps("regions"), nodes, nodes, both)

    def _relate_words(self, nodes: Tensor, neighbours: Tensor) -> Tensor:
        return relate(self._maps("words"), nodes, nodes, neighbours & self.options.relate_words)

    def _send(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return W2 W1 h and what a node keeps of itself under the chosen ``c_form``."""
        sent = linear(self.first(nodes), self.second.weight)
        if self.options.c_form == "vsrn":
            return sent, nodes + self.second.bias
        if self.options.c_form == "literal":
            return sent, linear(nodes, self.second.weight)
        return sent, self.second(nodes)

    def score(self, images: RacgImages, captions: RacgCaptions) -> Tensor:
        """Score all pairs, tile by tile: (I, C)."""

        def cut_captions(rows: Tensor, longest: int) -> RacgCaptions:
            c = RacgCaptions(*(part[rows, :longest] for part in captions))
            relations, neighbours = c.relations[..., :longest], c.neighbours[..., :longest]
            return c._replace(relations=relations, neighbours=neighbours)

        nodes = images.mask.shape[1] + captions.mask.shape[1]
        return score_in_tiles(
            images.mask,
            captions.mask,
            8 * nodes * self.options.embed_dim,
            cut_images=lambda rows: RacgImages(*(part[rows] for part in images)),
            cut_captions=cut_captions,
            score=self._score_tile,
            recompute=True,
        )

    def _score_tile(self, images: RacgImages, captions: RacgCaptions) -> Tensor:
        """Aggregate the nodes of all pairs and score them: (I, C). RACG Eq. (10)-(11)."""
        o = self.options
        n_i, n_c, r = len(images.mask), len(captions.mask), images.mask.shape[1]
        flat = images.nodes.flatten(0, 1)
        seen = images.mask[None, :, None, :] & captions.cross[:, None, :, None]  # (C, I, T, R)
        to_regions = (captions.as_head.flatten(0, 1) @ flat.T).view(n_c, -1, n_i, r)
        across = masked_softmax(to_regions.transpose(1, 2), seen)  # (C, I, T, R)
        from_regions = (across.transpose(0, 1).flatten(1, 2) @ images.sent).view(
            n_i, n_c, -1, flat.shape[1]
        )
        to_words = (captions.as_tail.flatten(0, 1) @ flat.T).view(n_c, -1, n_i * r)
        to_words = (to_words + captions.tail_bias.unsqueeze(-1)).transpose(1, 2)  # (C, I R, T)
        across = masked_softmax(to_words, seen.transpose(2, 3).flatten(1, 2))
        from_words = (across @ captions.sent).unflatten(1, (n_i, r))  # (C, I, R, d)
        received = torch.cat(
            [
                (images.relations @ images.sent)[None] + from_words,
                (captions.relations @ captions.sent)[:, None] + from_regions.transpose(0, 1),
            ],
            dim=2,
        )  # (C, I, R + T, d)
        n = (images.mask.sum(1) + captions.mask.sum(1, keepdim=True)).clamp_min(1)  # (C, I)
        n = n[..., None, None].to(received.dtype)
        own = both_sides(images.own, captions.own)
        if o.c_form == "literal":
            counts = self._count(images.mask, captions.neighbours, captions.cross)
            aggregated = own * (counts.unsqueeze(-1) / n) + self.second.bias + received / n**2
        else:
            aggregated = own + received / n
        nodes = both_sides(images.nodes, captions.nodes).flatten(0, 1)  # (C I, R + T, d)
        mask = both_sides(images.mask.unsqueeze(-1), captions.mask.unsqueeze(-1))
        mask = mask.squeeze(-1).flatten(0, 1)
        rebuilt = reconstruct(nodes, aggregated.flatten(0, 1), mask, o.scale)
        return self._compare(nodes, rebuilt, mask, r).view(n_c, n_i).T

    def _count(self, regions: Tensor, neighbours: Tensor, cross: Tensor) -> Tensor:
        o = self.options
        within_words = neighbours & o.relate_words
        return neighbour_counts(regions, within_words, cross, within_regions=o.relate_regions)

    # III-D Multihead similarity function

    def _compare(self, nodes: Tensor, rebuilt: Tensor, mask: Tensor, regions: int) -> Tensor:
        """Compare nodes with their reconstruction: (B,) similarities. RACG Eq. (15)-(20).

        Eq. (15)-(19) score each node by its heads. Eq. (20) averages over the nodes of each
        modality, then over both.

        Args:
            nodes: (B, R + T, d).   rebuilt: (B, R + T, d).   mask: (B, R + T) bool.
            regions: R.
        """
        means: list[Tensor] = []
        for side in (slice(regions), slice(regions, None)):
            one, other = nodes[:, side], rebuilt[:, side]
            if self.options.multi_head:
                scores = (self.word_head if means else self.region_head)(one, other)
            else:
                scores = cosine(one, other)
            means.append(masked_mean(scores, mask[:, side], 1))
        return (means[0] + means[1]) / 2

    def word_regions(self, images: RacgImages, captions: RacgCaptions) -> WordRegions:
        """Return the cross-graph relations of one pair: words with none have zeros."""
        products = captions.as_head[0] @ images.nodes[0].T  # (T, R)
        seen = captions.cross[0].unsqueeze(1) & images.mask[0]
        return WordRegions("words", masked_softmax(products, seen), "cross-graph relations")

    def plain_score(self, images: RacgImages, captions: RacgCaptions) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        o = self.options
        n_w, r = int(captions.mask.sum()), images.mask.shape[1]
        words = captions.nodes[:, :n_w].expand(len(images.mask), -1, -1)
        nodes = torch.cat([images.nodes, words], 1)  # (I, N, d)
        mask = torch.cat([images.mask, images.mask.new_ones(words.shape[:2])], 1)
        cross = captions.cross[:, None, :n_w] & images.mask.unsqueeze(2)  # (I, R, T)
        maps = self._maps("across")
        neighbours = captions.neighbours[:, :n_w, :n_w]
        of_regions = [
            self._relate_regions(images.nodes, images.mask),
            relate(maps, images.nodes, words, cross),
        ]
        of_words = [
            relate(maps, words, images.nodes, cross.transpose(1, 2)),
            self._relate_words(words, neighbours.expand(len(words), -1, -1)),
        ]
        n = mask.sum(1)[:, None, None]
        adjacency = torch.cat([torch.cat(of_regions, 2), torch.cat(of_words, 2)], 1) / n  # Eq. (10)
        received = adjacency @ self.first(nodes)
        if o.c_form == "literal":
            counts = self._count(images.mask, neighbours, captions.cross[:, :n_w])[0]
            aggregated = self.second((received + counts.unsqueeze(-1) * nodes) / n)
        elif o.c_form == "vsrn":
            aggregated = self.second(received) + nodes
        else:
            aggregated = self.second(received + nodes)
        c = l2norm(aggregated)
        weights = masked_softmax(o.scale * nodes @ c.transpose(1, 2), mask.unsqueeze(1))
        return self._compare(nodes, weights @ c, mask, r).unsqueeze(1)

    # III-E Loss function

    def loss(
        self, images: ImageBatch, captions: CaptionBatch, exchange: Exchange = ALONE
    ) -> Tensor:
        """Return the main loss and the weighted auxiliary loss of a batch. RACG Eq. (23)."""
        o = self.options
        main, auxiliary = racg_loss(
            exchange.scores(self, images, captions),
            self.negatives(captions, exchange),
            alpha=o.alpha,
            beta=o.beta,
            gamma=o.gamma,
            hard_negatives=self.hard_negatives,
        )
        return main + o.tau * auxiliary
