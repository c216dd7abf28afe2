"""The images of an evaluation divided among ranks; the first one gets the whole score matrix."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.evaluation.scoring import score_all

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from features.store import Store
    from features.vocab.codebook import Codebook
    from models.compute.distributed import World

__all__ = ["score_split", "shares"]


def shares(count: int, ranks: int) -> list[slice]:
    """Return a run of neighbouring rows for every rank, as equal as can be.

    >>> shares(5, 3)
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    ends = [count * rank // ranks for rank in range(ranks + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def score_split(
    model: nn.Module,
    store: Store,
    split: str,
    codebook: Codebook | None,
    world: World,
    **options: Any,
) -> Tensor | None:
    """Score a split's images against all its captions, each rank some of the images.

    Args:
        model: the same weights on every rank; its buffers become those of the first.
        store, split, codebook: as for ``score_all``.   world: this process among its peers.
        options: of ``score_all``.

    Returns:
        (n_images, n_captions) float32 on the first rank's CPU; None on the others.
    """
    if world.size == 1:
        return score_all(model, store, split, codebook, **options)
    for buffer in model.buffers():  # running statistics are each rank's own while it trains
        dist.broadcast(buffer, src=0)
    rows = store.image_rows(split)
    cuts = shares(len(rows), world.size)
    mine = _Share(store, split, cuts[world.rank])
    width = len(store.caption_rows(split))
    part = torch.empty(0, width)
    if len(mine.rows):
        part = score_all(model, mine, split, codebook, **options)
    if not world.first:
        if len(part):
            dist.send(part, dst=0)
        return None
    whole = torch.empty(len(rows), width)
    whole[cuts[0]] = part
    for rank, cut in enumerate(cuts[1:], 1):
        if cut.stop > cut.start:
            dist.recv(whole[cut], src=rank)
    return whole


class _Share:
    """A store whose split has only some of its images, but all of its captions."""

    def __init__(self, store: Store, split: str, cut: slice) -> None:
        self.store, self.split = store, split
        self._name = f"{split}[{cut.start}:{cut.stop}]"
        self.rows = store.image_rows(self._name)

    def image_rows(self, split: str) -> npt.NDArray[np.int64]:
        """Return the rows of this rank's images."""
        return self.store.image_rows(self._own(split))

    def image_batches(self, split: str, *args: Any, **options: Any) -> Any:
        """Return batches of this rank's images."""
        return self.store.image_batches(self._own(split), *args, **options)

    def _own(self, split: str) -> str:
        return self._name if split == self.split else split

    def __getattr__(self, name: str) -> Any:
        """Everything else is the store's."""
        return getattr(self.store, name)
