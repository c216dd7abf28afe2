"""Choose what a drawing of a scene graph shows.

A graph of 36 objects and 25 relations is unreadable when drawn in full. So the best relations are
drawn with their objects, then the objects with the highest scores, up to a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.drawing.lettering import shared_area
from features.records import Detections, SceneGraph

DOUBTFUL = 0.25  # objects below this share of the best score are not drawn
WHOLE = 0.98  # of the image's area: such a box does not say where something is
CROWDED = 0.5  # two boxes with a larger IoU are indistinguishable in a drawing


@dataclass(frozen=True, slots=True)
class Strongest:
    """The rows of a graph that a drawing shows.

    Attributes:
        objects: whose boxes are drawn.   relations: that are drawn.
        everywhere: objects of the whole image, such as *grass*, best first: they are named, as
            their box says nothing. One for each label.
    """

    objects: tuple[int, ...]
    relations: tuple[int, ...]
    everywhere: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """What one or several relations of an image say: ``person - in front of - dog``.

    Attributes:
        subject, predicate, object: its words.
        count: relations of the image that say so.
        score: the best of their scores; 1 if the graph has none.
        row: of the best one.
    """

    subject: str
    predicate: str
    object: str
    count: int
    score: float
    row: int

    @property
    def times(self) -> str:
        """``8 × `` for a repeated relation, else nothing."""
        return f"{self.count} \N{MULTIPLICATION SIGN} " if self.count > 1 else ""


def facts(graph: SceneGraph | Detections) -> list[Fact]:
    """Merge the relations with the same words, in order of their best one.

    Relations below the graph's ``relations_shown`` and those of objects that a drawing leaves out
    for their score do not count.
    """
    least = _least(graph)
    found: dict[tuple[str, str, str], Fact] = {}
    for row, (subject, _, target) in enumerate(graph.relations or ()):
        score = _score(graph, row)
        ends = min(float(graph.scores[subject]), float(graph.scores[target]))
        if score < graph.relations_shown or ends < least:
            continue
        words = _words(graph, row)
        if (known := found.get(words)) is None:
            found[words] = Fact(*words, 1, score, row)
        else:
            found[words] = Fact(*words, known.count + 1, max(known.score, score), known.row)
    return list(found.values())


def strongest(
    graph: SceneGraph | Detections, max_objects: int = 12, max_relations: int = 8
) -> Strongest:
    """Choose the objects and relations to draw.

    Relations are taken in order, one per pair of objects and one of those with the same words,
    while their objects are within the limit; then the best objects fill it up. Objects and
    relations with a low score (below the graph's ``shown``, or far below the best) and boxes that
    nearly coincide with a drawn one are left out, and a box that covers the image is drawn only
    for a relation; what it shows is named otherwise.
    """
    objects: list[int] = []
    relations: list[int] = []
    said: set[tuple[str, str, str]] = set()
    least = _least(graph)

    def unfit(row: int) -> bool:
        """Return True for a low score or a box that nearly coincides with a drawn one."""
        if graph.scores[row] < least:
            return True
        return any(_iou(graph.boxes[row], graph.boxes[other]) > CROWDED for other in objects)

    for at, (subject, _, target) in enumerate(graph.relations or ()):
        ends = list(dict.fromkeys((subject, target)))
        new = [row for row in ends if row not in objects]
        full = len(relations) >= max_relations or len(objects) + len(new) > max_objects
        drawn = any({subject, target} == {s, o} for s, _, o in at_rows(graph, relations))
        doubtful = _score(graph, at) < graph.relations_shown
        words = _words(graph, at)
        if not (full or drawn or doubtful or words in said or any(unfit(row) for row in new)):
            objects += new
            relations.append(at)
            said.add(words)
    everywhere: dict[str, int] = {}
    for row in map(int, np.argsort(-np.asarray(graph.scores), kind="stable")):
        if row in objects:
            continue
        if covers_image(graph, row):
            if graph.scores[row] >= least and graph.scores[row] > 0:
                everywhere.setdefault(graph.labels[row], row)
        elif len(objects) < max_objects and not unfit(row):
            objects.append(row)
    drawn_labels = {graph.labels[row] for row in objects}
    named = tuple(row for label, row in everywhere.items() if label not in drawn_labels)
    return Strongest(tuple(objects), tuple(relations), named)


def covers_image(graph: SceneGraph | Detections, row: int) -> bool:
    """Return whether the box of an object is the whole image."""
    x1, y1, x2, y2 = map(float, graph.boxes[row])
    return (x2 - x1) * (y2 - y1) >= WHOLE * max(graph.size[0] * graph.size[1], 1)


def whole_image(graph: SceneGraph | Detections, chosen: Strongest) -> str:
    """Return what is in the whole image as a line, "" if nothing is.

    >>> # 'in the whole image: grass 0.81, water 0.60'
    """
    scored = len(graph.scores) > 0 and float(np.min(graph.scores)) < 1
    names = [
        f"{graph.labels[row]} {float(graph.scores[row]):.2f}" if scored else graph.labels[row]
        for row in chosen.everywhere
    ]
    return f"in the whole image: {', '.join(names)}" if names else ""


def at_rows(graph: SceneGraph | Detections, rows: Sequence[int]) -> list[tuple[int, str, int]]:
    """Return some relations of a graph."""
    return [(graph.relations or ())[row] for row in rows]


def numbered(graph: SceneGraph | Detections, row: int, drawn: Sequence[int]) -> str:
    """Return the label of an object, numbered if several drawn objects share it."""
    label = graph.labels[row]
    same = sorted(other for other in drawn if graph.labels[other] == label)
    return label if len(same) == 1 else f"{label} {same.index(row) + 1}"


def _least(graph: SceneGraph | Detections) -> float:
    """Return the score from which objects are drawn."""
    return graph.shown or DOUBTFUL * max(map(float, graph.scores), default=0.0)


def _score(graph: SceneGraph | Detections, row: int) -> float:
    return 1.0 if graph.relation_scores is None else float(graph.relation_scores[row])


def _words(graph: SceneGraph | Detections, row: int) -> tuple[str, str, str]:
    subject, predicate, target = (graph.relations or ())[row]
    return graph.labels[subject], predicate, graph.labels[target]


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    shared = shared_area(tuple(map(float, a)), tuple(map(float, b)))
    area = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    return shared / (area - shared) if area > shared else 0.0
