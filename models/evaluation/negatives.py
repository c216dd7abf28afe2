"""False captions of a store's images: which belong to which caption, and how well they are told.

``python -m pipeline negatives`` makes them. They are the captions of a store with the same images,
whose ids name the true caption and the kind of the change (``features.names.negative_id``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.batches import CaptionBatch, CaptionColumns, CaptionEncoder
from features.errors import MismatchError, UnknownName, UsageError
from features.names import source_of_negative
from features.reading import flat_rows
from features.store import Store, open_store
from features.vocab import Codebook

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Ints = npt.NDArray[np.int64]

TOGETHER = 8  # images scored at a time; of their scores only those of true pairs are used


class Negatives:
    """The negatives of a store's captions.

    Args:
        path: folder or manifest of the negatives.   store: the store of the true captions.

    Attributes:
        source: (n,) caption row in ``store`` of each negative.   kinds: their n kinds.

    Raises:
        MissingInput, FormatError: there is no store at this path.
        MismatchError: it has other images, or captions that are no negatives of these.
    """

    def __init__(self, path: str, store: Store) -> None:
        self.opened = open_store(path)
        self.store = store
        if self.opened.manifest["index"] != store.manifest["index"]:
            raise MismatchError(
                f"{self.opened.path} has other images than {store.path}. Make its negatives: "
                "python -m pipeline negatives STORE OUT."
            )
        ids = self.opened.column("caption_id").tolist()
        named = [source_of_negative(name) for name in ids]
        try:
            self.source: Ints = store.rows_of_captions([source for source, _ in named])
        except UnknownName as error:
            raise MismatchError(
                f"{self.opened.path}: its captions are no negatives of those of {store.path}: "
                f"{error} Make them: python -m pipeline negatives STORE OUT."
            ) from error
        if not self._of_these_captions():
            raise MismatchError(
                f"{self.opened.path}: made from other captions than those of {store.path}, which "
                "have the same ids. Make them: python -m pipeline negatives STORE OUT."
            )
        self.kinds = [kind for _, kind in named]

    def _of_these_captions(self) -> bool:
        """Return False if the negatives were made from captions with other texts."""
        index = self.store.group("index").manifest
        source = self.opened.group("index").manifest.params.get("inputs", {}).get("index")
        known = self.opened.manifest["summary"].get("captions")  # not in those of earlier versions
        return source in (None, index.key) or known == index.captions

    @property
    def identity(self) -> str:
        """Key and hash, as ``store_keys`` writes those of groups."""
        return f"{self.opened.key[:12]}/{self.opened.hash[:12]}"

    @cached_property
    def _by_source(self) -> tuple[Ints, Ints]:
        """Negatives sorted by their true caption, and where those of each caption start."""
        order = np.argsort(self.source, kind="stable")
        counts = np.bincount(self.source, minlength=len(self.store.column("caption_id")))
        return order, np.concatenate([[0], np.cumsum(counts)])

    def of(self, captions: Ints) -> tuple[Ints, Ints]:
        """Return all negatives of some captions, and the position in ``captions`` of each."""
        order, offsets = self._by_source
        at, owner, _ = flat_rows(offsets, captions)
        return order[at], owner

    def draw(self, captions: Ints, seed: int) -> tuple[Ints, Ints]:
        """Return one negative of each caption that has any, and the caption's position.

        The choice depends on the seed and the caption alone, not on the batch.
        """
        order, offsets = self._by_source
        counts = np.diff(offsets)[captions]
        position = np.flatnonzero(counts)
        chosen = captions[position]
        return order[offsets[chosen] + _hashes(chosen, seed) % counts[position]], position

    def batch(self, rows: Ints, codebook: Codebook) -> CaptionBatch:
        """Return a batch of negatives, given their rows."""
        if self._encoder is None or self._encoder.codebook is not codebook:
            self._encoder = CaptionEncoder(CaptionColumns.of_store(self.opened), codebook)
        return self._encoder.batch(rows, self.opened.image_of_caption(rows))

    _encoder: CaptionEncoder | None = None


def _hashes(rows: Ints, seed: int) -> Ints:
    """Return a pseudo-random number below 2^31 for each row (the finaliser of splitmix64)."""
    x = rows.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Ints = ((x ^ (x >> np.uint64(31))) >> np.uint64(33)).astype(np.int64)
    return mixed


def paired_scores(
    model: Any, images: tuple[Tensor, ...], captions: tuple[Tensor, ...], owner: Tensor
) -> Tensor:
    """Score captions with one image each.

    Args:
        model: the model.   images: codes of I images.   captions: codes of C captions.
        owner: (C,) int64, ascending, position of each caption's image.

    Returns:
        (C,) scores, with gradients if the codes have them.
    """
    import torch  # slow to load

    from models.compute import pick  # loads torch

    parts = []
    for start in range(0, len(images[0]), TOGETHER):
        some = torch.nonzero((owner >= start) & (owner < start + TOGETHER)).flatten()
        if len(some):
            first, last = int(some[0]), int(some[-1]) + 1
            block = model.score(
                pick(images, slice(start, start + TOGETHER)), pick(captions, slice(first, last))
            )
            parts.append(block[owner[first:last] - start, torch.arange(last - first)])
    return torch.cat(parts) if parts else owner.new_zeros(0, dtype=torch.float32)


@dataclass(frozen=True)
class Accuracy:
    """How often a caption scores higher than its negative, in percent; equal scores count as wrong.

    Attributes:
        kind: of the negatives, or ``all``.   count: number of negatives.   value: the accuracy.
        low, high: bootstrap interval over images; equal to ``value`` without bootstrap.
    """

    kind: str
    count: int
    value: float
    low: float
    high: float


def compare_with_negatives(
    model: Any,
    store: Store,
    split: str,
    negatives: Negatives,
    codebook: Codebook,
    *,
    device: torch.device,
    batch_size: int = 64,
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Score each caption of a split and its negatives with the caption's image.

    Returns:
        rows: (n,) of the negatives.   margins: (n,) score of the true caption minus the negative's.

    Raises: UsageError: the captions of the split have no negatives.
    """
    import torch  # slow to load

    from models.registry import reads_unions  # loads torch

    images = store.image_rows(split)
    starts = store.offsets("caption_offsets")
    true = CaptionEncoder(CaptionColumns.of_store(store), codebook)
    rows: list[Ints] = []
    margins: list[npt.NDArray[np.float32]] = []
    at = 0
    model.eval()
    with torch.inference_mode():
        for batch in store.image_batches(split, batch_size, codebook, unions=reads_unions(model)):
            some = images[at : at + batch_size]
            at += len(some)
            captions, owner, _ = flat_rows(starts, some)
            made, of = negatives.of(captions)
            if not len(made):
                continue
            code = model.encode_images(batch.to(device))
            positive = _scores(model, code, true.batch(captions, some[owner]), owner, device)
            negative = _scores(model, code, negatives.batch(made, codebook), owner[of], device)
            rows.append(made)
            margins.append(positive[of] - negative)
    if not rows:
        raise UsageError(
            f"{negatives.opened.path} has no negatives of the captions of {split!r}. "
            "Name another split."
        )
    return np.concatenate(rows), np.concatenate(margins)


def _scores(
    model: Any, images: tuple[Tensor, ...], captions: CaptionBatch, owner: Ints, device: Any
) -> npt.NDArray[np.float32]:
    import torch  # slow to load

    code = model.encode_captions(captions.to(device))
    found = paired_scores(model, images, code, torch.from_numpy(owner).to(device))
    scores: npt.NDArray[np.float32] = found.float().cpu().numpy()
    return scores


def accuracies(
    negatives: Negatives,
    rows: Ints,
    margins: npt.NDArray[np.float32],
    samples: int = 1000,
    seed: int = 0,
) -> list[Accuracy]:
    """Return the accuracy for each kind of negative, most frequent first, and for all.

    Args:
        negatives: their store.   rows, margins: see ``compare_with_negatives``.
        samples: bootstrap samples of images; 0: no intervals.   seed: of the samples.
    """
    right = margins > 0
    kinds = np.array([negatives.kinds[row] for row in rows.tolist()])
    images = negatives.opened.image_of_caption(rows)
    names, counts = np.unique(kinds, return_counts=True)
    ordered = [str(names[at]) for at in np.argsort(-counts, kind="stable")]
    found = []
    for kind in [*ordered, "all"]:
        some = np.ones(len(rows), bool) if kind == "all" else kinds == kind
        value, low, high = _interval(right[some], images[some], samples, seed)
        found.append(Accuracy(kind, int(some.sum()), value, low, high))
    return found


def _interval(
    right: npt.NDArray[np.bool_], images: Ints, samples: int, seed: int
) -> tuple[float, float, float]:
    """Return a mean in percent and its 95 % bootstrap interval over images."""
    value = 100.0 * float(right.mean())
    if not samples:
        return value, value, value
    _, place = np.unique(images, return_inverse=True)
    n = int(place.max()) + 1
    hits = np.bincount(place, weights=right, minlength=n)
    total = np.bincount(place, minlength=n)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), samples)
    low, high = np.percentile(100.0 * (draws @ hits) / (draws @ total), (2.5, 97.5))
    return value, float(low), float(high)
