"""HREM: Learning Semantic Relationship Among Instances (Fu et al., CVPR 2023).

Two encoders make one embedding of an image and of a caption. While training, the embeddings of a
batch also exchange information through a graph whose edges come from matching fragments; at test
time they do not, so scoring a whole split is a single matrix product.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from features.batches.batch import CaptionBatch, ImageBatch
from models.nn.layers import l2norm
from models.nn.text_encoders import BertText, GruText
from models.papers.hrem_batches import drop_regions, drop_words
from models.papers.hrem_layers import CrossLayer, RegionProjection, RelationLayer, pool
from models.papers.hrem_losses import pair_loss
from models.papers.hrem_relations import (
    Blocks,
    FragmentMatching,
    attention_bias,
    closeness,
    nearest,
    regularization_loss,
)
from models.registry import register

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Embeddings", "Encoded", "Hrem", "HremOptions"]

MASK_PIECE = 103  # [MASK] in the word pieces of BERT and MiniLM


@dataclass(frozen=True)
class HremOptions:
    """Options of HREM; the defaults are the published Fusion model with a Bi-GRU."""

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
    image_mlp: bool = True
    """The released code adds an MLP with batch norm to the paper's linear layer."""
    heads: int = 16
    dropout: float = 0.1
    relate_regions: bool = True
    """False: Table 3a without visual fragment-level relations."""
    relate_words: bool = True
    """False: Table 3a without textual fragment-level relations."""
    beta: float = 0.8
    maxk: int = 2
    """The released MaxPool averages the two largest values; 1 is the paper's."""
    mechanism: Literal["fusion", "standalone"] = "fusion"
    relate_instances: Literal["both", "inter", "intra", "none"] = "both"
    """Table 3a: which blocks of the association graph take part."""
    instance_layers: int = 1
    connection: bool = True
    """False: Table 3b without the connection matrix A."""
    relevance: bool = True
    """False: Table 3b without the relevance matrix S."""
    consistency: bool = True
    """False: Table 3b without the bracket of Eq. (14)."""
    regularization: float = 10.0
    """Weight of Eq. (11), unstated in the paper; 0: Table 3b without it."""
    tau: float = 0.5
    topk: int = 10
    relevance_weight: float = 1.0
    """lambda of Eq. (12): released 1.0 for Flickr30K and 1.5 for COCO; the paper says 1.5."""
    relevance_distance: Literal["l2", "squared"] = "l2"
    scan_norm: bool = True
    """Fragment products normalised as in stacked cross attention; False is Eq. (7) as printed."""
    official_pad: bool = False
    """Let pads of short captions and images into Eq. (7)-(8) as the released code does."""
    warm_up: int = 8000
    """Steps before the association graph joins; the paper does not say."""
    negatives: Literal["distance", "likeliest", "hardest", "all"] = "distance"
    far: float = 1.7
    """Distance from which negatives are not drawn: 1.7 Flickr30K, 1.9 COCO."""
    margin: float = 0.2
    mask_same_image: bool = True
    drop_regions: float = 0.2
    drop_words: float = 0.2
    """Shares of regions and words disturbed in training (released size augmentation)."""


class Embeddings(NamedTuple):
    """Unit embeddings of images or captions: all that scoring needs."""

    vectors: Tensor  # (N, d)


class Encoded(NamedTuple):
    """What training needs besides the embedding."""

    vectors: Tensor  # (N, d), unit length
    fragments: Tensor  # (N, R or T, d)
    mask: Tensor  # (N, R or T) bool


@register("hrem", HremOptions)
class Hrem(nn.Module):
    """HREM with both text encoders and both relation mechanisms.

    Args:
        options: see ``HremOptions``.
        text: replaces the text encoder that the options name.
    """

    reads_unions = False

    def __init__(
        self, options: HremOptions | None = None, text: GruText | BertText | None = None
    ) -> None:
        super().__init__()
        self.options = o = options or HremOptions()
        d = o.embed_dim
        self.step = 0
        self.keep_fragments = False
        self.region_layer = RegionProjection(o.image_dim, d, mlp=o.image_mlp)
        if text is None and o.text_encoder == "bert":
            text = BertText(o.bert, d)
        self.text = text or GruText(o.vocab_size, o.word_dim, d)
        self.region_relation = RelationLayer(d, o.heads, d, o.dropout) if o.relate_regions else None
        self.word_relation = RelationLayer(d, o.heads, d, o.dropout) if o.relate_words else None
        if o.relate_instances != "none":
            self.matching = FragmentMatching(
                o.topk, normalised=o.scan_norm, official_pad=o.official_pad
            )
            depth = range(o.instance_layers)
            if o.mechanism == "fusion":
                self.fusion = nn.ModuleList(RelationLayer(d, o.heads, d, o.dropout) for _ in depth)
            else:
                self.image_branch, self.text_branch = (
                    nn.ModuleList(CrossLayer(d, o.heads, d, o.dropout) for _ in depth)
                    for _ in range(2)
                )

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start a Bi-GRU's words from vectors, (vocab_size, word_dim); NaN rows stay random."""
        if isinstance(self.text, GruText):
            self.text.init_words(vectors)

    def set_step(self, step: int) -> None:
        """Tell the model which training step comes next; the warm-up counts them."""
        self.step = step

    # 3.1 and 3.2: encoders with fragment-level relations

    def encode_image_fragments(self, images: ImageBatch) -> Encoded:
        """Encode regions and pool them, HREM Eq. (2)."""
        o = self.options
        mask = images.object_mask
        if self.training and o.drop_regions:
            mask = drop_regions(mask, o.drop_regions)
        regions = self.region_layer(images.objects.to(self.region_layer.fc.weight.dtype), mask)
        return self._pool(regions, mask, self.region_relation)

    def encode_caption_fragments(self, captions: CaptionBatch) -> Encoded:
        """Encode words or word pieces and pool them, HREM Eq. (3)."""
        words, mask = self._words(captions)
        return self._pool(words, mask, self.word_relation)

    def _words(self, captions: CaptionBatch) -> tuple[Tensor, Tensor]:
        rate = self.options.drop_words if self.training else 0.0
        if isinstance(self.text, GruText):
            words, mask = captions.words, captions.word_mask
            if rate:
                words = drop_words(words, mask, rate, 3, self.text.embed.num_embeddings)
                mask = words > 0
            return self.text(words, mask), mask
        if rate and captions.pieces is not None and captions.piece_words is not None:
            real = captions.piece_words >= 0
            size = self.text.bert.config.vocab_size
            pieces = drop_words(captions.pieces, real, rate, MASK_PIECE, size)
            left = (pieces > 0).long() - 1  # only the sign of piece_words is read below
            captions = dataclasses.replace(captions, pieces=pieces, piece_words=left)
        return self.text.encode_pieces(captions)

    def _pool(self, fragments: Tensor, mask: Tensor, layer: RelationLayer | None) -> Encoded:
        related = None
        if layer is not None:
            keys = mask | ~mask.any(1, keepdim=True)  # something to attend to, even in no image
            related = layer(fragments, attention_bias(keys[:, None, None], None, 0.0))
        vectors = pool(fragments, related, mask, self.options.beta, self.options.maxk)
        return Encoded(l2norm(vectors), fragments, mask)

    def encode_images(self, images: ImageBatch) -> Embeddings | Encoded:
        """Return unit embeddings; inside ``loss`` with the fragments they were pooled from."""
        encoded = self.encode_image_fragments(images)
        return encoded if self.keep_fragments else Embeddings(encoded.vectors)

    def encode_captions(self, captions: CaptionBatch) -> Embeddings | Encoded:
        """Return unit embeddings; inside ``loss`` with the fragments they were pooled from."""
        encoded = self.encode_caption_fragments(captions)
        return encoded if self.keep_fragments else Embeddings(encoded.vectors)

    def score(self, images: Embeddings | Encoded, captions: Embeddings | Encoded) -> Tensor:
        """Return the cosines of all pairs, (I, C): embeddings never interact at test time."""
        return images.vectors @ captions.vectors.T

    def plain_score(self, images: Embeddings, captions: Embeddings) -> Tensor:
        """Return the cosines with one caption, (I, 1)."""
        return (images.vectors * captions.vectors).sum(-1, keepdim=True)

    # 3.3: instance-level relations

    def relations(self, images: Encoded, captions: Encoded) -> tuple[Blocks, Blocks]:
        """Return connection A and relevance S of a batch, the parts of HREM Eq. (4)."""
        o = self.options
        with torch.no_grad():
            v, u = images.vectors, captions.vectors
            near_i, near_t = (
                closeness(v, v, o.relevance_distance),
                closeness(u, u, o.relevance_distance),
            )
            like_i, like_t = nearest(v @ v.T, o.tau), nearest(u @ u.T, o.tau)
        p_i2t, p_t2i, s_i2t, s_t2i = self.matching(
            images.fragments, images.mask, captions.fragments, captions.mask
        )
        with torch.no_grad():
            connected = Blocks(like_i, nearest(p_i2t, o.tau), nearest(p_t2i, o.tau), like_t)
        return connected, Blocks(near_i, s_i2t, s_t2i, near_t)

    def enhance(
        self, v: Tensor, u: Tensor, connected: Blocks, relevance: Blocks
    ) -> tuple[Tensor, Tensor]:
        """Let the embeddings of a batch interact, HREM Eq. (12).

        Args:
            v: (N, d) images.   u: (N, d) captions.
            connected: A.   relevance: S.

        Returns:
            Unit embeddings of the same shapes.
        """
        o = self.options
        parts = o.relate_instances
        if o.mechanism == "fusion":
            allowed = connected if o.connection else Blocks(*map(torch.ones_like, connected))
            if parts == "inter":
                allowed = allowed._replace(
                    i2i=torch.zeros_like(allowed.i2i), t2t=torch.zeros_like(allowed.t2t)
                )
            elif parts == "intra":
                allowed = allowed._replace(
                    i2t=torch.zeros_like(allowed.i2t), t2i=torch.zeros_like(allowed.t2i)
                )
            bias = attention_bias(
                allowed.joined(), relevance.joined() if o.relevance else None, o.relevance_weight
            )
            nodes = torch.cat([v, u])[None]
            for layer in self.fusion:
                nodes = layer(nodes, bias)
            enhanced_v, enhanced_u = nodes[0].split(len(v))
            return l2norm(enhanced_v), l2norm(enhanced_u)
        i2i, i2t, t2i, t2t = (
            attention_bias(
                a if o.connection else None, s if o.relevance else None, o.relevance_weight
            )
            for a, s in zip(connected, relevance, strict=True)
        )
        x, y = v[None], u[None]
        for near, far in zip(self.image_branch, self.text_branch, strict=True):
            if not (isinstance(near, CrossLayer) and isinstance(far, CrossLayer)):
                raise TypeError("a branch of the Standalone mechanism is made of CrossLayers")
            x, y = near.relate(x, y, i2t, i2i, parts), far.relate(y, x, t2i, t2t, parts)
        return l2norm(x[0]), l2norm(y[0])

    # 3.4: optimisation

    def loss(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Return the matching losses and the weighted regularisation, HREM Eq. (14)."""
        self.keep_fragments = True  # several ranks exchange what the two encoders return
        try:
            pictures = cast(Encoded, self.encode_images(images))
            texts = cast(Encoded, self.encode_captions(captions))
        finally:
            self.keep_fragments = False
        rows = captions.image_rows
        same = rows.unsqueeze(1) == rows.unsqueeze(0)
        if not self.options.mask_same_image:
            same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        return self.batch_loss(pictures, texts, same)

    def batch_loss(self, images: Encoded, captions: Encoded, positives: Tensor) -> Tensor:
        """Return the loss of encoded pairs; ``positives`` is (N, N) bool."""
        o = self.options

        def compare(pictures: Tensor, texts: Tensor) -> Tensor:
            return pair_loss(
                pictures, texts, positives, negatives=o.negatives, margin=o.margin, far=o.far
            )

        v, u = images.vectors, captions.vectors
        if o.relate_instances == "none" or self.step < o.warm_up:
            return compare(v, u)
        connected, relevance = self.relations(images, captions)
        enhanced_v, enhanced_u = self.enhance(v, u, connected, relevance)
        total = compare(enhanced_v, enhanced_u)
        if o.consistency:
            total = total + compare(v, u) + compare(enhanced_v, u) + compare(v, enhanced_u)
        if o.regularization and o.relevance and o.relate_instances != "intra":
            total = total + o.regularization * self.regularize(v, u, relevance)
        return total

    def regularize(self, v: Tensor, u: Tensor, relevance: Blocks) -> Tensor:
        """Tie learned relevance to that of the embeddings in both directions, HREM Eq. (11)."""
        given = closeness(v, u, self.options.relevance_distance)
        return regularization_loss(relevance.i2t, given) + regularization_loss(
            relevance.t2i, given.T
        )
