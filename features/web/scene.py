"""What the page of an image shows: its graph and its parsed captions, ready to draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from features.drawing import arcs_svg, covers_image, with_kinds
from features.errors import UnknownName
from features.inline import safe
from features.reading import scene_graph, text_graph
from features.records import SceneGraph, TextGraph
from features.web.grounding import Light, object_boxes, triplet_boxes
from features.web.shelf import Site

__all__ = ["Picture", "Said", "picture", "said", "shades"]

SHADES = 8  # colours of boxes in the style sheet
DOUBTFUL = 0.25  # without a calibrated score, objects below this share of the best are hidden
TAG = 0.6  # width of a character of a tag, in font sizes
PHONE = 1.6  # by which the style sheet enlarges tags on narrow screens: room is kept for that


@dataclass(frozen=True)
class Thing:
    """A detected object.

    Attributes:
        row: of the object.   name: its label, numbered if several objects share it.
        score: of the detector.   attributes: with probabilities where known.
        x, y, width, height: the box in pixels.   shade: number of its colour.
        tag: x, y and width of the rectangle with its name.
        whole: whether the box is the whole image.
    """

    row: int
    name: str
    score: float
    attributes: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float
    shade: int
    tag: tuple[float, float, float]
    whole: bool


@dataclass(frozen=True)
class Link:
    """A visual relation: its ends, the union box and the curve between the ends.

    Attributes:
        row: of the relation.   subject, object: what they link.   union: x, y, width, height.
        path: of the arrow.   tag: x, y and width of the rectangle with the predicate.
    """

    row: int
    subject: Thing
    predicate: str
    object: Thing
    score: float
    union: tuple[float, float, float, float]
    path: str
    tag: tuple[float, float, float]


@dataclass(frozen=True)
class Picture:
    """The graph of an image.

    Attributes:
        width, height: of the image in pixels.   font: size of the tags in pixels of the image.
        things: objects, best first.   links: relations, best first.
        shown, links_shown: scores from which they are shown at first.
    """

    width: int
    height: int
    font: float
    things: Sequence[Thing]
    links: Sequence[Link]
    shown: float
    links_shown: float


@dataclass(frozen=True)
class Triplet:
    """A triplet of a caption and the boxes that it may mean."""

    subject: str
    predicate: str
    object: str
    light: Light


@dataclass(frozen=True)
class Said:
    """A caption: its text, parse and triplets.

    Attributes:
        id: of the caption.   text: as written.   arcs: the parse as SVG, "" if there is none.
        triplets: of the caption.   attributes: (object, attribute).
        lights: for each attribute, the boxes of its object.
        others: the objects without triplet and attribute, with their boxes.
        problem: of the parser.
    """

    id: str
    text: str
    arcs: str = ""
    triplets: Sequence[Triplet] = ()
    attributes: Sequence[tuple[str, str]] = ()
    lights: Sequence[tuple[int, ...]] = ()
    others: Sequence[tuple[str, tuple[int, ...]]] = ()
    problem: str = ""


def shades(labels: Sequence[str]) -> dict[str, int]:
    """Return the number of each label's colour; the first labels of an image have their own.

    >>> shades(["dog", "ball", "dog"])
    {'dog': 0, 'ball': 1}
    """
    return {label: at % SHADES for at, label in enumerate(dict.fromkeys(labels))}


def graph_of(site: Site, row: int) -> SceneGraph | None:
    """Return the scene graph of an image row; None if the store has none for it."""
    if not site.store.has("labels") or not site.store.usable[row]:
        return None
    return with_kinds(scene_graph(site.store, row, site.image_id(row)))


def picture(graph: SceneGraph) -> Picture:
    """Prepare a graph for drawing."""
    width, height = (max(side, 1) for side in graph.size)
    font = max(width / 58, height / 48)
    numbers = Counter[str]()
    taken: list[tuple[float, float, float]] = []
    things, colours = [], shades(graph.labels)
    for row, label in enumerate(graph.labels):
        numbers[label] += 1
        name = f"{label} {numbers[label]}" if numbers[label] > 1 else label
        x1, y1, x2, y2 = (float(v) for v in graph.boxes[row])
        tag = _free_tag(name, (x1, y1, x2, y2), font, (width, height), taken)
        attributes = tuple(graph.attributes[row]) if graph.attributes else ()
        things.append(
            Thing(
                row,
                name,
                float(graph.scores[row]),
                attributes,
                x1,
                y1,
                max(x2 - x1, 0.0),
                max(y2 - y1, 0.0),
                colours[label],
                tag,
                covers_image(graph, row),
            )
        )
    words: list[tuple[float, float, float]] = []
    links = [_link(graph, row, things, font, words) for row in range(len(graph.relations))]
    shown = graph.shown or DOUBTFUL * max(map(float, graph.scores), default=0.0)
    return Picture(
        width,
        height,
        font,
        things,
        links,
        math.floor(100 * shown) / 100,
        math.floor(100 * graph.relations_shown) / 100,
    )


def _link(
    graph: SceneGraph,
    row: int,
    things: Sequence[Thing],
    font: float,
    taken: list[tuple[float, float, float]],
) -> Link:
    s, predicate, o = graph.relations[row]
    subject, target = things[s], things[o]
    ax, ay = subject.x + subject.width / 2, subject.y + subject.height / 2
    bx, by = _far_end(target, (ax, ay), 5 * font)
    long = math.hypot(bx - ax, by - ay) or 1.0
    bend = max(0.14 * long, 0.8 * font)
    cx = (ax + bx) / 2 - (by - ay) / long * bend
    cy = (ay + by) / 2 + (bx - ax) / long * bend
    points = [
        (
            (1 - t) ** 2 * ax + 2 * t * (1 - t) * cx + t**2 * bx,
            (1 - t) ** 2 * ay + 2 * t * (1 - t) * cy + t**2 * by,
        )
        for t in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)
    ]
    points += [(x, y + side * 1.5 * font) for x, y in points[:5] for side in (-1, 1)]
    places = [_tag(predicate, *point, font, graph.size, centred=True) for point in points]
    x1, y1, x2, y2 = (float(v) for v in graph.union_boxes[row])
    return Link(
        row,
        subject,
        predicate,
        target,
        float(graph.relation_scores[row]),
        (x1, y1, max(x2 - x1, 0.0), max(y2 - y1, 0.0)),
        f"M{ax:.1f} {ay:.1f}Q{cx:.1f} {cy:.1f} {bx:.1f} {by:.1f}",
        _free(places, font, taken),
    )


def _far_end(thing: Thing, start: tuple[float, float], near: float) -> tuple[float, float]:
    """Return the middle of a box, or a quarter point of it if the middle is near the start."""
    points = [
        (thing.x + x * thing.width, thing.y + y * thing.height)
        for x, y in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
    ]
    if math.dist(points[0], start) >= near:
        return points[0]
    return max(points, key=lambda point: math.dist(point, start))


def _tag(
    text: str, x: float, y: float, font: float, size: tuple[int, int], *, centred: bool
) -> tuple[float, float, float]:
    """Return x, y and width of the rectangle behind a word, inside the image."""
    wide, high = (TAG * len(text) + 0.7) * font, 1.4 * font
    left = x - wide / 2 if centred else x
    left = min(max(left, 0.0), max(size[0] - PHONE * wide, 0.0))
    top = min(max(y - high / 2, 0.0), max(size[1] - PHONE * high, 0.0))
    return left, top, wide


def _free_tag(
    name: str,
    box: tuple[float, float, float, float],
    font: float,
    size: tuple[int, int],
    taken: list[tuple[float, float, float]],
) -> tuple[float, float, float]:
    """Return the rectangle of a name at the top left of its box, apart from those in ``taken``.

    Names are placed best first: the boxes of a low score, which are hidden at first, give way.
    """
    x1, y1, x2, y2 = box
    high = 1.4 * font
    starts = [y1 - high / 2, *(y1 + high * (PHONE * n + 1.1) for n in range(5)), y2 + high / 2]
    places = [_tag(name, x1, y, font, size, centred=False) for y in starts]
    wide = places[0][2]
    places += [_tag(name, x2 - wide, y, font, size, centred=False) for y in starts]

    return _free(places, font, taken)


def _free(
    places: Sequence[tuple[float, float, float]],
    font: float,
    taken: list[tuple[float, float, float]],
) -> tuple[float, float, float]:
    """Return the first rectangle that touches none in ``taken``, else the first; and take it."""

    def free(place: tuple[float, float, float]) -> bool:
        x, y, width = place
        return not any(
            x < left + PHONE * long
            and left < x + PHONE * width
            and abs(y - top) < PHONE * 1.4 * font
            for left, top, long in taken
        )

    chosen = next(filter(free, places), places[0])
    taken.append(chosen)
    return chosen


def said(site: Site, row: int, graph: SceneGraph | None) -> list[Said]:
    """Return the captions of an image row, with the boxes of a graph that they may mean."""
    index = site.store.group("index")
    return [_said(site, at, index.text("caption_id")[at], graph) for at in site.caption_rows(row)]


def _said(site: Site, row: int, name: str, graph: SceneGraph | None) -> Said:
    text = site.caption(row)
    if not site.store.has("form"):
        return Said(name, text)
    parsed = text_graph(site.store, row)
    boxes: list[tuple[int, ...]] = [() for _ in parsed.objects]
    lights = [Light() for _ in parsed.relations]
    if graph is not None:
        boxes = [object_boxes(graph, parsed, at) for at in range(len(parsed.objects))]
        lights = [triplet_boxes(graph, parsed, at) for at in range(len(parsed.relations))]
    linked = {end for s, _, o in parsed.relations for end in (s, o)} | {*parsed.attribute_objects}
    return Said(
        name,
        text,
        arcs_svg(parsed, _marks(parsed, boxes)) if parsed.tokens else "",
        [Triplet(*names, light) for names, light in zip(parsed.triplets, lights, strict=True)],
        parsed.attributes,
        [boxes[at] for at in parsed.attribute_objects],
        [(parsed.objects[at], boxes[at]) for at in range(len(parsed.objects)) if at not in linked],
        parsed.problem,
    )


def _marks(parsed: TextGraph, boxes: Sequence[tuple[int, ...]]) -> list[str]:
    """Return the attributes of each word's group: what names boxes lights them."""
    marks = [""] * len(parsed.tokens)
    for row, places in enumerate(parsed.object_positions):
        for at in places if boxes[row] else ():
            marks[at] = (
                f'tabindex="0" role="button" aria-pressed="false" '
                f'aria-label="{safe(parsed.tokens[at])}" data-boxes="{_joined(boxes[row])}"'
            )
    return marks


def _joined(rows: Sequence[int]) -> str:
    return " ".join(map(str, rows))


def same_image(site: Site, row: int, other: Site) -> int | None:
    """Return the row of an image in another store, None if it has no image of this id."""
    try:
        return int(other.store.rows([site.image_id(row)])[0])
    except UnknownName:
        return None


def only_here(ours: Sequence[Said], theirs: Sequence[Said]) -> set[tuple[str, int]]:
    """Return (caption id, number) of the triplets that the other parse of a caption lacks."""
    known = {one.id: {(t.subject, t.predicate, t.object) for t in one.triplets} for one in theirs}
    return {
        (one.id, at)
        for one in ours
        if one.id in known
        for at, t in enumerate(one.triplets)
        if (t.subject, t.predicate, t.object) not in known[one.id]
    }
