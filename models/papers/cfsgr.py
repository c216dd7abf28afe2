"""CFSGR: coarse-to-fine scene graph similarity reasoning for image-text retrieval.

Three networks with encoders of their own: one compares whole graphs (coarse), one objects, one
predicates (fine). Each learns alone from its own loss; their similarities are summed at test.
``part`` picks them: a row of the paper's Table 2. Since they share no parameter, training them
together on the sum of their losses gives each the gradient it would have alone.

Readings where the paper is silent follow its ancestors SGM, LGSGM and SGRAF; see
``docs/faithfulness.md``. Eq. (19) is the metric rSum (``models.evaluation.metrics``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from features.batches.batch import CaptionBatch, ImageBatch
from models.nn.losses import negative_mask, triplet_loss
from models.papers.cfsgr_networks import CoarseNetwork, FineNetwork
from models.registry import register

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Cfsgr", "CfsgrOptions"]

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
class CfsgrOptions:
    """Options of CFSGR.

    Attributes:
        image_dim, vocab_size, n_labels, n_predicates, n_tags: what the data says.
        word_dim, embed_dim: widths of word vectors and of graph nodes.
        part: networks that are built and summed; the rows of Table 2.
        sim_dim: width of a similarity vector (the projection SGRAF has and Eq. 7 leaves out).
        attention_scale: lambda of the attention that aligns text nodes with image nodes.
        steps, graph_head: see ``GraphReasoning``; SGRAF has 3 steps.
        square: squared differences in Eq. 15, as in Eq. 7; False: as printed.
        global_similarity: Eq. 13-14: ``cosine`` as their text says, ``neg_l1`` the negated L1
            distance, ``literal`` the printed quotient summed up (a constant).
        conv_ratio, conv_kernel: the convolutions of Eq. 12, whose sizes are not stated.
        sentence_relation: the sentence vector is one more triplet of the coarse graph, and the
            only node of a fine one whose caption has no triplet.
        margin, hard_negatives, mask_same_image: see ``models.nn.losses``; the margin is not stated.
    """

    image_dim: int = 2048
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    word_dim: int = 300
    embed_dim: int = 1024
    part: Literal[
        "coarse",
        "fine_object",
        "fine_predicate",
        "without_coarse",
        "without_fine_object",
        "without_fine_predicate",
        "full",
    ] = "full"
    sim_dim: int = 256
    attention_scale: float = 9.0
    steps: int = 1
    graph_head: Literal["sgraf", "literal"] = "sgraf"
    square: bool = True
    global_similarity: Literal["cosine", "neg_l1", "literal"] = "cosine"
    conv_ratio: int = 4
    conv_kernel: int = 1
    sentence_relation: bool = True
    margin: float = 0.35
    hard_negatives: bool = True
    mask_same_image: bool = True


@register("cfsgr", CfsgrOptions)
class Cfsgr(nn.Module):
    """The chosen networks; codes are those of the networks, one after the other."""

    def __init__(self, options: CfsgrOptions) -> None:
        super().__init__()
        self.options = options
        self.networks = nn.ModuleDict(
            {
                name: CoarseNetwork(options) if name == "coarse" else FineNetwork(options, name)
                for name in PARTS[options.part]
            }
        )

    @property
    def parts(self) -> list[Any]:
        """The networks, in the order of ``part``."""
        return list(self.networks.values())

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start every network's word embedding from given vectors, (vocab_size, word_dim)."""
        for network in self.parts:
            network.init_words(vectors)

    def init_labels(self, labels: npt.ArrayLike, predicates: npt.ArrayLike) -> None:
        """Start every network's label embeddings, (n_labels | n_predicates, word_dim)."""
        for network in self.parts:
            network.init_labels(labels, predicates)

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, ...]:
        """Return the image codes of all networks."""
        codes = [network.encode_images(images) for network in self.parts]
        return tuple(part for code in codes for part in code)

    def encode_captions(self, captions: CaptionBatch) -> tuple[Tensor, ...]:
        """Return the caption codes of all networks."""
        codes = [network.encode_captions(captions) for network in self.parts]
        return tuple(part for code in codes for part in code)

    def _split(self, code: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Return the code of each network."""
        parts: list[tuple[Tensor, ...]] = []
        at = 0
        for network in self.parts:
            parts.append(code[at : at + network.code_size])
            at += network.code_size
        return parts

    def score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Sum of the networks' similarities: (n_images, n_captions)."""
        each = zip(self.parts, self._split(images), self._split(captions), strict=True)
        return torch.stack([network.score(i, c) for network, i, c in each]).sum(0)

    def plain_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, 1): the same for one caption, pair by pair."""
        each = zip(self.parts, self._split(images), self._split(captions), strict=True)
        return torch.stack([network.plain_score(i, c) for network, i, c in each]).sum(0)

    def loss(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Hinge loss with hard negatives of each network by itself. CFSGR Eq. (18)."""
        o = self.options
        negatives = negative_mask(captions.image_rows, mask_same_image=o.mask_same_image)
        losses = []
        for network in self.parts:
            code = network.encode_images(images), network.encode_captions(captions)
            losses.append(
                triplet_loss(
                    network.score(*code),
                    negatives,
                    margin=o.margin,
                    hard_negatives=o.hard_negatives,
                )
            )
        return torch.stack(losses).sum()
