"""RoIAlign against hand-computed values and a sample-by-sample definition."""

import numpy as np
import pytest

from pipeline.vision.roi import COLOUR_DIM, FeatureMap, colour_map, pool_maps, roi_align


def bilinear(values, y, x):
    """One sample, as the definition of RoIAlign has it: zero more than a cell outside."""
    height, width = values.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(values.shape[0])
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    top = values[:, y0, x0] * (1 - dx) + values[:, y0, x1] * dx
    low = values[:, y1, x0] * (1 - dx) + values[:, y1, x1] * dx
    return top * (1 - dy) + low * dy


def slow_roi_align(values, box, stride, size, sampling):
    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)
    step_x, step_y = (x2 - x1) / size, (y2 - y1) / size
    nx = sampling or max(1, int(np.ceil(step_x)))
    ny = sampling or max(1, int(np.ceil(step_y)))
    out = np.zeros((values.shape[0], size, size))
    for row in range(size):
        for column in range(size):
            for i in range(ny):
                for j in range(nx):
                    y = y1 + step_y * (row + (i + 0.5) / ny)
                    x = x1 + step_x * (column + (j + 0.5) / nx)
                    out[:, row, column] += bilinear(values, y, x) / (nx * ny)
    return out


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [5, 20])  # fewer and more than the map has rows
def test_equals_the_definition(size, sampling, channels):
    draw = np.random.default_rng(size * 10 + sampling)
    values = draw.normal(size=(channels, 9, 13)).astype(np.float32)
    boxes = np.array(
        [[0, 0, 104, 72], [10, 20, 30, 25], [50, 3, 51, 4], [-30, -30, 20, 20], [90, 60, 160, 120]],
        np.float32,
    )
    found = roi_align(values, boxes, 8, size=size, sampling=sampling)
    assert found.shape == (5, channels, size, size)
    assert found.dtype == np.float32
    for row, box in enumerate(boxes):
        wanted = slow_roi_align(values, box, 8, size, sampling)
        np.testing.assert_allclose(found[row], wanted, atol=1e-5)


def test_by_hand():
    # Cells 0 1 2 3 in a row; the box over the two middle cells averages 1 and 2.
    values = np.arange(4, dtype=np.float32).reshape(1, 1, 4).repeat(4, 1)
    middle = np.array([[8, 8, 24, 24]], np.float32)
    assert roi_align(values, middle, 8, size=1)[0, 0, 0, 0] == 1.5
    np.testing.assert_allclose(roi_align(values, middle, 8, size=2)[0, 0], [[1, 2], [1, 2]])


def test_agrees_with_torchvision_where_it_works():
    try:
        import torch
        from torchvision.ops import roi_align as theirs
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision is not usable: {error}")
    values = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    boxes = np.array([[3, 4, 100, 90], [0, 0, 5, 5]], np.float32)
    wanted = theirs(torch.tensor(values)[None], [torch.tensor(boxes)], 7, 1 / 8, 2, True)
    np.testing.assert_allclose(roi_align(values, boxes, 8, size=7), wanted, atol=1e-5)


def test_cells_without_samples_do_not_matter():
    values = np.random.default_rng(1).normal(size=(4, 30, 40)).astype(np.float32)
    boxes = np.array([[80, 40, 120, 90], [100, 60, 180, 100]], np.float32)
    clean = roi_align(values, boxes, 8, sampling=0)
    values[:, :4], values[:, 14:], values[:, :, :8], values[:, :, 24:] = (np.nan,) * 4
    np.testing.assert_array_equal(roi_align(values, boxes, 8, sampling=0), clean)


def test_boxes_in_one_corner_and_boxes_outside():
    """Only the cells that any box samples are multiplied."""
    values = np.random.default_rng(0).normal(size=(30, 9, 13)).astype(np.float32)
    boxes = np.array([[60, 40, 90, 60], [70, 50, 75, 55]], np.float32)
    for count in (3, 30):
        found = roi_align(values[:count], boxes, 8, size=1, sampling=0)
        for row, box in enumerate(boxes):
            wanted = slow_roi_align(values[:count], box, 8, 1, 0)
            np.testing.assert_allclose(found[row], wanted, atol=1e-5)
        assert not roi_align(values[:count], boxes + 500, 8).any()


def test_colour_sums_are_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    blocks = pixels.astype(np.float64).reshape(3, 4, 5, 4, 3)
    values = colour_map(pixels)
    np.testing.assert_allclose(
        values[:3], blocks.mean((1, 3)).transpose(2, 0, 1) / 127.5 - 1, atol=1e-6
    )
    deviations = blocks.std((1, 3)).transpose(2, 0, 1) / 32
    np.testing.assert_allclose(values[3:6], deviations, atol=1e-5)


def test_no_boxes():
    maps = [
        FeatureMap(np.ones((3, 4, 4), np.float32), 8),
        FeatureMap(np.ones((2, 2, 2), np.float32), 16),
    ]
    assert pool_maps(maps, np.zeros((0, 4), np.float32)).shape == (0, 5)


def test_maps_are_concatenated():
    maps = [
        FeatureMap(np.full((3, 4, 4), 2, np.float32), 8),
        FeatureMap(np.full((2, 2, 2), 5, np.float32), 16),
    ]
    pooled = pool_maps(maps, np.array([[0, 0, 32, 32], [4, 4, 6, 6]], np.float32))
    np.testing.assert_allclose(pooled, [[2, 2, 2, 5, 5]] * 2, rtol=1e-6)


def test_colours_are_distinguished():
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (205, 45, 45), (50, 80, 190)
    values = colour_map(pixels)
    assert values.shape == (COLOUR_DIM, 8, 16)
    red, blue = values[:, 4, 2], values[:, 4, 12]
    np.testing.assert_allclose(red[:3], np.array([205, 45, 45]) / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(red[3:6], 0, atol=1e-6)  # flat colour: no deviation
    assert red[6:].argmax() == 3
    assert blue[6:].argmax() == 8
    np.testing.assert_allclose(values[6:].sum(0), 2, rtol=1e-5)
