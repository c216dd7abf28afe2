"""The coarse and the fine networks of CFSGR: encoders and what each adds up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from features.batches.batch import CaptionBatch, ImageBatch
from models.nn.attention import mean_of_max, mean_of_max_plainly
from models.nn.layers import cosine, embedding, l2norm, last_state, linear
from models.nn.text_encoders import copy_rows
from models.nn.tiling import by_length, tiles
from models.papers.cfsgr_reasoning import (
    AttentionFiltration,
    Comparison,
    ConvAttention,
    GraphReasoning,
    Nodes,
    SelfAttention,
)
from models.papers.sgm import GraphLayer, TextGraphEncoder

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.papers.cfsgr import CfsgrOptions

__all__ = ["CoarseNetwork", "FineNetwork"]


class VisualGraph(nn.Module):
    """Visual nodes: region and label fused, then one graph layer. CFSGR Eq. (1)."""

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__()
        d, w = options.embed_dim, options.word_dim
        self.boxes = linear(options.image_dim, d)  # W_ob
        self.unions = linear(options.image_dim, d)  # W_ru
        self.labels = embedding(options.n_labels, w)  # W_ol
        self.predicates = embedding(options.n_predicates, w)  # W_rl
        self.fuse_objects = linear(d + w, d)  # W_IO
        self.fuse_relations = linear(d + w, d)  # W_IR
        self.layer = GraphLayer(d, d, "tanh")

    def forward(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Update objects by themselves, predicates by their triplet. CFSGR Eq. (3).

        Returns:
            emb(o)' (B, K, D) and emb(r)' (B, R, D), unit length, zeros where padded.
        """
        kind = self.boxes.weight.dtype
        o = torch.cat([self.boxes(images.objects.to(kind)), self.labels(images.labels)], -1)
        r = torch.cat([self.unions(images.unions.to(kind)), self.predicates(images.predicates)], -1)
        o, r = self.layer(self.fuse_objects(o), self.fuse_relations(r), images.relations)
        o = l2norm(o).masked_fill(~images.object_mask.unsqueeze(-1), 0.0)
        return o, l2norm(r).masked_fill(~images.relation_mask.unsqueeze(-1), 0.0)


class _Network(nn.Module):
    """What the networks share: a visual graph, a text encoder, tiled scoring of nodes.

    The text encoder is SGM's.
    """

    code_size: int

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__()
        self.options = options
        self.visual = VisualGraph(options)
        self.text = TextGraphEncoder(options.vocab_size, options.word_dim, options.embed_dim)
        self.compare = Comparison(
            options.embed_dim, options.sim_dim, options.attention_scale, square=options.square
        )

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start the word embedding from given vectors."""
        copy_rows(self.text.embed, vectors)

    def init_labels(self, labels: npt.ArrayLike, predicates: npt.ArrayLike) -> None:
        """Start the label embeddings from given vectors."""
        copy_rows(self.visual.labels, labels)
        copy_rows(self.visual.predicates, predicates)

    def _reason(
        self, images: Nodes, texts: Nodes, read: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Compare all pairs tile by tile and read each off its similarity vectors: (I, C).

        Training takes one tile, so that batch statistics do not depend on a tile's size.
        """
        if self.training:
            return read(*self.compare(images, texts))
        order, undo = by_length(texts.mask)
        texts = Nodes(*(part[order] for part in texts))
        pair_bytes = 4 * self.options.embed_dim * max(1, texts.mask.shape[1])
        image_tiles, text_tiles = tiles(images.mask, texts.mask, pair_bytes)
        bands = []
        for cut in image_tiles:
            some, band = Nodes(*(part[cut] for part in images)), []
            gram = some.local @ some.local.transpose(1, 2)
            for rows, n in text_tiles:
                text = Nodes(texts.local[rows, :n], texts.mask[rows, :n], texts.whole[rows])
                band.append(read(*self.compare(some, text, gram)))
            bands.append(torch.cat(band, 1))
        return torch.cat(bands)[:, undo]


def _compact(vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move real rows to the front, order kept."""
    order = (~mask).int().argsort(dim=1, stable=True)
    return vectors.gather(1, order.unsqueeze(-1).expand_as(vectors)), mask.gather(1, order)


class CoarseNetwork(_Network):
    """Whole graphs: local matches as in SGM and comprehensive reasoning."""

    code_size = 5

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__(options)
        self.visual_pool = SelfAttention(options.embed_dim)
        self.text_pool = SelfAttention(options.embed_dim)
        self.reasoning = GraphReasoning(options.sim_dim, options.steps, options.graph_head)

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, ...]:
        """Return objects, mask, predicates, mask and the global feature."""
        o, r = self.visual(images)
        nodes, mask = torch.cat([o, r], 1), torch.cat([images.object_mask, images.relation_mask], 1)
        whole = l2norm(self.visual_pool(nodes, mask))
        return o, images.object_mask, r, images.relation_mask, whole

    def encode_captions(self, captions: CaptionBatch) -> tuple[Tensor, ...]:
        """Return words, mask, triplets, mask and the global feature."""
        words, paths = self.text.encode_words(captions), self.text.encode_paths(captions)
        path_mask = captions.triplet_mask
        if self.options.sentence_relation:
            paths = torch.cat([paths, last_state(words, captions.lengths).unsqueeze(1)], 1)
            path_mask = torch.cat([path_mask, path_mask.new_ones(len(path_mask), 1)], 1)
        words = l2norm(words).masked_fill(~captions.word_mask.unsqueeze(-1), 0.0)
        paths = l2norm(paths).masked_fill(~path_mask.unsqueeze(-1), 0.0)
        nodes, mask = torch.cat([words, paths], 1), torch.cat([captions.word_mask, path_mask], 1)
        whole = l2norm(self.text_pool(nodes, mask))
        return words, captions.word_mask, paths, path_mask, whole

    def local_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Best object of each word, best predicate of each triplet, averaged. CFSGR Eq. (4)-(5)."""
        objects = mean_of_max(*images[:2], *captions[:2])
        return objects + mean_of_max(*images[2:4], *captions[2:4])

    def score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Local plus comprehensive similarity, (n_images, n_captions). CFSGR Eq. (9)."""
        graphs = self._reason(_joined(images), _joined(captions), self.reasoning)
        return self.local_score(images, captions) + graphs

    def plain_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, 1), pair by pair."""
        words, triplets = (captions[k][0][captions[k + 1][0]] for k in (0, 2))
        local = mean_of_max_plainly(images[0], images[1], words)
        local = local + mean_of_max_plainly(images[2], images[3], triplets)
        nodes = torch.cat([words, triplets]).unsqueeze(0)
        text = Nodes(nodes, nodes.new_ones(nodes.shape[:2], dtype=torch.bool), captions[4])
        r = self.compare.plain(_joined(images, compact=False), text)
        return (local + self.reasoning.plain(r)).unsqueeze(1)


def _joined(code: tuple[Tensor, ...], *, compact: bool = True) -> Nodes:
    """Return both kinds of nodes of a coarse code as one set."""
    nodes, mask = torch.cat([code[0], code[2]], 1), torch.cat([code[1], code[3]], 1)
    if compact:
        nodes, mask = _compact(nodes, mask)
    return Nodes(nodes, mask, code[4])


class FineNetwork(_Network):
    """Objects or predicates: global similarity and detailed reasoning.

    Args:
        options: of the model.
        kind: ``fine_object`` or ``fine_predicate``.
    """

    code_size = 3

    def __init__(self, options: CfsgrOptions, kind: str) -> None:
        super().__init__(options)
        self.kind = kind
        self.text_layer = GraphLayer(options.embed_dim, options.embed_dim, "tanh")
        pools: Any = [
            SelfAttention(options.embed_dim)
            if kind == "fine_object"
            else ConvAttention(options.embed_dim, options.conv_ratio, options.conv_kernel)
            for _ in range(2)
        ]
        self.visual_pool, self.text_pool = pools
        self.filtration = AttentionFiltration(options.sim_dim)

    def encode_images(self, images: ImageBatch) -> Nodes:
        """Return the objects or predicates and their global vector."""
        o, r = self.visual(images)
        nodes, mask = (
            (o, images.object_mask) if self.kind == "fine_object" else (r, images.relation_mask)
        )
        return Nodes(nodes, mask, l2norm(self.visual_pool(nodes, mask)))

    def text_graph(self, captions: CaptionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Objects and predicates of the triplet paths after a graph layer. CFSGR Eq. (10).

        A node starts as the mean state of its words on the path.

        Returns:
            (C, P', 2, D) subjects and objects, (C, P', D) predicates, (C, P') mask.
        """
        n, P, L = captions.triplets.shape
        spans = captions.triplet_spans
        lengths = torch.where(spans.sum(-1) > 0, spans.sum(-1) + 2, 0).flatten()
        states = self.text.path_gru(self.text.embed(captions.triplets.view(n * P, L)), lengths)
        stops = spans.cumsum(-1).view(n * P, 3, 1) + 1  # behind <start>
        starts = stops - spans.view(n * P, 3, 1)
        place = torch.arange(L, device=states.device)
        member = ((place >= starts) & (place < stops)).to(states.dtype)  # (C P, 3, L)
        nodes = (member @ states) / member.sum(-1, keepdim=True).clamp(min=1.0)
        nodes = nodes.view(n, P, 3, -1)  # subject, predicate, object
        mask = captions.triplet_mask
        if self.options.sentence_relation:
            words = self.text.encode_words(captions)
            sentence = last_state(words, captions.lengths).view(n, 1, 1, -1).expand(-1, -1, 3, -1)
            nodes = torch.cat([nodes, sentence], 1)
            mask = torch.cat([mask, ~mask.any(1, keepdim=True)], 1)
        ends = nodes[:, :, ::2]  # (C, P', 2, D)
        rows = torch.arange(2 * ends.shape[1], device=ends.device).view(1, -1, 2)
        o, r = self.text_layer(ends.flatten(1, 2), nodes[:, :, 1], rows.expand(n, -1, -1))
        return o.view_as(ends), r, mask

    def encode_captions(self, captions: CaptionBatch) -> Nodes:
        """Return the objects or predicates and their global vector."""
        ends, predicates, mask = self.text_graph(captions)
        if self.kind == "fine_object":
            nodes, mask = ends.flatten(1, 2), mask.repeat_interleave(2, 1)
        else:
            nodes = predicates
        nodes = l2norm(nodes).masked_fill(~mask.unsqueeze(-1), 0.0)
        nodes, mask = _compact(nodes, mask)
        return Nodes(nodes, mask, l2norm(self.text_pool(nodes, mask)))

    def global_score(self, images: Tensor, texts: Tensor) -> Tensor:
        """Compare global vectors (I, D) and (C, D): (I, C). CFSGR Eq. (13)-(14)."""
        if self.options.global_similarity == "cosine":
            return images @ texts.T  # both have unit length
        distance = torch.cdist(images, texts, p=1.0)
        return -distance if self.options.global_similarity == "neg_l1" else distance / distance

    def score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Global plus detailed similarity, (n_images, n_captions). CFSGR Eq. (17)."""
        i, c = Nodes(*images), Nodes(*captions)
        return self.global_score(i.whole, c.whole) + self._reason(i, c, self.filtration)

    def plain_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, 1), pair by pair."""
        i, c = Nodes(*images), Nodes(*captions)
        nodes = c.local[0][c.mask[0]].unsqueeze(0)
        text = Nodes(nodes, nodes.new_ones(nodes.shape[:2], dtype=torch.bool), c.whole)
        r = self.compare.plain(i, text)
        detail: Tensor = self.filtration(r, r.new_ones(r.shape[:-1], dtype=torch.bool))
        if self.options.global_similarity == "cosine":
            whole = cosine(i.whole, c.whole)
        else:
            whole = self.global_score(i.whole, c.whole).squeeze(1)
        return (whole + detail).unsqueeze(1)
