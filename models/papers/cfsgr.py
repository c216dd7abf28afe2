"""CFSGR: Coarse-to-Fine Scene Graph Similarity Reasoning for Image-text Retrieval.

Sun et al. Three networks with encoders of their own compare the scene graphs of an image and a
caption: one whole graphs (coarse), one objects, one predicates (fine). Each is trained with its own
loss, and their similarities are added at test time. They share no parameter, so the sum of their
losses gives each the gradient it has alone. The trainer then clips the norm of all gradients
together (``optim.clip``), which scales them down further than one by one: the published
configurations train the networks one at a time.

    3    node embeddings, Eq. (1)-(2)         VisualGraph, nn.graphs.TextGraphEncoder
    3.1  coarse-grained, Eq. (3)-(9)          VisualGraph.forward, nn.graphs.GraphConvolution,
                                              nn.matching, scan_attention, Comparison,
                                              GraphReasoning, CoarseNetwork
    3.2  fine-grained, Eq. (10)-(17)          FineNetwork.text_graph, SelfAttention, ConvAttention,
                                              AttentionFiltration, FineNetwork
    3.3  loss, Eq. (18)                       Cfsgr.loss

Where the paper is silent, its ancestors SGM, LGSGM and SGRAF are followed; see
``docs/faithfulness.md``. Eq. (19) is the metric rSum (``models.evaluation.metrics``).

Symbols: text nodes t, image nodes v, similarity vectors r of width H = sim_dim. n images of K
nodes, C captions of T nodes, D = embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from models.compute import ALONE, Exchange
from models.nn import (
    GraphConvolution,
    PathState,
    TextGraphEncoder,
    TripletNetwork,
    TripletOptions,
    VisualRows,
    clipped_l2norm,
    copy_rows,
    cosine,
    distinct,
    l2norm,
    linear_of_parts,
    masked_l2norm,
    masked_max,
    masked_mean,
    masked_softmax,
    mean_of_max,
    mean_of_max_plain,
    score_in_tiles,
    uniform_embedding,
    xavier_linear,
)
from models.registry import WordRegions, register

if TYPE_CHECKING:
    import numpy.typing as npt

GraphHead = Literal["sgraf", "literal"]
PoolQuery = Literal["lgsgm", "literal"]

PARTS = {
    "coarse": ("coarse",),
    "fine_object": ("fine_object",),
    "fine_predicate": ("fine_predicate",),
    "without_coarse": ("fine_object", "fine_predicate"),
    "without_fine_object": ("coarse", "fine_predicate"),
    "without_fine_predicate": ("coarse", "fine_object"),
    "full": ("coarse", "fine_object", "fine_predicate"),
}


@dataclass(frozen=True)
class CfsgrOptions(TripletOptions):
    """Options of CFSGR; the defaults are the paper's full model."""

    part: Literal[
        "coarse",
        "fine_object",
        "fine_predicate",
        "without_coarse",
        "without_fine_object",
        "without_fine_predicate",
        "full",
    ] = "full"
    """Networks that are built and added: the rows of Table 2."""
    sim_dim: int = 256
    """Width of a similarity vector, after a projection that SGRAF has and Eq. (7) omits."""
    attention_scale: float = 9.0
    """lambda of the attention that aligns text nodes with image nodes."""
    steps: int = 1
    """Rounds of graph reasoning: 1 in the paper, 3 in SGRAF."""
    graph_head: GraphHead = "sgraf"
    """``sgraf``: S = sigmoid(w ReLU(W r)). ``literal``: S = sigmoid(ReLU(w r)) as printed, which
    is never below 1/2."""
    square: bool = True
    """Squared differences in Eq. (15), as in Eq. (7); False: as printed."""
    global_similarity: Literal["cosine", "neg_l1", "literal"] = "cosine"
    """Eq. (13)-(14): the cosine of the text, the negated L1 distance, or the sum of the printed
    quotient, which is constant."""
    pool_query: PoolQuery = "lgsgm"
    """Eq. (11): ``lgsgm``, the query is ReLU(W mean), as in the layer of LGSGM; ``literal``:
    W ReLU(mean), as printed."""
    path_state: PathState = "end"
    """State of a triplet or sentence in both text encoders, see ``SgmOptions.path_state``."""
    conv_ratio: int = 4
    """Reduction of width in Eq. (12); the paper states no sizes."""
    conv_kernel: int = 1
    sentence_relation: bool = True
    """The sentence vector is one more triplet of the coarse graph, and the only node of a fine
    graph whose caption has no triplet."""
    margin: float = 0.35
    """The paper does not state it."""


class GraphCode(NamedTuple):
    """The graphs of N images or captions, for the coarse network."""

    objects: Tensor  # (N, K, D), objects of images or words of captions
    object_mask: Tensor  # (N, K) bool
    relations: Tensor  # (N, R, D), predicates of images or triplets of captions
    relation_mask: Tensor  # (N, R) bool
    whole: Tensor  # (N, D), unit length


class Nodes(NamedTuple):
    """Nodes of N graphs and one global vector each, for the fine networks and for reasoning."""

    local: Tensor  # (N, K, D), unit length, zeros where padded
    mask: Tensor  # (N, K) bool
    whole: Tensor  # (N, D), unit length


# 3 Node embeddings


class VisualGraph(nn.Module):
    """Fuse each region with its label, then apply one graph layer. CFSGR Eq. (1)."""

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__()
        d, w = options.embed_dim, options.word_dim
        self.boxes = xavier_linear(options.image_dim, d)  # W_ob
        self.unions = xavier_linear(options.image_dim, d)  # W_ru
        self.labels = uniform_embedding(options.n_labels, w)  # W_ol
        self.predicates = uniform_embedding(options.n_predicates, w)  # W_rl
        self.fuse_objects = xavier_linear(d + w, d)  # W_IO
        self.fuse_relations = xavier_linear(d + w, d)  # W_IR
        self.layer = GraphConvolution(d, d, "tanh")

    def forward(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Update objects from themselves and predicates from their triplets. CFSGR Eq. (3).

        Returns:
            emb(o)' (B, K, D) and emb(r)' (B, R, D), unit length, zeros where padded.
        """
        rows = VisualRows(images, self.boxes.weight.dtype)
        objects, labels = rows.objects
        o = linear_of_parts(
            self.fuse_objects, [(self.boxes(objects), None), distinct(self.labels, labels)]
        )
        unions, predicates = rows.relations
        r = linear_of_parts(
            self.fuse_relations,
            [(self.unions(unions), None), distinct(self.predicates, predicates)],
        )
        o, r = self.layer.update_objects(o), self.layer.update_relations(o, r, rows.ends)
        o = masked_l2norm(rows.pad_objects(o), images.object_mask)
        return o, masked_l2norm(rows.pad_relations(r), images.relation_mask)


# 3.1 Coarse-grained graph similarity reasoning


def scan_attention(queries: Tensor, nodes: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Mix the nodes of an image for each query: (n, Q, D), unit length. CFSGR Eq. (6).

    Args:
        queries: (n, Q, D), those of one caption, repeated for every image.
        nodes: (n, K, D).   mask: (n, K) bool.   scale: lambda of the softmax.
    """
    scores = torch.bmm(queries, nodes.transpose(1, 2))  # (n, Q, K)
    weights = masked_softmax(clipped_l2norm(scores, 1, scale), mask.unsqueeze(1))
    return l2norm(torch.bmm(weights, nodes))


class Comparison(nn.Module):
    """Similarity vectors of all text nodes and of the global pair. CFSGR Eq. (7).

    The batched form subtracts the attended mix within the matrix product that computes it, and
    takes the length of the mix from Gram matrices.

    Args:
        width: D.   sim_dim: H.   scale: lambda of the attention that aligns the nodes.
        square: compare by squared differences; False: by differences, as Eq. (15) is printed.
    """

    def __init__(self, width: int, sim_dim: int, scale: float, *, square: bool = True) -> None:
        super().__init__()
        self.scale = scale
        self.square = square
        self.local = xavier_linear(width, sim_dim)
        self.whole = xavier_linear(width, sim_dim)

    def forward(
        self, images: Nodes, texts: Nodes, gram: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare n images with C captions: whole graphs, objects or predicates. CFSGR Eq. (15).

        Args:
            images, texts: the nodes.
            gram: (n, K, K) inner products of each image's nodes, if already computed.
        Returns: (n, C, T + 1, H), the global vector first, and its mask (C, T + 1).
        """
        (n, K), (C, T) = images.mask.shape, texts.mask.shape
        flat = texts.local.reshape(C * T, -1)
        s = (flat @ images.local.reshape(n * K, -1).T).view(C, T, n, K)
        a = masked_softmax(clipped_l2norm(s, 1, self.scale), images.mask.view(1, 1, n, K))
        a = a.view(C * T, n, K).transpose(0, 1)  # (n, C T, K)
        if gram is None:
            gram = images.local @ images.local.transpose(1, 2)
        length = (torch.bmm(a, gram) * a).sum(-1, keepdim=True).clamp(min=1e-16).sqrt()
        # t - sum_k a_k v_k / length: (n, C T, D)
        apart = torch.baddbmm(
            flat.unsqueeze(0).expand(n, -1, -1), a / (length + 1e-8), images.local, alpha=-1
        )
        local = l2norm(self.local(self._power(apart))).view(n, C, T, -1)
        r = torch.cat([self._global(images.whole, texts.whole).unsqueeze(2), local], 2)
        return r, torch.cat([texts.mask.new_ones(C, 1), texts.mask], 1)

    def plain(self, images: Nodes, text: Nodes) -> Tensor:
        """Return (n, Q + 1, H) for one caption without padding, by definition."""
        queries = text.local.repeat(len(images.local), 1, 1)
        apart = queries - scan_attention(queries, images.local, images.mask, self.scale)
        local = l2norm(self.local(self._power(apart)))
        return torch.cat([self._global(images.whole, text.whole), local], 1)

    def attention(self, images: Nodes, texts: Nodes) -> Tensor:
        """Return how the text nodes of one caption attend to the nodes of one image, (T, K)."""
        s = torch.bmm(texts.local[:1], images.local[:1].transpose(1, 2))  # (1, T, K)
        s = s * texts.mask[:1].unsqueeze(2)
        weights = masked_softmax(clipped_l2norm(s, 1, self.scale), images.mask[:1].unsqueeze(1))
        return weights[0]

    def _global(self, images: Tensor, texts: Tensor) -> Tensor:
        apart = texts.unsqueeze(0) - images.unsqueeze(1)  # (n, C, D)
        return l2norm(self.whole(self._power(apart)))

    def _power(self, apart: Tensor) -> Tensor:
        if not self.square:
            return apart
        return apart.square() if torch.is_grad_enabled() else apart.square_()


class GraphReasoning(nn.Module):
    """Exchange information among similarity vectors and read the global one. CFSGR Eq. (8).

    Args:
        sim_dim: H.   steps, head: see ``CfsgrOptions.steps`` and ``CfsgrOptions.graph_head``.
    """

    def __init__(self, sim_dim: int, steps: int, head: GraphHead) -> None:
        super().__init__()
        self.head: GraphHead = head
        self.queries = nn.ModuleList(xavier_linear(sim_dim, sim_dim) for _ in range(steps))
        self.keys = nn.ModuleList(xavier_linear(sim_dim, sim_dim) for _ in range(steps))
        self.updates = nn.ModuleList(
            xavier_linear(sim_dim, sim_dim) for _ in range(steps if head == "sgraf" else 0)
        )
        self.read = xavier_linear(sim_dim, 1)

    def step(self, r: Tensor, mask: Tensor, number: int, *, only_global: bool = False) -> Tensor:
        """Compute one round of exchange.

        Args:
            r: (..., N, H).   mask: (..., N) bool.   number: which round.
            only_global: return the first vector alone, (..., 1, H).
        """
        key = self.keys[number]
        assert isinstance(key, nn.Linear)
        query = self.queries[number](r[..., :1, :] if only_global else r)
        if only_global:
            # q.(W r + b) = (q W).r + q.b, and the softmax ignores q.b: no product per node
            scores = (query @ key.weight) @ r.transpose(-1, -2)
        else:
            scores = query @ key(r).transpose(-1, -2)
        mixed = masked_softmax(scores, mask.unsqueeze(-2)) @ r
        if self.head == "literal":
            return mixed
        out: Tensor = self.updates[number](mixed).relu()
        return out

    def forward(self, r: Tensor, mask: Tensor) -> Tensor:
        """Return similarities (...) of vectors (..., N, H), the global one first.

        Only the global vector goes through the last round, since nothing else is read.
        """
        last = len(self.queries) - 1
        for number in range(last):
            r = self.step(r, mask, number)
        return self._read(self.step(r, mask, last, only_global=True)[..., 0, :])

    def plain(self, r: Tensor) -> Tensor:
        """Return (n,) for (n, N, H) without padding, by definition."""
        every = r.new_ones(r.shape[:-1], dtype=torch.bool)
        for number in range(len(self.queries)):
            r = self.step(r, every, number)
        return self._read(r[:, 0])

    def _read(self, r: Tensor) -> Tensor:
        value = self.read(r).squeeze(-1)
        return torch.sigmoid(value.relu() if self.head == "literal" else value)


# 3.2 Fine-grained object and predicate similarity reasoning


class SelfAttention(nn.Module):
    """Global vector of a set: gate nodes by their fit to the mean, average. CFSGR Eq. (11)."""

    def __init__(self, width: int, query: PoolQuery = "lgsgm") -> None:
        super().__init__()
        self.query: PoolQuery = query
        self.theta = nn.Parameter(torch.empty(width, width))  # W_o
        nn.init.kaiming_uniform_(self.theta)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Return (N, D) for nodes (N, K, D) and mask (N, K); zeros for an empty set."""
        real = mask.unsqueeze(-1)
        mean = masked_mean(nodes, real, 1)  # (N, D)
        if self.query == "literal":
            query = mean.relu() @ self.theta.T
        else:
            query = (mean @ self.theta.T).relu()
        gate = torch.sigmoid((nodes * query.unsqueeze(1)).sum(-1, keepdim=True))  # (N, K, 1)
        return masked_mean(gate * nodes, real, 1)


class ConvAttention(nn.Module):
    """Global vector of a sequence: convolve down and up, maximum over nodes. CFSGR Eq. (12).

    Args:
        width: D.   ratio: D / ratio channels in between.   kernel: odd width of both.
    """

    def __init__(self, width: int, ratio: int, kernel: int) -> None:
        super().__init__()
        inner = max(1, width // ratio)
        self.down = nn.Conv1d(width, inner, kernel, padding=kernel // 2)
        self.up = nn.Conv1d(inner, width, kernel, padding=kernel // 2)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Return (N, D) for nodes (N, K, D) and mask (N, K); zeros for an empty set."""
        real = mask.unsqueeze(1)  # (N, 1, K)
        if nodes.shape[1] == 0:
            return nodes.new_zeros(len(nodes), nodes.shape[2])
        down = self.down(nodes.transpose(1, 2).masked_fill(~real, 0.0))
        return masked_max(self.up(down.masked_fill(~real, 0.0)), real, 2)


class AttentionFiltration(nn.Module):
    """Weigh similarity vectors by their significance and sum them. CFSGR Eq. (16).

    The printed result is a vector; a linear layer and a sigmoid turn it into a similarity, as in
    SGRAF. In training, the batch statistics are those of all real nodes of all pairs.
    """

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.weigh = xavier_linear(sim_dim, 1)
        self.norm = nn.BatchNorm1d(1)
        self.read = xavier_linear(sim_dim, 1)

    def filtrate(self, r: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted sum, unit length: (..., H) for (..., N, H) and mask (..., N)."""
        logits = self.weigh(r).squeeze(-1)
        real = mask.expand_as(logits)
        weights = torch.sigmoid(self._normalise(logits, real)).masked_fill(~real, 0.0)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-8)
        return l2norm((weights.unsqueeze(-2) @ r).squeeze(-2))

    def _normalise(self, logits: Tensor, real: Tensor) -> Tensor:
        values = logits[real].unsqueeze(1)
        bn = self.norm
        if self.training and len(values) > 1:
            values = bn(values)
        else:
            values = nn.functional.batch_norm(
                values, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
            )
        return torch.zeros_like(logits).masked_scatter(real, values)

    def forward(self, r: Tensor, mask: Tensor) -> Tensor:
        """Return the similarities (...)."""
        value: Tensor = self.read(self.filtrate(r, mask)).squeeze(-1)
        return torch.sigmoid(value)


# The three networks


class ReasoningNetwork(nn.Module):
    """A visual graph, a text encoder, and the comparison of their nodes in tiles."""

    code: type[GraphCode] | type[Nodes]  # what both encoders return

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__()
        self.options = options
        self.visual = VisualGraph(options)
        self.text = TextGraphEncoder(
            options.vocab_size,
            options.word_dim,
            options.embed_dim,
            path_state=options.path_state,
        )
        self.compare = Comparison(
            options.embed_dim, options.sim_dim, options.attention_scale, square=options.square
        )

    def reason(
        self, images: Nodes, texts: Nodes, read: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Compare all pairs and score their similarity vectors with ``read``: (I, C).

        Training uses one tile, so that batch statistics do not depend on the size of a tile.
        """
        if self.training:
            return read(*self.compare(images, texts))

        def cut_images(rows: slice) -> tuple[Nodes, Tensor]:
            some = Nodes(*(part[rows] for part in images))
            return some, some.local @ some.local.transpose(1, 2)

        return score_in_tiles(
            images.mask,
            texts.mask,
            4 * self.options.embed_dim * max(1, texts.mask.shape[1]),
            cut_images=cut_images,
            cut_captions=lambda rows, longest: Nodes(
                texts.local[rows, :longest], texts.mask[rows, :longest], texts.whole[rows]
            ),
            score=lambda image, text: read(*self.compare(image[0], text, image[1])),
        )


def _compact(vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move real rows to the front and keep their order."""
    order = (~mask).int().argsort(dim=1, stable=True)
    return vectors.gather(1, order.unsqueeze(-1).expand_as(vectors)), mask.gather(1, order)


def _joined(code: GraphCode, *, compact: bool = True) -> Nodes:
    """Return objects and relations of a graph as one set of nodes."""
    nodes = torch.cat([code.objects, code.relations], 1)
    mask = torch.cat([code.object_mask, code.relation_mask], 1)
    if compact:
        nodes, mask = _compact(nodes, mask)
    return Nodes(nodes, mask, code.whole)


def _without_padding(nodes: Tensor, whole: Tensor) -> Nodes:
    """Return the (T, D) real nodes of one caption as a batch of one."""
    return Nodes(nodes.unsqueeze(0), nodes.new_ones(1, len(nodes), dtype=torch.bool), whole)


class CoarseNetwork(ReasoningNetwork):
    """Compare whole graphs: the best matches of SGM and comprehensive reasoning."""

    code = GraphCode

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__(options)
        self.visual_pool = SelfAttention(options.embed_dim, options.pool_query)
        self.text_pool = SelfAttention(options.embed_dim, options.pool_query)
        self.reasoning = GraphReasoning(options.sim_dim, options.steps, options.graph_head)

    def encode_images(self, images: ImageBatch) -> GraphCode:
        """Return objects and predicates with the global vector of both."""
        o, r = self.visual(images)
        return self._code(o, images.object_mask, r, images.relation_mask, self.visual_pool)

    def encode_captions(self, captions: CaptionBatch) -> GraphCode:
        """Return words and triplets with the global vector of both."""
        words, sentence = self.text.encode_words(captions)
        word_mask = captions.word_mask
        paths, path_mask = self.text.encode_paths(
            captions, sentence if self.options.sentence_relation else None
        )
        words, paths = masked_l2norm(words, word_mask), masked_l2norm(paths, path_mask)
        return self._code(words, word_mask, paths, path_mask, self.text_pool)

    def _code(self, o: Tensor, o_mask: Tensor, r: Tensor, r_mask: Tensor, pool: Any) -> GraphCode:
        whole = pool(torch.cat([o, r], 1), torch.cat([o_mask, r_mask], 1))
        return GraphCode(o, o_mask, r, r_mask, l2norm(whole))

    def word_regions(self, images: GraphCode, captions: GraphCode) -> WordRegions:
        """Return the attention of the words of one caption to the objects of one image."""
        nodes, text = _joined(images, compact=False), _joined(captions, compact=False)
        weights = self.compare.attention(nodes, text)
        words, objects = captions.objects.shape[1], images.objects.shape[1]
        return WordRegions("words", weights[:words, :objects], "attention")

    def local_score(self, images: GraphCode, captions: GraphCode) -> Tensor:
        """Average the best matches of words and of triplets: (I, C). CFSGR Eq. (4)-(5)."""
        objects = mean_of_max(*images[:2], *captions[:2])
        return objects + mean_of_max(*images[2:4], *captions[2:4])

    def score(self, images: GraphCode, captions: GraphCode) -> Tensor:
        """Add local and comprehensive similarity: (I, C). CFSGR Eq. (9)."""
        graphs = self.reason(_joined(images), _joined(captions), self.reasoning)
        return self.local_score(images, captions) + graphs

    def plain_score(self, images: GraphCode, captions: GraphCode) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        words = captions.objects[0][captions.object_mask[0]]
        triplets = captions.relations[0][captions.relation_mask[0]]
        local = mean_of_max_plain(images.objects, images.object_mask, words)
        local = local + mean_of_max_plain(images.relations, images.relation_mask, triplets)
        text = _without_padding(torch.cat([words, triplets]), captions.whole)
        r = self.compare.plain(_joined(images, compact=False), text)
        return (local + self.reasoning.plain(r)).unsqueeze(1)


class FineNetwork(ReasoningNetwork):
    """Compare objects or predicates: global similarity and detailed reasoning.

    Args:
        options: of the model.   on_objects: False compares predicates.
    """

    code = Nodes

    def __init__(self, options: CfsgrOptions, *, on_objects: bool) -> None:
        super().__init__(options)
        self.on_objects = on_objects
        d = options.embed_dim
        self.text_layer = GraphConvolution(d, d, "tanh")
        self.visual_pool, self.text_pool = (
            SelfAttention(d, options.pool_query)
            if on_objects
            else ConvAttention(d, options.conv_ratio, options.conv_kernel)
            for _ in range(2)
        )
        self.filtration = AttentionFiltration(options.sim_dim)

    def encode_images(self, images: ImageBatch) -> Nodes:
        """Return the objects or predicates and their global vector."""
        o, r = self.visual(images)
        nodes, mask = (o, images.object_mask) if self.on_objects else (r, images.relation_mask)
        return Nodes(nodes, mask, l2norm(self.visual_pool(nodes, mask)))

    def word_regions(self, images: Nodes, captions: Nodes) -> WordRegions | None:
        """Return the attention of the ends of triplets to the objects of one image."""
        if not self.on_objects:
            return None
        return WordRegions("ends", self.compare.attention(images, captions), "attention")

    def text_graph(self, captions: CaptionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Update objects and predicates of the triplet paths in a graph layer. CFSGR Eq. (10).

        A node starts as the mean state of its words on the path.

        Returns:
            (C, P', 2, D) subjects and objects, (C, P', D) predicates, (C, P') mask.
        """
        n, P, L = captions.triplets.shape
        states, _ = self.text.path_states(captions)  # (C P, L, D)
        spans = captions.triplet_spans
        stops = spans.cumsum(-1).view(n * P, 3, 1) + 1  # behind <start>
        starts = stops - spans.view(n * P, 3, 1)
        place = torch.arange(L, device=states.device)
        member = ((place >= starts) & (place < stops)).to(states.dtype)  # (C P, 3, L)
        nodes = (member @ states) / member.sum(-1, keepdim=True).clamp(min=1.0)
        nodes = nodes.view(n, P, 3, -1)  # subject, predicate, object
        mask = captions.triplet_mask
        if self.options.sentence_relation:
            sentence = self.text.encode_words(captions)[1].view(n, 1, 1, -1).expand(-1, -1, 3, -1)
            nodes = torch.cat([nodes, sentence], 1)
            mask = torch.cat([mask, ~mask.any(1, keepdim=True)], 1)
        ends = nodes[:, :, ::2]  # (C, P', 2, D)
        rows = torch.arange(2 * ends.shape[1], device=ends.device).view(1, -1, 2)
        o, r = self.text_layer(ends.flatten(1, 2), nodes[:, :, 1], rows.expand(n, -1, -1))
        return o.view_as(ends), r, mask

    def encode_captions(self, captions: CaptionBatch) -> Nodes:
        """Return the objects or predicates and their global vector."""
        ends, nodes, mask = self.text_graph(captions)
        if self.on_objects:
            nodes, mask = ends.flatten(1, 2), mask.repeat_interleave(2, 1)
        nodes, mask = _compact(masked_l2norm(nodes, mask), mask)
        return Nodes(nodes, mask, l2norm(self.text_pool(nodes, mask)))

    def global_score(self, images: Tensor, texts: Tensor) -> Tensor:
        """Compare global vectors (I, D) and (C, D): (I, C). CFSGR Eq. (13)-(14)."""
        if self.options.global_similarity == "cosine":
            return images @ texts.T  # both have unit length
        distance = torch.cdist(images, texts, p=1.0)
        return -distance if self.options.global_similarity == "neg_l1" else distance / distance

    def score(self, images: Nodes, captions: Nodes) -> Tensor:
        """Add global and detailed similarity: (I, C). CFSGR Eq. (17)."""
        detail = self.reason(images, captions, self.filtration)
        return self.global_score(images.whole, captions.whole) + detail

    def plain_score(self, images: Nodes, captions: Nodes) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        text = _without_padding(captions.local[0][captions.mask[0]], captions.whole)
        r = self.compare.plain(images, text)
        detail: Tensor = self.filtration(r, r.new_ones(r.shape[:-1], dtype=torch.bool))
        if self.options.global_similarity == "cosine":
            whole = cosine(images.whole, captions.whole)
        else:
            whole = self.global_score(images.whole, captions.whole).squeeze(1)
        return (whole + detail).unsqueeze(1)


@register("cfsgr", CfsgrOptions)
class Cfsgr(TripletNetwork[CfsgrOptions]):
    """The chosen networks; a code is the codes of the networks, one after the other."""

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__(options)
        self.networks = nn.ModuleDict(
            {
                name: CoarseNetwork(options)
                if name == "coarse"
                else FineNetwork(options, on_objects=name == "fine_object")
                for name in PARTS[options.part]
            }
        )
        self.word_tables = tuple(network.text.embed for network in self.parts)

    @property
    def parts(self) -> list[Any]:
        """The networks, in the order of ``part``."""
        return list(self.networks.values())

    def init_labels(self, labels: npt.ArrayLike, predicates: npt.ArrayLike) -> None:
        """Start the label embeddings from vectors, (n_labels | n_predicates, word_dim)."""
        for network in self.parts:
            copy_rows(network.visual.labels, labels)
            copy_rows(network.visual.predicates, predicates)

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, ...]:
        """Return the image codes of all networks."""
        return tuple(part for network in self.parts for part in network.encode_images(images))

    def encode_captions(self, captions: CaptionBatch) -> tuple[Tensor, ...]:
        """Return the caption codes of all networks."""
        return tuple(part for network in self.parts for part in network.encode_captions(captions))

    def _split(self, code: tuple[Tensor, ...]) -> list[Any]:
        """Return the code of each network."""
        parts = iter(code)
        return [
            network.code(*(next(parts) for _ in network.code._fields)) for network in self.parts
        ]

    def score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Sum of the networks' similarities: (I, C)."""
        each = zip(self.parts, self._split(images), self._split(captions), strict=True)
        return torch.stack([network.score(i, c) for network, i, c in each]).sum(0)

    def word_regions(
        self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]
    ) -> WordRegions | None:
        """Return the attention of the first network that compares objects; None without one."""
        each = zip(self.parts, self._split(images), self._split(captions), strict=True)
        found = (network.word_regions(i, c) for network, i, c in each)
        return next((one for one in found if one is not None), None)

    def plain_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Score I images against one caption by definition: (I, 1)."""
        each = zip(self.parts, self._split(images), self._split(captions), strict=True)
        return torch.stack([network.plain_score(i, c) for network, i, c in each]).sum(0)

    # 3.3 Loss function

    def loss(
        self, images: ImageBatch, captions: CaptionBatch, exchange: Exchange = ALONE
    ) -> Tensor:
        """Sum the hinge losses with hard negatives of the networks. CFSGR Eq. (18)."""
        negatives = self.negatives(captions, exchange)
        scores = (exchange.scores(network, images, captions) for network in self.parts)
        return torch.stack([self.compare(some, negatives) for some in scores]).sum()
