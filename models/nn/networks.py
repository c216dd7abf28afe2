"""What trained models share: their options, pretrained word vectors and the triplet loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from models.compute import ALONE, Exchange
from models.nn.losses import negative_mask, triplet_loss
from models.nn.text_encoders import copy_rows

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class DataOptions:
    """Sizes that follow from the store and its codebook; ``models.options_for`` fills them in."""

    image_dim: int = 2048
    """Width of one region feature."""
    vocab_size: int = 10000
    n_labels: int = 2
    n_predicates: int = 2
    n_tags: int = 64
    """Part-of-speech tags."""


@dataclass(frozen=True)
class EmbeddingOptions(DataOptions):
    """Options of models that learn a common space of words and regions."""

    word_dim: int = 300
    """Width of a word vector."""
    embed_dim: int = 1024
    """Width of the common space."""
    mask_same_image: bool = True
    """Captions of the same image are not negatives, see ``nn.losses.negative_mask``."""


@dataclass(frozen=True)
class TripletOptions(EmbeddingOptions):
    """Options of models with the hinge triplet loss."""

    margin: float = 0.2
    hard_negatives: bool = True
    loss_reduction: Literal["sum", "mean"] = "sum"
    """``mean``: over the batch, as the released LGSGM; all others sum."""


E = TypeVar("E", bound=EmbeddingOptions)
T = TypeVar("T", bound=TripletOptions)


class Network(nn.Module, Generic[E]):
    """A model with options and word embeddings."""

    word_tables: tuple[nn.Embedding, ...] = ()  # each (vocab_size, word_dim)

    def __init__(self, options: E) -> None:
        super().__init__()
        self.options = options

    def init_words(self, vectors: npt.ArrayLike) -> None:
        """Start the word embeddings from pretrained vectors, (vocab_size, word_dim)."""
        for table in self.word_tables:
            copy_rows(table, vectors)

    def negatives(self, captions: CaptionBatch, exchange: Exchange) -> Tensor:
        """Return which pairs of the whole batch are negatives: (B, B) bool."""
        rows = exchange.rows(captions.image_rows)
        return negative_mask(rows, mask_same_image=self.options.mask_same_image)


class TripletNetwork(Network[T]):
    """A model that is trained with the hinge triplet loss."""

    def __init__(self, options: T) -> None:
        super().__init__(options)
        self.hard_negatives = options.hard_negatives

    def loss(
        self, images: ImageBatch, captions: CaptionBatch, exchange: Exchange = ALONE
    ) -> Tensor:
        """Return the summed loss of B pairs, row i with row i, a scalar. GSMN Eq. (10)."""
        scores = exchange.scores(self, images, captions)
        return self.compare(scores, self.negatives(captions, exchange))

    def compare(self, scores: Tensor, negatives: Tensor) -> Tensor:
        """Return the triplet loss of (B, B) scores with the margin of the options."""
        o, hard = self.options, self.hard_negatives
        mean = o.loss_reduction == "mean"
        return triplet_loss(scores, negatives, margin=o.margin, hard_negatives=hard, mean=mean)
