"""Scores of all images and captions of a split, within a memory budget and on several ranks.

The ``score`` of each model cuts its own tiles (``models.nn.tiling``). Here codes are encoded,
grouped and streamed. ``reference`` is the same computation as a plain loop over captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.compute import code_bytes, join, pick
from models.registry import MatchingModel, reads_unions

if TYPE_CHECKING:
    from features.store import Store
    from features.vocab import Codebook
    from models.compute import World

Precision = Literal["float32", "tf32", "bf16"]

BUDGET = 2 * 2**30  # bytes


def reference(
    model: MatchingModel, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]
) -> Tensor:
    """Score with one Python step per caption and the model's ``plain_score``.

    It is slow: tests compare ``score`` with it, and benchmarks measure the difference in speed.

    Returns:
        (n_images, n_captions).
    """
    columns = [
        model.plain_score(images, pick(captions, slice(j, j + 1))) for j in range(len(captions[0]))
    ]
    return torch.cat(columns, dim=1)


def score_all(
    model: Any,
    store: Any,
    split: str,
    codebook: Any = None,
    *,
    images: str | None = None,
    device: torch.device | str | None = None,
    budget: int = BUDGET,
    batch_size: int = 128,
    precision: Precision = "float32",
) -> Tensor:
    """Score every image of a split against every caption of it.

    Image codes are kept in memory up to half the budget; captions are encoded batch by batch and
    scored against them. If the images do not fit, they are processed in several groups and the
    captions are encoded once per group.

    Args:
        model: the model; it is in evaluation mode during the call.
        store: an open store.
        split: name of the split.
        codebook: the codebook the model was trained with; None: the store's default one.
        images: score only these images, a part of the split such as ``test[:500]``.
        device: where to compute; None: where the model is.
        budget: bytes for codes, besides the model, one tile and the result.
        batch_size: images or captions encoded at a time.
        precision: ``float32``; ``tf32`` (CUDA) and ``bf16`` are faster and less exact: bf16
            changed scores by 5e-4 (VSE) to 5e-3 (CFSGR).

    Returns:
        (n_images, n_captions) float32 on the CPU, rows and columns in store order.
    """
    if codebook is None:
        codebook = store.codebook
    if device is None:
        device = next((part.device for part in model.state_dict().values()), "cpu")
    device = torch.device(device)
    images = images or split
    scores = torch.empty(len(store.image_rows(images)), len(store.caption_rows(split)))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), computing(precision, device):
            row = 0
            batches = store.image_batches(images, batch_size, codebook, unions=reads_unions(model))
            for group in _groups(model, batches, device, budget):
                band = scores[row : row + len(group[0])]
                row += len(band)
                column = 0
                for batch in store.caption_batches(split, batch_size, codebook):
                    captions = model.encode_captions(batch.to(device))
                    width = len(captions[0])
                    band[:, column : column + width] = model.score(group, captions).float().cpu()
                    column += width
    finally:
        model.train(training)
    return scores


def _groups(
    model: MatchingModel, batches: Iterable[Any], device: torch.device, budget: int
) -> Iterator[tuple[Tensor, ...]]:
    """Encode images and yield their codes in groups of at most half the budget.

    Joining the codes of a group needs the other half for a moment.
    """
    group: list[tuple[Tensor, ...]] = []
    held = 0
    for batch in batches:
        code = model.encode_images(batch.to(device))
        if group and held + code_bytes(code) > budget // 2:
            yield join(group)
            group, held = [], 0
        group.append(code)
        held += code_bytes(code)
    if group:
        yield join(group)


def score_split(
    model: nn.Module,
    store: Store,
    split: str,
    codebook: Codebook | None,
    world: World,
    **options: Any,
) -> Tensor | None:
    """Score a split as ``score_all`` does, with the images divided among the ranks.

    Args:
        model: the same weights on every rank; its buffers are replaced by those of the first.
        store, split, codebook: see ``score_all``.   world: this process among the ranks.
        options: of ``score_all``.

    Returns:
        (n_images, n_captions) float32 on the first rank's CPU; None on the others.
    """
    if world.size == 1:
        return score_all(model, store, split, codebook, **options)
    for buffer in model.buffers():  # each rank has its own running statistics in training
        dist.broadcast(buffer, src=0)
    count, width = len(store.image_rows(split)), len(store.caption_rows(split))
    cuts = shares(count, world.size)
    own = cuts[world.rank]
    part = torch.empty(0, width)
    if own.stop > own.start:
        images = f"{split}[{own.start}:{own.stop}]"
        part = score_all(model, store, split, codebook, images=images, **options)
    if not world.first:
        if len(part):
            dist.send(part, dst=0)
        return None
    whole = torch.empty(count, width)
    whole[own] = part
    for rank, cut in enumerate(cuts[1:], 1):
        if cut.stop > cut.start:
            dist.recv(whole[cut], src=rank)
    return whole


def shares(count: int, ranks: int) -> list[slice]:
    """Divide ``count`` rows among ranks: consecutive rows, sizes that differ by at most one.

    >>> shares(5, 3)
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    ends = [count * rank // ranks for rank in range(ranks + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute matrix products in the given precision inside a ``with`` block."""
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # of recurrent layers
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
