"""Codes of images and captions: plain or named tuples of tensors whose first axis is the item."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

Code = TypeVar("Code", bound=tuple[Tensor, ...])


def rebuild(code: Code, parts: list[Tensor]) -> Code:
    """Return ``parts`` as a tuple of the same type as ``code``."""
    make: Any = getattr(code, "_make", tuple)
    made: Code = make(parts)
    return made


def pick(code: Code, rows: Tensor | slice) -> Code:
    """Return some items of a code."""
    return rebuild(code, [part[rows] for part in code])


def join(codes: list[Code]) -> Code:
    """Join codes along the first axis; pad their other axes with zeros to the longest."""
    if len(codes) == 1:
        return codes[0]
    return rebuild(codes[0], [_join(list(parts)) for parts in zip(*codes, strict=True)])


def _join(parts: list[Tensor]) -> Tensor:
    shape = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    whole = parts[0].new_zeros(sum(len(part) for part in parts), *shape)
    row = 0
    for part in parts:
        inner = tuple(slice(size) for size in part.shape[1:])
        whole[(slice(row, row + len(part)), *inner)] = part
        row += len(part)
    return whole


def code_bytes(code: tuple[Tensor, ...]) -> int:
    """Return how much memory a code takes."""
    return sum(part.numel() * part.element_size() for part in code)
