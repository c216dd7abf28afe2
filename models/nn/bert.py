"""A BERT encoder that loads any BERT folder without ``transformers``.

It runs the packaged MiniLM (6 layers, 384-d, works offline) as well as ``bert-base-uncased``: the
sizes come from the folder's ``config.json``, and parameters are named as in the weight files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.errors import InputError, MissingDependency, MissingInput
from features.vocab import minilm_folder
from models.nn.layers import zero_padding


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT, named as in its ``config.json``."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1


class _Embeddings(nn.Module):
    """Normalised sum of piece, position and segment vectors; the segment is always 0."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.position_embeddings = nn.Embedding(c.max_position_embeddings, c.hidden_size)
        self.token_type_embeddings = nn.Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def forward(self, pieces: Tensor) -> Tensor:
        """Return (C, S, H) for (C, S) pieces."""
        place = self.position_embeddings.weight[: pieces.shape[1]]
        x = self.word_embeddings(pieces) + place + self.token_type_embeddings.weight[0]
        out: Tensor = self.dropout(self.LayerNorm(x))
        return out


class _Projected(nn.Module):
    """Linear, dropout, residual and LayerNorm: the end of both halves of a layer."""

    def __init__(self, inputs: int, c: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + residual)
        return out


class _Attention(nn.Module):
    """Multi-head self-attention over the real pieces."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.heads = c.num_attention_heads
        self.rate = c.attention_probs_dropout_prob
        self.self = nn.ModuleDict(
            {part: nn.Linear(c.hidden_size, c.hidden_size) for part in ("query", "key", "value")}
        )
        self.output = _Projected(c.hidden_size, c)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (C, heads, S, d)
            for layer in (self.self["query"], self.self["key"], self.self["value"])
        )
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :], dropout_p=self.rate if self.training else 0.0
        )
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2), x)
        return out


class _Layer(nn.Module):
    """Self-attention and a feed-forward block, each followed by LayerNorm."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.attention = _Attention(c)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(c.hidden_size, c.intermediate_size)})
        self.output = _Projected(c.intermediate_size, c)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        wide = nn.functional.gelu(self.intermediate["dense"](x))
        out: Tensor = self.output(wide, x)
        return out


class Bert(nn.Module):
    """The encoder, without pooler and prediction heads."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, pieces: Tensor, mask: Tensor) -> Tensor:
        """Encode word pieces.

        Args:
            pieces: (C, S) int64 with [CLS] and [SEP].   mask: (C, S) bool, True = real.
        Returns: (C, S, hidden_size), the last layer; zeros where padded.

        Raises:
            InputError: a caption has more pieces than the model has positions.
        """
        if pieces.shape[1] > self.config.max_position_embeddings:
            raise InputError(
                f"a caption has {pieces.shape[1]} word pieces, but this BERT has only "
                f"{self.config.max_position_embeddings} positions. Truncate the captions."
            )
        x = self.embeddings(pieces)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x = layer(x, mask)
        return zero_padding(x, mask)


def bert_folder(source: str | Path) -> Path:
    """Return the folder of a BERT; ``minilm`` is the packaged one.

    Raises:
        MissingDependency: the package of ``minilm`` is not installed.
        MissingInput: the folder has no ``config.json``.
    """
    if str(source) == "minilm":
        source = minilm_folder("the packaged MiniLM text encoder")
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise MissingInput(
            f"{folder}: has no config.json, so it is not a BERT folder. Pass the folder of a "
            "downloaded BERT (config.json, model.safetensors, vocab.txt) or 'minilm'."
        )
    return folder


def load_bert(source: str | Path) -> Bert:
    """Build a BERT from a folder and load its weights.

    Args:
        source: the folder (``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``),
            or ``minilm``.

    Raises:
        MissingDependency, MissingInput: see ``bert_folder``.
        InputError: the files are not those of a BERT, or a weight is missing.
    """
    folder = bert_folder(source)
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes = {name: stated[name] for name in BertConfig.__dataclass_fields__ if name in stated}
        if stated.get("hidden_act", "gelu") != "gelu" or "hidden_size" not in sizes:
            raise ValueError("is not the configuration of a BERT with gelu")
        bert = Bert(BertConfig(**sizes))
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'}: {error}.") from error
    state, wanted = _read_weights(folder), bert.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}."
        )
    try:
        bert.load_state_dict({name: state[name] for name in wanted})
    except RuntimeError as error:
        raise InputError(f"{folder}: the weights do not fit config.json: {error}") from error
    return bert


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder, renamed to those of a bare encoder."""
    tensors: dict[str, Any]
    if (folder / "model.safetensors").is_file():
        try:  # optional dependency
            from safetensors.torch import load_file
        except ImportError as error:
            raise MissingDependency.of(
                "safetensors", "a text encoder's weights", "pip install 'scenestore[train]'"
            ) from error
        tensors = load_file(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").is_file():
        tensors = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    else:
        raise MissingInput(f"{folder}: has neither model.safetensors nor pytorch_model.bin.")
    renamed = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("bert.")
        plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight")
        renamed[plain.replace("LayerNorm.beta", "LayerNorm.bias")] = tensor
    return renamed
