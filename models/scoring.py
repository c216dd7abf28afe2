"""The similarity of every image to every caption of a split, in tiles that fit a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.registry import MatchingModel

__all__ = ["cat_codes", "code_bytes", "pick", "reference", "score_all", "score_tiles"]

Code = TypeVar("Code", bound=tuple[Tensor, ...])

BUDGET = 2 * 2**30  # bytes


def pick(code: Code, rows: Tensor | slice) -> Code:
    """Return the rows of a code along its first axis."""
    return _remade(code, [part[rows] for part in code])


def _remade(code: Code, parts: list[Tensor]) -> Code:
    """Return the parts as what the code is: a named or a plain tuple."""
    make: Any = getattr(code, "_make", tuple)
    made: Code = make(parts)
    return made


def cat_codes(codes: list[Code]) -> Code:
    """Join codes along the first axis, padding their other axes with zeros to the longest."""
    if len(codes) == 1:
        return codes[0]
    return _remade(codes[0], [_cat(list(parts)) for parts in zip(*codes, strict=True)])


def _cat(parts: list[Tensor]) -> Tensor:
    shape = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    whole = parts[0].new_zeros(sum(len(part) for part in parts), *shape)
    row = 0
    for part in parts:
        inner = tuple(slice(size) for size in part.shape[1:])
        whole[(slice(row, row + len(part)), *inner)] = part
        row += len(part)
    return whole


def code_bytes(code: tuple[Tensor, ...]) -> int:
    """Return how much memory a code holds."""
    return sum(part.numel() * part.element_size() for part in code)


def score_tiles(
    score: Callable[[Any, Any], Tensor],
    images: tuple[Tensor, ...],
    captions: tuple[Tensor, ...],
    *,
    image_tile: int,
    caption_tile: int,
) -> Tensor:
    """Fill the score matrix tile by tile; the same values with a bounded working set.

    Args:
        score: (image code, caption code) -> (n_images, n_captions).
        images, captions: codes.
        image_tile, caption_tile: rows of each that one call of ``score`` sees.
    """
    rows = [
        torch.cat(
            [
                score(pick(images, slice(i, i + image_tile)), pick(captions, slice(j, j + step)))
                for step in (caption_tile,)
                for j in range(0, len(captions[0]), step)
            ],
            dim=1,
        )
        for i in range(0, len(images[0]), image_tile)
    ]
    return torch.cat(rows, dim=0)


def reference(
    model: MatchingModel, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]
) -> Tensor:
    """Score with one Python step per caption and the model's plain definition.

    Slow on purpose: what tests compare ``score`` with and benchmarks measure it against.

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
    device: torch.device | str | None = None,
    budget: int = BUDGET,
    batch_size: int = 128,
) -> Tensor:
    """Score every image of a split against every caption of it.

    Image codes stay in memory as far as half the budget goes; captions stream past them, one
    encoded batch at a time. When the images do not fit, they are taken in several groups and the
    captions are encoded once per group.

    Args:
        model: the model; put in evaluation mode for the time of the call.
        store: an open store.
        split: name of the split.
        codebook: the codebook the model was trained with; None: the store's default one.
        device: where to compute; None: where the model is.
        budget: bytes that codes and tiles may hold besides the model and the result.
        batch_size: images or captions encoded at a time.

    Returns:
        (n_images, n_captions) float32 on the CPU, rows and columns in store order.
    """
    if codebook is None:
        codebook = store.codebook
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _score_groups(
                model,
                lambda: store.image_batches(split, batch_size, codebook),
                lambda: store.caption_batches(split, batch_size, codebook),
                torch.device(device),
                budget,
            )
    finally:
        model.train(training)


def _score_groups(
    model: MatchingModel,
    image_batches: Callable[[], Iterable[Any]],
    caption_batches: Callable[[], Iterable[Any]],
    device: torch.device,
    budget: int,
) -> Tensor:
    """Score image groups of at most half the budget against the stream of captions."""
    bands: list[Tensor] = []
    group: list[tuple[Tensor, ...]] = []
    held = 0
    for batch in image_batches():
        code = model.encode_images(batch.to(device))
        if group and held + code_bytes(code) > budget // 2:
            bands.append(_band(model, cat_codes(group), caption_batches, device, budget))
            group, held = [], 0
        group.append(code)
        held += code_bytes(code)
    if group:
        bands.append(_band(model, cat_codes(group), caption_batches, device, budget))
    return torch.cat(bands, dim=0) if bands else torch.zeros(0, 0)


def _band(
    model: MatchingModel,
    images: tuple[Tensor, ...],
    caption_batches: Callable[[], Iterable[Any]],
    device: torch.device,
    budget: int,
) -> Tensor:
    """Return the (n_images, n_captions) rows of one image group."""
    n_images = len(images[0])
    per_image = max(1, code_bytes(images) // n_images)
    columns: list[Tensor] = []
    for batch in caption_batches():
        captions = model.encode_captions(batch.to(device))
        tile = int(max(1, min(n_images, budget // 8 // per_image)))
        scores = score_tiles(
            model.score, images, captions, image_tile=tile, caption_tile=len(captions[0])
        )
        columns.append(scores.float().cpu())
    return torch.cat(columns, dim=1) if columns else torch.zeros(n_images, 0)
