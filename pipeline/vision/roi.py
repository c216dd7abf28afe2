"""RoIAlign in numpy, mean pooling of several feature maps, and a feature map of colours.

RoIAlign averages bilinear samples on a regular grid. Both the grid and bilinear interpolation are
separable, so the average is two small matrix products per map: rows first, then columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

COLOUR_DIM = 16
# Reference colours of the soft palette, RGB: black, grey, white, red, orange, yellow, green, cyan,
# blue, purple. A pixel's membership in each is proportional to exp(-distance^2 / (2 * width^2)).
PALETTE = np.array(
    [
        (20, 20, 20),
        (128, 128, 128),
        (240, 240, 240),
        (205, 45, 45),
        (230, 130, 40),
        (235, 215, 70),
        (70, 150, 70),
        (80, 190, 200),
        (50, 80, 190),
        (140, 60, 150),
    ],
    np.float32,
)
PALETTE_WIDTH = 45.0


class FeatureMap(NamedTuple):
    """A feature map of C channels; neighbouring cells are ``stride`` input pixels apart."""

    values: Float  # (C, H, W)
    stride: float


def roi_align(
    values: Float, boxes: Float, stride: float, *, size: int = 1, sampling: int = 2
) -> Float:
    """Average bilinear samples of a map over the bins of each box. Mask R-CNN, section 3.

    Coordinates as with ``aligned=True``: cell i covers stride * [i, i + 1].

    Args:
        values: (C, H, W).
        boxes: (n, 4) xyxy in input pixels.
        stride: input pixels per map cell.
        size: bins per side.
        sampling: samples per bin and side; 0: one per map cell, ``ceil(side / size)``.

    Returns:
        (n, C, size, size) float32.
    """
    return _pool(values, _sample(boxes, stride, values.shape[1:], size, sampling))


@dataclass(frozen=True)
class _Grid:
    """Sampling weights of boxes on a map, cropped to the cells that any box samples."""

    rows: Float  # (n, size, H'): weights of the map's rows
    columns: Float  # (n, size, W')
    part: tuple[slice, slice]  # the H' rows and W' columns

    @cached_property
    def cells(self) -> Float:
        """Weights of the map's cells for boxes of one bin, (n, H' * W')."""
        table: Float = self.rows[:, 0, :, None] * self.columns[:, 0, None, :]
        return table.reshape(len(table), self.rows.shape[2] * self.columns.shape[2])


def _sample(boxes: Float, stride: float, cells: tuple[int, ...], size: int, sampling: int) -> _Grid:
    """Return the sampling weights of boxes on a map of (H, W) ``cells``."""
    rows, columns = _both_axes(boxes, stride, cells, size, sampling)
    # An image rarely fills the square input: skip the cells of the padding.
    part = _reached(rows), _reached(columns)
    return _Grid(rows[:, :, part[0]], columns[:, :, part[1]], part)


def _reached(weights: Float) -> slice:
    """Return the range of cells with a weight in any bin."""
    used = np.flatnonzero(weights.any((0, 1)))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)


def _both_axes(
    boxes: Float, stride: float, cells: tuple[int, ...], size: int, sampling: int
) -> tuple[Float, Float]:
    """Return the weights of all rows (n, size, H) and columns (n, size, W)."""
    scaled = boxes.astype(np.float64) / stride - 0.5
    if cells[0] == cells[1]:  # one call for both axes takes half the time
        low, high = scaled[:, [1, 0]].T.reshape(-1), scaled[:, [3, 2]].T.reshape(-1)
        both = _weights(low, high, cells[0], size, sampling)
        return both[: len(boxes)], both[len(boxes) :]
    rows = _weights(scaled[:, 1], scaled[:, 3], cells[0], size, sampling)
    return rows, _weights(scaled[:, 0], scaled[:, 2], cells[1], size, sampling)


def _pool(values: Float, grid: _Grid) -> Float:
    """Combine the rows of a map, then its columns: (n, C, size, size)."""
    rows, columns = grid.rows, grid.columns
    values = values[:, grid.part[0], grid.part[1]]
    (channels, height, width), (n, size, _) = values.shape, rows.shape
    if size == 1 and channels > height:  # weights per cell are then smaller than combined rows
        whole: Float = grid.cells @ values.reshape(channels, height * width).T
        return whole.reshape(n, channels, 1, 1)
    by_row = values.transpose(1, 0, 2).reshape(height, channels * width)
    mixed = (rows.reshape(n * size, height) @ by_row).reshape(n, size * channels, width)
    pooled = mixed @ columns.transpose(0, 2, 1)  # (n, size * C, size)
    return np.ascontiguousarray(pooled.reshape(n, size, channels, size).transpose(0, 2, 1, 3))


def _weights(
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    cells: int,
    size: int,
    sampling: int,
) -> Float:
    """Return the weight of each map cell in each bin along one axis, (n, size, cells).

    Samples more than one cell outside the map count as zero; nearer ones take the outermost cell.
    """
    n = len(low)
    step = (high - low) / size
    counts = np.full(n, sampling) if sampling else np.maximum(np.ceil(step), 1).astype(np.int64)
    index = np.arange(int(counts.max(initial=1)))  # samples of a bin, S at most
    used = index < counts[:, None]  # (n, S)
    within = (index + 0.5) / counts[:, None]
    starts = low[:, None] + step[:, None] * np.arange(size)  # (n, size)
    at = starts[:, :, None] + (step[:, None] * within)[:, None, :]  # (n, size, S)
    share = np.where(used[:, None, :] & (at >= -1) & (at <= cells), 1.0, 0.0)
    share /= counts[:, None, None]
    at = np.clip(at, 0, cells - 1)
    left = np.floor(at).astype(np.int64)
    right = np.minimum(left + 1, cells - 1)
    fraction = at - left
    bins = np.arange(n * size).reshape(n, size, 1) * cells
    table = np.bincount((bins + left).ravel(), (share * (1 - fraction)).ravel(), n * size * cells)
    table += np.bincount((bins + right).ravel(), (share * fraction).ravel(), n * size * cells)
    return table.reshape(n, size, cells).astype(np.float32)


def pool_maps(maps: Sequence[FeatureMap], boxes: Float) -> Float:
    """Return the mean of each map over each box, concatenated: (n, sum of channels).

    Every map cell under a box is sampled, so the means of large boxes are exact.
    """
    known: dict[tuple[float, tuple[int, ...]], _Grid] = {}
    pooled = []
    for values, stride in maps:
        key = (stride, values.shape[1:])
        if key not in known:
            known[key] = _sample(boxes, stride, values.shape[1:], 1, 0)
        pooled.append(_pool(values, known[key])[:, :, 0, 0])
    return np.concatenate(pooled, axis=1)


def colour_map(pixels: npt.NDArray[np.uint8]) -> Float:
    """Return a feature map of colours at a quarter of the resolution, (16, H // 4, W // 4).

    Three means in [-1, 1], three standard deviations within 4 x 4 pixels, ten memberships in a soft
    palette.
    """
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    whole = pixels[: height * 4, : width * 4].astype(np.float32)
    mean = _block_sums(whole) / 16  # (3, H * W)
    square = _block_sums(np.square(whole, out=whole)) / 16
    # Squared distances to the palette colours, without the term that all ten share.
    values = np.empty((COLOUR_DIM, height * width), np.float32)
    nearness = np.matmul(PALETTE, mean, out=values[6:])
    nearness -= (PALETTE**2).sum(1, keepdims=True) / 2
    nearness -= nearness.max(0)
    nearness /= PALETTE_WIDTH**2
    np.exp(nearness, out=nearness)
    nearness *= 2 / nearness.sum(0)
    values[:3] = mean / 127.5 - 1
    values[3:6] = np.sqrt(np.maximum(square - mean * mean, 0)) / 32
    return values.reshape(COLOUR_DIM, height, width)


def _block_sums(values: Float) -> Float:
    """Sum blocks of 4 x 4 pixels: (4 H, 4 W, 3) -> (3, H * W); exact, all sums are below 2^24."""
    rows = values[0::4] + values[1::4]
    rows += values[2::4]
    rows += values[3::4]
    # A row holds four pixels of three colours: a matrix product is faster than strided sums.
    sums: Float = np.tile(np.eye(3, dtype=np.float32), 4) @ rows.reshape(-1, 12).T
    return sums
