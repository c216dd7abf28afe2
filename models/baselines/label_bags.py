"""Ridge regression from caption words to detected labels, a baseline without pixels.

It is solved in closed form. What a matching model gains over it comes from features, boxes and
relations; the rest was already in the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from features.store import Store

Floats = npt.NDArray[np.float64]
BLOCK = 4096  # captions whose word counts are dense at a time


def label_bag_scores(
    store: Store, split: str, *, train: str = "train", words: int = 2000, ridge: float = 10.0
) -> npt.NDArray[np.float32]:
    """Score every image of a split with every caption of it, by labels alone.

    The score is the negative squared distance between the label counts that the words of a caption
    predict and those of the image, in standard deviations. Images with equal labels tie; small
    random numbers with a fixed seed break the ties.

    Args:
        store: a store with the groups visual and tokens.   split: split to score.
        train: split to learn from.
        words: number of its most frequent lower-cased words that are used.
        ridge: weight of the penalty, in captions.
    Returns: (n_images, n_captions) float32.

    Raises: UnknownName: no such split.
    """
    labels = _label_counts(store)
    spread = labels[store.image_rows(train)].std(0)
    labels = labels[:, spread > 0] / spread[spread > 0]
    middle = labels[store.image_rows(train)].mean(0)
    bags = _Bags(store, store.caption_rows(train), words)
    rows = store.caption_rows(train)
    gram = ridge * np.eye(bags.size)
    moment = np.zeros((bags.size, labels.shape[1]))
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        counts = bags.dense(some)
        gram += counts.T @ counts
        moment += counts.T @ (labels[store.image_of_caption(some)] - middle)
    weights = np.linalg.solve(gram, moment)

    captions, images = store.caption_rows(split), labels[store.image_rows(split)] - middle
    guess = np.concatenate(
        [
            bags.dense(captions[start : start + BLOCK]) @ weights
            for start in range(0, len(captions), BLOCK)
        ]
    )
    scores = 2 * images @ guess.T - (images**2).sum(1)[:, None] - (guess**2).sum(1)[None, :]
    scores += 1e-4 * np.random.default_rng(0).random(scores.shape)
    return np.asarray(scores, np.float32)


def _label_counts(store: Store) -> Floats:
    """Count the labels of each image: (images, labels)."""
    column = store.coded("labels")
    counts = np.zeros((len(store), len(column.names)))
    real = np.arange(column.codes.shape[1]) < store.column("num_objects")[:, None]
    image = np.broadcast_to(np.arange(len(store))[:, None], real.shape)
    np.add.at(counts, (image[real], column.codes[real]), 1)
    return counts


class _Bags:
    """Counts of the most frequent words of captions; the last column is constant 1."""

    def __init__(self, store: Store, rows: npt.NDArray[Any], words: int) -> None:
        column = store.coded("form")
        lower = [name.lower() for name in column.names]
        position = {word: at for at, word in enumerate(sorted(set(lower)))}
        self._of_code = np.array([position[word] for word in lower], np.int64)
        self._codes, self._offsets = column.codes, store.offsets("token_offsets")
        flat, _ = self._words(rows)
        often = np.argsort(-np.bincount(flat, minlength=len(position)), kind="stable")[:words]
        self._place = np.full(len(position), -1)
        self._place[often] = np.arange(len(often))
        self.size = len(often) + 1

    def _words(self, rows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the words of all captions, concatenated, and the caption of each word."""
        first, lengths = self._offsets[rows], np.diff(self._offsets)[rows]
        owner = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self._of_code[self._codes[first[owner] + within]], owner

    def dense(self, rows: npt.NDArray[Any]) -> Floats:
        """Return the word counts of captions, (len(rows), size)."""
        counts = np.zeros((len(rows), self.size))
        counts[:, -1] = 1
        flat, owner = self._words(rows)
        place = self._place[flat]
        np.add.at(counts, (owner[place >= 0], place[place >= 0]), 1)
        return counts
