"""The similarity of every image to every caption of a split, within a memory budget.

The models' ``score`` cuts its own tiles (``models.nn.tiling``); here codes are encoded, grouped and
streamed, and the definition is kept as a plain loop for tests and benchmarks (``reference``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from models.registry import MatchingModel, reads_unions

__all__ = ["Precision", "cat_codes", "code_bytes", "computing", "pick", "reference", "score_all"]

Code = TypeVar("Code", bound=tuple[Tensor, ...])

Precision = Literal["float32", "tf32", "bf16"]

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
    precision: Precision = "float32",
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
        budget: bytes that codes may hold besides the model, one tile and the result.
        batch_size: images or captions encoded at a time.
        precision: ``float32``; ``tf32`` (CUDA) and ``bf16`` are faster and less exact: bf16
            moved scores of the models at hand by 5e-4 (VSE) to 5e-3 (CFSGR).

    Returns:
        (n_images, n_captions) float32 on the CPU, rows and columns in store order.
    """
    if codebook is None:
        codebook = store.codebook
    if device is None:
        device = next((part.device for part in model.state_dict().values()), "cpu")
    device = torch.device(device)
    scores = torch.empty(len(store.image_rows(split)), len(store.caption_rows(split)))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), computing(precision, device):
            row = 0
            batches = store.image_batches(split, batch_size, codebook, unions=reads_unions(model))
            for images in _groups(model, batches, device, budget):
                band = scores[row : row + len(images[0])]
                row += len(band)
                column = 0
                for batch in store.caption_batches(split, batch_size, codebook):
                    captions = model.encode_captions(batch.to(device))
                    width = len(captions[0])
                    band[:, column : column + width] = model.score(images, captions).float().cpu()
                    column += width
    finally:
        model.train(training)
    return scores


def _groups(
    model: MatchingModel, batches: Iterable[Any], device: torch.device, budget: int
) -> Iterator[tuple[Tensor, ...]]:
    """Encode images and yield their codes in groups of at most half the budget.

    The other half is what joining a group's codes needs for a moment.
    """
    group: list[tuple[Tensor, ...]] = []
    held = 0
    for batch in batches:
        code = model.encode_images(batch.to(device))
        if group and held + code_bytes(code) > budget // 2:
            yield cat_codes(group)
            group, held = [], 0
        group.append(code)
        held += code_bytes(code)
    if group:
        yield cat_codes(group)


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute matrix products in a lower precision for a while."""
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
