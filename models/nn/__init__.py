"""Building blocks that several papers and baselines share."""

from models.nn.bert import BertConfig
from models.nn.blockwise import (
    AttentionNorm,
    BlockNodes,
    attention_logits,
    cut_blocks,
    match_nodes,
)
from models.nn.graphs import (
    GraphConvolution,
    PathState,
    TextGraphEncoder,
    VisualRows,
    text_adjacency,
)
from models.nn.layers import (
    Activation,
    BiGru,
    activate,
    clipped_l2norm,
    cosine,
    l2norm,
    last_state,
    masked_l2norm,
    masked_max,
    masked_mean,
    masked_softmax,
    uniform_embedding,
    xavier_linear,
    zero_padding,
)
from models.nn.losses import negative_mask, triplet_loss
from models.nn.matching import mean_of_max, mean_of_max_plain
from models.nn.networks import (
    DataOptions,
    EmbeddingOptions,
    Network,
    TripletNetwork,
    TripletOptions,
)
from models.nn.parts import Part, distinct, linear_of_parts
from models.nn.products import apply_linear
from models.nn.text_encoders import BertText, GruText, copy_rows
from models.nn.tiling import score_in_tiles

__all__ = [
    "Activation",
    "AttentionNorm",
    "BertConfig",
    "BertText",
    "BiGru",
    "BlockNodes",
    "DataOptions",
    "EmbeddingOptions",
    "GraphConvolution",
    "GruText",
    "Network",
    "Part",
    "PathState",
    "TextGraphEncoder",
    "TripletNetwork",
    "TripletOptions",
    "VisualRows",
    "activate",
    "apply_linear",
    "attention_logits",
    "clipped_l2norm",
    "copy_rows",
    "cosine",
    "cut_blocks",
    "distinct",
    "l2norm",
    "last_state",
    "linear_of_parts",
    "masked_l2norm",
    "masked_max",
    "masked_mean",
    "masked_softmax",
    "match_nodes",
    "mean_of_max",
    "mean_of_max_plain",
    "negative_mask",
    "score_in_tiles",
    "text_adjacency",
    "triplet_loss",
    "uniform_embedding",
    "xavier_linear",
    "zero_padding",
]
