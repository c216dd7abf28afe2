"""RACG: Relation-Aggregated Cross-Graph Model for image-text retrieval (Peng et al., TNNLS).

Regions and words of a pair form one graph. Relations within the image, within the text and across
update every node; each node is then rebuilt from the updated ones, and how well that works, head
by head, is the score. No code was released: every reading chosen here has its option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as affine
from torch.utils.checkpoint import checkpoint

from features.batches.batch import CaptionBatch, ImageBatch
from features.errors import ConfigError
from models.nn.layers import (
    BiGru,
    cosine,
    embedding,
    l2norm,
    linear,
    masked_mean,
    masked_softmax,
)
from models.nn.losses import negative_mask
from models.nn.text_encoders import BertText, copy_rows
from models.nn.tiling import by_length, tiles
from models.papers.gsmn_graphs import text_adjacency
from models.papers.racg_graphs import (
    CrossNodes,
    RelationMaps,
    both_sides,
    cross_words,
    degrees,
    reconstruct,
    relate,
)
from models.papers.racg_heads import MultiHead, racg_loss
from models.registry import register

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Racg", "RacgCaptions", "RacgImages", "RacgOptions"]


@dataclass(frozen=True)
class RacgOptions:
    """Options of RACG; the defaults are the published baseline with a Bi-GRU."""

    image_dim: int = 2048
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    word_dim: int = 300
    embed_dim: int = 1024
    text_encoder: Literal["gru", "bert"] = "gru"
    bert: str = "minilm"
    """Folder of a BERT, or the packaged MiniLM; the paper has BERT-base."""
    position_dim: int = 128
    """Share of embed_dim that encodes the box; 0: Table III without image position."""
    box_area: bool = False
    """Add the area to the four normalised corners of a box."""
    tag_dim: int = 15
    """Width of the part-of-speech embedding; 0: Table III without it."""
    text_graph: Literal["sparse", "dense"] = "sparse"
    """Dependency edges, or all words connected (Table III, dense graph)."""
    relate_regions: bool = True
    """False: Table III without the image branch."""
    relate_words: bool = True
    """False: Table III without the text branch."""
    relate_across: bool = True
    """False: Table III without cross-graph relations."""
    cross_nodes: CrossNodes = "nouns_attributes"
    share_maps: bool = True
    """One kappa and mu for all three graphs, as the text says; False: one pair for each."""
    c_form: Literal["default", "literal", "vsrn"] = "default"
    """Reading of Eq. (11): residual inside W2 once, as printed, or outside W2 as in VSRN."""
    unit_nodes: bool = True
    """Normalise h before the graph; unstated in the paper."""
    scale: float = 4.0
    """lambda of Eq. (12)-(13)."""
    heads: int = 64
    head_hidden: int = 32
    multi_head: bool = True
    """False: Table III without multi-head similarity, plain cosines instead."""
    alpha: float = 0.2
    beta: float = 0.7
    gamma: float = 0.3
    tau: float = 0.2
    """Weight of the auxiliary loss; 0: Table III without it."""
    hard_negatives: bool = True
    """False: all negatives count in both losses; the way to start on little data."""
    mask_same_image: bool = True


class RacgImages(NamedTuple):
    """What the score needs of I images."""

    nodes: Tensor  # (I, R, d), h of Eq. (1)
    mask: Tensor  # (I, R) bool
    relations: Tensor  # (I, R, R), A of Eq. (6)
    sent: Tensor  # (I, R, d), W2 W1 h: what a node sends
    own: Tensor  # (I, R, d), what it keeps of itself


class RacgCaptions(NamedTuple):
    """What the score needs of C captions."""

    nodes: Tensor  # (C, T, d), h of Eq. (3)-(4)
    mask: Tensor  # (C, T) bool
    relations: Tensor  # (C, T, T), A of Eq. (7)
    neighbours: Tensor  # (C, T, T) bool
    cross: Tensor  # (C, T) bool, words with cross-graph relations
    sent: Tensor  # (C, T, d)
    own: Tensor  # (C, T, d)
    as_tail: Tensor  # (C, T, d), W_kappa^T mu(h): times a region's h it is kappa . mu
    tail_bias: Tensor  # (C, T), b_kappa . mu(h)
    as_head: Tensor  # (C, T, d), W_mu^T kappa(h)


@register("racg", RacgOptions)
class Racg(nn.Module):
    """RACG with options for its ablations and for what the paper leaves open."""

    reads_unions = False

    def __init__(self, options: RacgOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or RacgOptions()
        d = o.embed_dim
        if d % o.heads or o.position_dim >= d:
            raise ConfigError(
                f"racg: embed_dim {d} must be a multiple of heads = {o.heads} and larger than "
                f"position_dim = {o.position_dim}."
            )
        self.object_layer = linear(o.image_dim, d - o.position_dim)
        corners = 5 if o.box_area else 4
        self.position_layer = linear(corners, o.position_dim) if o.position_dim else None
        if o.text_encoder == "bert":
            self.text: nn.Module = BertText(o.bert, d)
        else:
            self.word_table = embedding(o.vocab_size, o.word_dim)
            self.tag_table = embedding(o.n_tags, o.tag_dim) if o.tag_dim else None
            self.word_rnn = BiGru(o.word_dim + o.tag_dim, d)
        kinds = ("shared",) if o.share_maps else ("regions", "words", "across")
        self.maps = nn.ModuleDict({kind: RelationMaps(d) for kind in kinds})
        self.first, self.second = linear(d, d, bias=False), linear(d, d)  # W1; W2 and b of Eq. 11
        if o.multi_head:
            self.region_head = MultiHead(o.heads, o.head_hidden)
            self.word_head = MultiHead(o.heads, o.head_hidden)

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start from given word vectors, (vocab_size, word_dim); NaN rows stay random."""
        if self.options.text_encoder == "gru":
            copy_rows(self.word_table, vectors)

    def _maps(self, kind: str) -> RelationMaps:
        maps = self.maps["shared" if self.options.share_maps else kind]
        if not isinstance(maps, RelationMaps):
            raise TypeError(f"the maps of {kind} are {type(maps).__name__}")
        return maps

    # A: modality-specific representation

    def image_nodes(self, images: ImageBatch) -> Tensor:
        """Encode regions and their positions, RACG Eq. (1): (I, R, d)."""
        o = self.options
        kind = self.object_layer.weight.dtype
        nodes = self.object_layer(images.objects.to(kind))
        if self.position_layer is not None:
            position = images.boxes.to(kind)
            if o.box_area:
                side = position[..., 2:] - position[..., :2]
                position = torch.cat([position, side.prod(-1, keepdim=True)], -1)
            nodes = torch.cat([nodes, self.position_layer(position)], -1)
        return self._finish(nodes, images.object_mask)

    def caption_nodes(self, captions: CaptionBatch) -> Tensor:
        """Encode words, RACG Eq. (2)-(4): (C, T, d).

        Eq. (2) joins word and part-of-speech vectors, Eq. (3) reads them with a Bi-GRU; Eq. (4) is
        the BERT that may stand in their place.
        """
        if self.options.text_encoder == "bert":
            nodes = self.text(captions)
        else:
            words = self.word_table(captions.words)
            if self.tag_table is not None:
                words = torch.cat([words, self.tag_table(captions.tags)], -1)
            nodes = self.word_rnn(words, captions.lengths)
        return self._finish(nodes, captions.word_mask)

    def _finish(self, nodes: Tensor, mask: Tensor) -> Tensor:
        if self.options.unit_nodes:
            nodes = l2norm(nodes)
        return nodes.masked_fill(~mask.unsqueeze(-1), 0.0)

    # B: what each side brings to the integrated graph

    def encode_images(self, images: ImageBatch) -> RacgImages:
        """Encode images as far as no caption is needed."""
        nodes, mask = self.image_nodes(images), images.object_mask
        sent, own = self._send(nodes)
        return RacgImages(nodes, mask, self._relate_regions(nodes, mask), sent, own)

    def encode_captions(self, captions: CaptionBatch) -> RacgCaptions:
        """Encode captions as far as no image is needed."""
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

    def _relate_regions(self, nodes: Tensor, mask: Tensor) -> Tensor:
        both = mask.unsqueeze(2) & mask.unsqueeze(1) & self.options.relate_regions
        return relate(self._maps("regions"), nodes, nodes, both)

    def _relate_words(self, nodes: Tensor, neighbours: Tensor) -> Tensor:
        return relate(self._maps("words"), nodes, nodes, neighbours & self.options.relate_words)

    def _send(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return W2 W1 h and what a node keeps of itself under the chosen ``c_form``."""
        sent = affine(self.first(nodes), self.second.weight)
        if self.options.c_form == "vsrn":
            return sent, nodes + self.second.bias
        if self.options.c_form == "literal":
            return sent, affine(nodes, self.second.weight)
        return sent, self.second(nodes)

    def score(self, images: RacgImages, captions: RacgCaptions) -> Tensor:
        """Score all pairs, tile by tile: (I, C).

        W1, W2, kappa and mu were applied to each side alone, so a pair costs only its attention
        and its reconstruction. While training, tiles are computed again for the gradient instead
        of being kept.
        """
        order, undo = by_length(captions.mask)
        captions = RacgCaptions(*(part[order] for part in captions))
        nodes = images.mask.shape[1] + captions.mask.shape[1]
        image_tiles, caption_tiles = tiles(
            images.mask, captions.mask, 8 * nodes * self.options.embed_dim
        )
        bands = []
        for rows in image_tiles:
            some = RacgImages(*(part[rows] for part in images))
            columns = []
            for some_rows, longest in caption_tiles:
                c = RacgCaptions(*(part[some_rows] for part in captions))
                texts = RacgCaptions(
                    c.nodes[:, :longest],
                    c.mask[:, :longest],
                    c.relations[:, :longest, :longest],
                    c.neighbours[:, :longest, :longest],
                    *(part[:, :longest] for part in c[4:]),
                )
                if torch.is_grad_enabled() and len(image_tiles) * len(caption_tiles) > 1:
                    part = checkpoint(self._tile, some, texts, use_reentrant=False)
                else:
                    part = self._tile(some, texts)
                columns.append(part)
            bands.append(torch.cat(columns))
        return torch.cat(bands, dim=1)[undo].T

    def _tile(self, images: RacgImages, captions: RacgCaptions) -> Tensor:
        """Score C captions against I images at once, RACG Eq. (10)-(11): (C, I)."""
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
            degree = self._count(images.mask, captions.neighbours, captions.cross)
            aggregated = own * (degree.unsqueeze(-1) / n) + self.second.bias + received / n**2
        else:
            aggregated = own + received / n
        nodes = both_sides(images.nodes, captions.nodes)
        mask = both_sides(images.mask.unsqueeze(-1), captions.mask.unsqueeze(-1)).squeeze(-1)
        rebuilt = reconstruct(
            nodes.flatten(0, 1), aggregated.flatten(0, 1), mask.flatten(0, 1), o.scale
        )
        return self._compare(nodes.flatten(0, 1), rebuilt, mask.flatten(0, 1), r).view(n_c, n_i)

    def _count(self, regions: Tensor, neighbours: Tensor, cross: Tensor) -> Tensor:
        o = self.options
        within_words = neighbours & o.relate_words
        return degrees(regions, within_words, cross, within_regions=o.relate_regions)

    def _compare(self, nodes: Tensor, rebuilt: Tensor, mask: Tensor, regions: int) -> Tensor:
        """Compare nodes with their reconstruction, RACG Eq. (15)-(20).

        Eq. (15)-(19) cut both into heads and read the cosines, Eq. (20) averages over the nodes of
        each modality, then over the two.

        Args:
            nodes: (B, R + T, d).   rebuilt: (B, R + T, d).   mask: (B, R + T) bool.
            regions: R.

        Returns:
            (B,) similarities.
        """
        parts: list[Tensor] = []
        for side in (slice(regions), slice(regions, None)):
            one, other = nodes[:, side], rebuilt[:, side]
            if self.options.multi_head:
                head = self.word_head if parts else self.region_head
                scores = head(one, other)
            else:
                scores = cosine(one, other)
            parts.append(masked_mean(scores, mask[:, side], 1))
        return (parts[0] + parts[1]) / 2

    def plain_score(self, images: RacgImages, captions: RacgCaptions) -> Tensor:
        """Score I images against one caption as the equations are written: (I, 1)."""
        o = self.options
        n_w, r = int(captions.mask.sum()), images.mask.shape[1]
        words = captions.nodes[:, :n_w].expand(len(images.mask), -1, -1)
        nodes = torch.cat([images.nodes, words], 1)  # (I, N, d)
        mask = torch.cat([images.mask, images.mask.new_ones(words.shape[:2])], 1)
        cross = captions.cross[:, None, :n_w] & images.mask.unsqueeze(2)  # (I, R, T)
        maps = self._maps("across")
        neighbours = captions.neighbours[:, :n_w, :n_w]
        rows_i = [
            self._relate_regions(images.nodes, images.mask),
            relate(maps, images.nodes, words, cross),
        ]
        rows_t = [
            relate(maps, words, images.nodes, cross.transpose(1, 2)),
            self._relate_words(words, neighbours.expand(len(words), -1, -1)),
        ]
        joined = torch.cat([torch.cat(rows_i, 2), torch.cat(rows_t, 2)], 1)
        n = mask.sum(1)[:, None, None]
        adjacency = joined / n  # Eq. (10)
        received = adjacency @ self.first(nodes)
        if o.c_form == "literal":
            degree = self._count(images.mask, neighbours, captions.cross[:, :n_w])[0]
            inner = (received + degree.unsqueeze(-1) * nodes) / n
            aggregated = self.second(inner)
        elif o.c_form == "vsrn":
            aggregated = self.second(received) + nodes
        else:
            aggregated = self.second(received + nodes)
        c = l2norm(aggregated)
        weights = masked_softmax(o.scale * nodes @ c.transpose(1, 2), mask.unsqueeze(1))
        return self._compare(nodes, weights @ c, mask, r).unsqueeze(1)

    # E: loss

    def loss(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Return main and auxiliary loss of a batch scored against itself, RACG Eq. (23)."""
        o = self.options
        scores = self.score(self.encode_images(images), self.encode_captions(captions))
        negatives = negative_mask(captions.image_rows, mask_same_image=o.mask_same_image)
        main, auxiliary = racg_loss(
            scores,
            negatives,
            alpha=o.alpha,
            beta=o.beta,
            gamma=o.gamma,
            hard_negatives=o.hard_negatives,
        )
        return main + o.tau * auxiliary
