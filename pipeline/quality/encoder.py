"""Sentence embeddings of the packaged MiniLM, computed with numpy; needs neither torch nor network.

The forward pass is that of ``models.nn.bert`` followed by the mean over the word pieces and a scale
to unit length, as all-MiniLM-L6-v2 was trained. Texts of equal length are encoded together, so no
padding and no mask are needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.vocab import WordPiece, minilm_folder, read_tensors

Float = npt.NDArray[np.float32]

WIDTH = 384
_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
_LONGEST = 512  # positions of the model
_TOKENS = 512  # encoded at a time: the activations then fit a processor's cache
# erf(x) = 1 - (a1 t + ... + a5 t^5) exp(-x^2), t = 1 / (1 + p x), x >= 0, exact to 1.5e-7:
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_ERF_P = 0.3275911


class SentenceEncoder:
    """MiniLM as a function from texts to vectors of unit length.

    Raises: MissingDependency: the package of the weights is not installed.
    """

    def __init__(self) -> None:
        folder = minilm_folder("the sentence embeddings of soft SPICE")
        self._pieces = WordPiece.load(folder / "tokenizer.json")
        self._weights = read_tensors(folder / "model.safetensors")

    def __call__(self, texts: Sequence[str]) -> Float:
        """Return one row per text, (n, 384)."""
        p = self._pieces
        ids = [[p.cls, *self._split(text), p.sep] for text in texts]
        groups: dict[int, list[int]] = defaultdict(list)
        for at, pieces in enumerate(ids):
            groups[len(pieces)].append(at)
        vectors = np.zeros((len(ids), WIDTH), np.float32)
        for length, members in groups.items():
            step = max(_TOKENS // length, 1)
            for start in range(0, len(members), step):
                some = members[start : start + step]
                vectors[some] = self._encode(np.array([ids[at] for at in some]))
        return vectors

    def _split(self, text: str) -> list[int]:
        pieces = [piece for word in text.split() for piece in self._pieces.encode(word)]
        return pieces[: _LONGEST - 2]

    def _encode(self, pieces: npt.NDArray[np.int64]) -> Float:
        """Encode texts of one length, (n, S) -> (n, 384)."""
        n, length = pieces.shape
        w = self._weights
        x: Float = w["embeddings.word_embeddings.weight"][pieces]
        x = x + w["embeddings.position_embeddings.weight"][:length]
        x += w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x.reshape(n * length, WIDTH), "embeddings.LayerNorm")
        for layer in range(_LAYERS):
            name = f"encoder.layer.{layer}."
            mixed = self._attention(x, n, name + "attention.self.")
            x += self._linear(mixed, name + "attention.output.dense")
            x = self._norm(x, name + "attention.output.LayerNorm")
            wide = _gelu(self._linear(x, name + "intermediate.dense"))
            x += self._linear(wide, name + "output.dense")
            x = self._norm(x, name + "output.LayerNorm")
        mean = x.reshape(n, length, WIDTH).mean(1)
        unit: Float = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit

    def _linear(self, x: Float, name: str) -> Float:
        out: Float = x @ self._weights[name + ".weight"].T
        out += self._weights[name + ".bias"]
        return out

    def _norm(self, x: Float, name: str) -> Float:
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt(np.mean(x * x, -1, keepdims=True) + _EPSILON)
        x *= self._weights[name + ".weight"]
        x += self._weights[name + ".bias"]
        return x

    def _attention(self, x: Float, n: int, name: str) -> Float:
        """Return the mixed values of all heads, (n S, 384)."""
        q, k, v = (
            self._linear(x, name + part)
            .reshape(n, -1, _HEADS, WIDTH // _HEADS)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )  # (n, heads, S, 32)
        scores: Float = q @ k.transpose(0, 1, 3, 2)
        scores /= np.float32((WIDTH // _HEADS) ** 0.5)
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        mixed: Float = (scores @ v).transpose(0, 2, 1, 3).reshape(len(x), WIDTH)
        return mixed


def _gelu(x: Float) -> Float:
    """Return x Phi(x) = x (1 + erf(x / sqrt 2)) / 2."""
    z = np.abs(x)
    z *= np.float32(0.5**0.5)
    t = np.float32(1) / (np.float32(1) + np.float32(_ERF_P) * z)
    tail: Float = np.full_like(t, _ERF[0])
    for factor in _ERF[1:]:
        tail *= t
        tail += np.float32(factor)
    tail *= t
    tail *= np.exp(-z * z)  # 1 - erf(|x| / sqrt 2)
    tail *= np.float32(0.5)
    positive = x > 0
    np.subtract(np.float32(1), tail, out=tail, where=positive)  # Phi(x)
    tail *= x
    return tail
