"""Plans of the demo's scenes: labels, colours, sizes, and positions of objects.

A scene is planned before it is drawn. Labels come from a few fixed combinations, so many scenes
have the same labels and differ only in colours, sizes, relations and ground, which a detector's
labels do not show. Every relation of a plan is true of its boxes (``holds``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pipeline.demo.dataset import read_tables

Box = tuple[float, float, float, float]

_TABLES = read_tables("world.json")
COLOURS: dict[str, tuple[int, int, int]] = {
    name: (red, green, blue) for name, (red, green, blue) in _TABLES["colours"].items()
}
RELATIONS = ("on", "in", "under", "next to", "in front of", "behind", "above")
SETTINGS = ("grass", "sand", "snow", "water", "floor")
SMALL = 0.6  # size of a small object relative to a large one with the same label


@dataclass(frozen=True)
class LabelSpec:
    """Properties of the objects with one label; lengths are pixels in an image 360 pixels high.

    Attributes:
        width, height: size of a large object.
        colours: possible colours.
        top: depth of the upper face as a share of the height; None: no object can be on it.
        container: objects can be inside it.
        shelter: share of the height that is free below it; 0: no object fits under it.
        portable: it can be on, in or under another object.
        flies: it is in the air.
    """

    width: int
    height: int
    colours: Sequence[str] = tuple(COLOURS)
    top: float | None = None
    container: bool = False
    shelter: float = 0.0
    portable: bool = False
    flies: bool = False


LABELS = {label: LabelSpec(**fields) for label, fields in _TABLES["labels"].items()}
# Labels of one scene (the others are placed relative to the first), and its possible settings.
COMBINATIONS: list[tuple[list[str], list[str]]] = [
    (row["labels"], row["settings"]) for row in _TABLES["combinations"]
]
_PLURAL = {"ball", "box", "cone", "bird", "tree"}


@dataclass(frozen=True)
class Entity:
    """One object, or two or three equal objects side by side.

    Attributes:
        label, colour, size: ``size`` is ``small`` or ``large``.
        style: 0 or 1, two ways to draw the object (for example man or woman).
        boxes: xyxy in pixels, one per object.
    """

    label: str
    colour: str
    size: str
    style: int
    boxes: tuple[Box, ...] = ()

    @property
    def box(self) -> Box:
        """The smallest box around all objects."""
        x1, y1, x2, y2 = zip(*self.boxes, strict=True)
        return min(x1), min(y1), max(x2), max(y2)


@dataclass(frozen=True)
class Relation:
    """A relation between two entities, given by their rows."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """The plan of one image; the first relation is between rows 1 and 0."""

    size: tuple[int, int]
    setting: str
    horizon: int
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...] = ()


def plan_scene(rng: random.Random, combination: int) -> Scene:
    """Return a random scene with the labels of ``COMBINATIONS[combination]``."""
    labels, settings = COMBINATIONS[combination]
    setting = rng.choice(settings)
    while (scene := _try_scene(rng, labels, setting)) is None:
        pass
    return scene


def _try_scene(rng: random.Random, labels: Sequence[str], setting: str) -> Scene | None:
    height = rng.randrange(264, 361, 8)
    width = round(height * 4 / 3)
    scale = height / 320  # larger than nominal, because detectors miss small objects
    entities = [_random_entity(rng, label) for label in labels]
    appearances = {(entity.label, entity.colour) for entity in entities}
    if len(appearances) < len(entities):
        return None  # captions could not distinguish two objects
    horizon = round(height * rng.uniform(0.46, 0.56))
    ground = height * rng.uniform(0.76, 0.88)
    first = entities[0]
    w, h = _extent(first, scale)
    x = width * rng.uniform(0.3, 0.7)
    entities[0] = replace(first, boxes=((x - w / 2, ground - h, x + w / 2, ground),))
    relations: list[Relation] = []
    for row in range(1, len(entities)):
        target = rng.choice(range(row)) if row > 1 and rng.random() < 0.35 else 0
        choices = _possible(entities[row], entities[target], setting)
        resting = any(r.subject == target and r.predicate in ("on", "in") for r in relations)
        if (
            not choices
            or LABELS[entities[target].label].flies
            or (resting and "above" not in choices)
        ):
            return None
        predicate = rng.choice(choices)
        count = 1
        if entities[row].label in _PLURAL and predicate != "in" and len(set(labels)) == len(labels):
            count = rng.choices((1, 2, 3), (10, 3, 1))[0]
        boxes = _place(rng, entities[row], entities[target].box, predicate, scale, count)
        entities[row] = replace(entities[row], boxes=boxes)
        relation = Relation(row, predicate, target)
        if not holds(relation, entities):
            return None
        relations.append(relation)
    scene = Scene((width, height), setting, horizon, tuple(entities), tuple(relations))
    return scene if _is_valid(scene) else None


def _random_entity(rng: random.Random, label: str) -> Entity:
    colour = rng.choice(LABELS[label].colours)
    return Entity(label, colour, rng.choice(("small", "large")), rng.randrange(2))


def _extent(entity: Entity, scale: float) -> tuple[float, float]:
    small = 0.68 if entity.label == "person" else SMALL  # a child, or another small object
    factor = scale * (small if entity.size == "small" else 1.0)
    return LABELS[entity.label].width * factor, LABELS[entity.label].height * factor


def _possible(subject: Entity, other: Entity, setting: str) -> tuple[str, ...]:
    """Return the possible predicates, repeated by their weight."""
    a, b = LABELS[subject.label], LABELS[other.label]
    wa, ha = _extent(subject, 1.0)
    wb, hb = _extent(other, 1.0)
    names: list[str] = []
    if a.flies:
        names += ["above"] * 2
    fits = a.portable and ha < 1.6 * hb
    if fits and b.top is not None and wa < 0.8 * wb and subject.label not in ("person", "cone"):
        names += ["on"] * 4
    if a.portable and b.container and wa < 0.62 * wb and 0.75 * hb < ha < 2.6 * hb:
        names += ["in"] * 8
    if fits and b.shelter and ha < 0.92 * b.shelter * hb and wa < 0.6 * wb and not a.flies:
        names += ["under"] * 8
    if not a.flies and not (setting == "water" and subject.label != "boat"):
        names += ["next to", "in front of", "behind"]
    return tuple(names)


def _place(
    rng: random.Random, entity: Entity, target: Box, predicate: str, scale: float, count: int
) -> tuple[Box, ...]:
    """Return ``count`` boxes side by side, placed relative to ``target`` by ``predicate``."""
    w, h = _extent(entity, scale)
    gap = 4 * scale
    total = count * w + (count - 1) * gap
    x1, y1, x2, y2 = target
    wide, high = x2 - x1, y2 - y1
    slack = max(wide - total, 0.0)
    left = x1 + slack * rng.uniform(0.1, 0.9) + min(wide - total, 0.0) / 2
    if predicate == "on":
        bottom = y1 + high * 0.07
    elif predicate == "in":
        bottom = y1 + min(0.75 * high, 0.45 * h)
    elif predicate == "under":
        bottom = y2 - high * rng.uniform(0.0, 0.02)
    elif predicate == "above":
        bottom = y1 - rng.uniform(10, 34) * scale
        left += rng.uniform(-0.25, 0.25) * wide
    else:
        side = rng.choice((-1, 1))
        if predicate == "next to":
            away = rng.uniform(6, 26) * scale
            bottom = y2 + rng.uniform(-3, 3) * scale
        else:
            away = -rng.uniform(0.35, 0.6) * min(total, wide)
            nearer = rng.uniform(12, 22) * scale
            bottom = y2 + (nearer if predicate == "in front of" else -nearer)
        left = x2 + away if side > 0 else x1 - away - total
    return tuple(
        (left + i * (w + gap), bottom - h, left + i * (w + gap) + w, bottom) for i in range(count)
    )


def holds(relation: Relation, entities: Sequence[Entity]) -> bool:
    """Return whether a relation is true of the boxes."""
    ax1, ay1, ax2, ay2 = entities[relation.subject].box
    bx1, by1, bx2, by2 = entities[relation.object].box
    middle = bx1 <= (ax1 + ax2) / 2 <= bx2
    across = min(ax2, bx2) - max(ax1, bx1)  # > 0: they overlap horizontally
    match relation.predicate:
        case "on":
            return middle and ay1 < by1 <= ay2 <= by1 + 0.2 * (by2 - by1)
        case "in":
            return bx1 <= ax1 and ax2 <= bx2 and ay1 < by1 and by1 < ay2 <= by2
        case "under":
            return bx1 <= ax1 and ax2 <= bx2 and by1 < ay1 and ay2 <= by2
        case "next to":
            return -60 < across <= 0 and abs(ay2 - by2) < 12
        case "in front of":
            return across > 0 and ay2 > by2 and ay1 < by2
        case "behind":
            return across > 0 and ay2 < by2 and by1 < ay2
        case "above":
            return across > 0 and ay2 < by1
    return False


def _is_valid(scene: Scene) -> bool:
    """Return whether all boxes are inside the image and only related objects overlap."""
    width, height = scene.size
    flat = [(row, box) for row, entity in enumerate(scene.entities) for box in entity.boxes]
    for row, (x1, y1, x2, y2) in flat:
        if x1 < 4 or y1 < 4 or x2 > width - 4 or y2 > height - 6:
            return False
        if not LABELS[scene.entities[row].label].flies and y2 < scene.horizon - 0.2 * height:
            return False
    for relation in scene.relations:
        on_ground = relation.predicate in ("next to", "in front of", "behind")
        if on_ground and scene.entities[relation.subject].box[3] < scene.horizon + 8:
            return False
    meeting = {
        frozenset((r.subject, r.object)) for r in scene.relations if r.predicate != "next to"
    }
    for (row, a), (other, b) in combinations(flat, 2):
        cover = min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
        if cover and frozenset((row, other)) not in meeting:
            return False
    return True
