"""Box arithmetic, compared with hand-computed cases and a double loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.vision.boxes import areas, clip_boxes, intersections, iou_matrix, nms


def boxes_of(rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def test_hand_computed_overlap():
    a = boxes_of([[0, 0, 4, 4], [10, 10, 12, 14]])
    b = boxes_of([[2, 2, 6, 6], [0, 0, 4, 4], [4, 0, 8, 4]])
    np.testing.assert_array_equal(areas(a), [16, 8])
    np.testing.assert_array_equal(intersections(a, b), [[4, 16, 0], [0, 0, 0]])
    np.testing.assert_allclose(iou_matrix(a, b), [[4 / 28, 1, 0], [0, 0, 0]])


def test_empty_boxes_overlap_nothing():
    empty = boxes_of([[3, 3, 3, 3]])
    assert iou_matrix(empty, empty)[0, 0] == 0
    assert iou_matrix(boxes_of([]), empty).shape == (0, 1)


def test_clip():
    np.testing.assert_array_equal(
        clip_boxes(boxes_of([[-5, 2, 30, 40]]), (20, 10)), [[0, 2, 20, 10]]
    )


def test_nms_by_hand():
    # 1 overlaps 0 by 2/3, 2 overlaps nothing, 3 repeats 0 in another class.
    boxes = boxes_of([[0, 0, 10, 10], [0, 0, 10, 15], [20, 20, 30, 30], [0, 0, 10, 10]])
    scores = np.array([0.9, 0.8, 0.3, 0.7], np.float32)
    classes = np.array([1, 1, 1, 2])
    assert nms(boxes, scores, 0.6).tolist() == [0, 2]
    assert nms(boxes, scores, 0.6, classes=classes).tolist() == [0, 3, 2]
    assert nms(boxes, scores, 0.7).tolist() == [0, 1, 2]
    assert nms(boxes, scores, 0.6, classes=classes, limit=2).tolist() == [0, 3]
    assert nms(boxes_of([]), np.zeros(0, np.float32), 0.5).tolist() == []


def test_nms_keeps_at_exactly_the_threshold_and_orders_ties_by_row():
    boxes = boxes_of([[0, 0, 10, 10], [0, 0, 10, 5], [50, 0, 60, 10]])
    scores = np.full(3, 0.5, np.float32)
    assert nms(boxes, scores, 0.5).tolist() == [0, 1, 2]


def slow_nms(boxes, scores, threshold, classes):
    rows = sorted(range(len(boxes)), key=lambda row: -scores[row])
    kept = []
    for row in rows:
        overlaps = [
            iou_matrix(boxes[[row]], boxes[[k]])[0, 0] for k in kept if classes[k] == classes[row]
        ]
        if all(value <= threshold for value in overlaps):
            kept.append(row)
    return kept


@given(st.integers(0, 2**32 - 1))
def test_nms_equals_the_definition(seed):
    draw = np.random.default_rng(seed)
    corner = draw.integers(0, 20, (12, 2))
    boxes = np.concatenate([corner, corner + draw.integers(1, 15, (12, 2))], 1).astype(np.float32)
    scores = draw.permutation(12).astype(np.float32)
    classes = draw.integers(0, 2, 12)
    found = nms(boxes, scores, 0.4, classes=classes)
    assert found.tolist() == slow_nms(boxes, scores, 0.4, classes)


def test_nms_of_many_classes_equals_the_definition():
    """Some classes have a matrix of their own, others share one; some scores are equal."""
    draw = np.random.default_rng(1)
    corner = draw.integers(0, 60, (400, 2))
    boxes = np.concatenate([corner, corner + draw.integers(5, 30, (400, 2))], 1).astype(np.float32)
    scores = draw.integers(1, 40, 400).astype(np.float32) / 40
    classes = np.where(draw.random(400) < 0.4, 7, draw.integers(0, 25, 400))
    found = nms(boxes, scores, 0.4, classes=classes)
    assert 100 < len(found) < 400
    assert found.tolist() == slow_nms(boxes, scores, 0.4, classes)
    assert nms(boxes, scores, 0.4, classes=classes, limit=9).tolist() == found[:9].tolist()


@pytest.mark.parametrize("shift", [0, 3])
def test_iou_is_symmetric(shift):
    a = boxes_of([[0, 0, 4, 5], [1, 1, 9, 3]])
    b = a + shift
    np.testing.assert_array_equal(iou_matrix(a, b), iou_matrix(b, a).T)


@pytest.mark.parametrize("count", [0, 1, 40, 400])
def test_classes_in_batches_as_one_by_one(count):
    draw = np.random.default_rng(count)
    corners = draw.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(5, 60, (count, 2))], 1).astype("f4")
    scores = draw.integers(0, 50, count).astype(np.float32) / 50  # with ties
    classes = (draw.uniform(0, 1, count) ** 3 * 30).astype(np.int64)
    overlaps = iou_matrix(boxes, boxes)
    stay: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        rivals = [other for other in stay if classes[other] == classes[row]]
        if (overlaps[row, rivals] <= 0.5).all():
            stay.append(int(row))
    assert nms(boxes, scores, 0.5, classes=classes).tolist() == stay
    assert nms(boxes, scores, 0.5, classes=classes, limit=7).tolist() == stay[:7]
