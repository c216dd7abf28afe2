"""Split images at random, but always in the same way: by a hash of their ids."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

from features.errors import UsageError
from features.names import bad_split

_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Shares:
    """Which share of the images belongs to each split.

    An image keeps its split whatever other images there are and in whatever order, so more images
    can be added later. With 80/10/10, some more or fewer than 80 % become ``train``.

    Attributes:
        splits: (name, end of its share in 0..1), in order; the last end is 1.
    """

    splits: tuple[tuple[str, float], ...]

    def split_of(self, image_id: str) -> str:
        """Return the split of an image.

        >>> parse_shares("80/10/10").split_of("1.jpg")
        'train'
        """
        digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return next(name for name, end in self.splits if place < end)


def parse_shares(text: str) -> Shares:
    """Read shares: ``80/10/10`` (train, val, test), ``90/10`` (train, test) or ``a=3/b=1``.

    Raises: UsageError: not two shares or more, or a share that is not above 0.
    """
    parts = text.split("/")
    names = ("train", "test") if len(parts) == 2 else _NAMES
    pairs: list[tuple[str, float]] = []
    for at, part in enumerate(parts):
        name, sign, number = part.rpartition("=")
        try:
            share = float(number)
            pairs.append((name.strip() if sign else names[at], share))
        except (ValueError, IndexError):
            share = 0.0
        if not 0 < share < float("inf") or bad_split(pairs[-1][0]):
            raise UsageError(f"--split-by {text!r}: write 80/10/10, 90/10 or train=3/test=1.")
    if len({name for name, _ in pairs}) < max(len(pairs), 2):
        raise UsageError(f"--split-by {text!r}: it needs two splits or more, each named once.")
    ends = list(itertools.accumulate(share for _, share in pairs))
    named = [(name, end / ends[-1]) for (name, _), end in zip(pairs, ends, strict=True)]
    return Shares((*named[:-1], (named[-1][0], 1.0 + 1e-9)))
