"""What a demo scene may hold: kinds, colours, sizes, and where things can stand to each other.

A scene is planned before it is drawn. Kinds come from few fixed combinations, so that many scenes
show the same kinds and differ only in colours, sizes, relations and ground: what a detector's
labels cannot tell. Every relation of a plan holds in its boxes (``holds``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

__all__ = [
    "BAGS",
    "COLOURS",
    "KINDS",
    "RELATIONS",
    "SETTINGS",
    "Entity",
    "Kind",
    "Relation",
    "Scene",
    "holds",
    "plan_scene",
]

Box = tuple[float, float, float, float]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 52, 48),
    "orange": (240, 138, 36),
    "yellow": (247, 206, 50),
    "green": (58, 148, 76),
    "blue": (48, 104, 204),
    "white": (244, 243, 238),
    "black": (52, 50, 58),
    "brown": (134, 86, 50),
}
RELATIONS = ("on", "in", "under", "next to", "in front of", "behind", "above")
SETTINGS = ("grass", "sand", "snow", "water", "floor")
SMALL = 0.6  # a small thing against a large one of the same kind
_ANY = tuple(COLOURS)
_FUR = ("white", "black", "brown", "orange")


@dataclass(frozen=True)
class Kind:
    """One kind of thing; lengths are pixels of a large one in a picture 360 pixels high.

    Attributes:
        width, height: size of a large one.
        colours: the colours it comes in.
        top: depth of its upper face as a share of its height, None: nothing stands on it.
        holds: it is open and things can be inside it.
        shelter: share of its height that is free below it, 0: nothing fits under it.
        small: it may stand on, in or under something.
        flies: it hangs in the air.
    """

    width: int
    height: int
    colours: tuple[str, ...] = _ANY
    top: float | None = None
    holds: bool = False
    shelter: float = 0.0
    small: bool = False
    flies: bool = False


KINDS: dict[str, Kind] = {
    "ball": Kind(52, 52, small=True),
    "basket": Kind(104, 72, holds=True),
    "bird": Kind(62, 44, small=True, flies=True),
    "boat": Kind(186, 62, holds=True),
    "box": Kind(98, 84, top=0.12, holds=True, small=True),
    "car": Kind(172, 76, ("red", "blue", "yellow", "white", "black", "green"), top=0.03),
    "cat": Kind(58, 72, _FUR, small=True),
    "cone": Kind(50, 62, small=True),
    "dog": Kind(96, 76, _FUR, small=True),
    "house": Kind(158, 164, ("red", "blue", "yellow", "white", "green", "brown")),
    "kite": Kind(64, 92, flies=True),
    "lamp": Kind(58, 112, small=True),
    "person": Kind(58, 144, small=True),
    "table": Kind(168, 96, top=0.07, shelter=0.72),
    "tree": Kind(136, 186, ("green", "orange", "red", "yellow"), shelter=0.36),
}

# kinds of one scene (the first is what the others stand to), and the grounds it is seen on
BAGS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("table", "ball", "ball"), ("floor", "grass", "snow")),
    (("table", "dog", "lamp"), ("floor", "grass", "sand")),
    (("box", "cat", "ball"), ("floor", "grass", "sand", "snow")),
    (("basket", "dog", "ball"), ("floor", "grass", "sand", "snow")),
    (("boat", "person", "kite"), ("water", "sand")),
    (("tree", "person", "bird"), ("grass", "snow", "sand")),
    (("house", "car", "tree"), ("grass", "snow", "sand")),
    (("car", "cat", "cone"), ("grass", "sand", "snow")),
)
_PLURAL = {"ball", "box", "cone", "bird", "tree"}


@dataclass(frozen=True)
class Entity:
    """One thing, or two or three equal things side by side.

    Attributes:
        kind, colour, size: ``size`` is ``small`` or ``large``.
        look: 0 or 1, two ways to draw the kind (man or woman, for one).
        boxes: xyxy in pixels, one per thing.
    """

    kind: str
    colour: str
    size: str
    look: int
    boxes: tuple[Box, ...] = ()

    @property
    def box(self) -> Box:
        """The smallest box around all of it."""
        return (
            min(b[0] for b in self.boxes),
            min(b[1] for b in self.boxes),
            max(b[2] for b in self.boxes),
            max(b[3] for b in self.boxes),
        )


@dataclass(frozen=True)
class Relation:
    """Rows of two entities and how the first stands to the second."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """The plan of one picture: ``relations`` are exact, the first is about rows 1 and 0."""

    size: tuple[int, int]
    setting: str
    horizon: int
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...] = field(default=())


def plan_scene(rng: random.Random, bag: int) -> Scene:
    """Return one scene with the kinds of ``BAGS[bag]``; everything else is drawn from ``rng``."""
    kinds, settings = BAGS[bag]
    setting = rng.choice(settings)
    while True:
        scene = _try_scene(rng, kinds, setting)
        if scene is not None:
            return scene


def _try_scene(rng: random.Random, kinds: tuple[str, ...], setting: str) -> Scene | None:
    height = rng.randrange(264, 361, 8)
    width = round(height * 4 / 3)
    scale = height / 320  # larger than the nominal size, smaller would be lost on a detector
    entities = [_draw_lots(rng, kind) for kind in kinds]
    looks = {(entity.kind, entity.colour) for entity in entities}
    if len(looks) < len(entities):
        return None  # two things that no caption could tell apart
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
            or KINDS[entities[target].kind].flies
            or (resting and "above" not in choices)
        ):
            return None
        predicate = rng.choice(choices)
        count = 1
        if entities[row].kind in _PLURAL and predicate != "in" and len(set(kinds)) == len(kinds):
            count = rng.choices((1, 2, 3), (10, 3, 1))[0]
        boxes = _place(rng, entities[row], entities[target].box, predicate, scale, count)
        entities[row] = replace(entities[row], boxes=boxes)
        relation = Relation(row, predicate, target)
        if not holds(relation, entities):
            return None
        relations.append(relation)
    scene = Scene((width, height), setting, horizon, tuple(entities), tuple(relations))
    return scene if _tidy(scene) else None


def _draw_lots(rng: random.Random, kind: str) -> Entity:
    colour = rng.choice(KINDS[kind].colours)
    return Entity(kind, colour, rng.choice(("small", "large")), rng.randrange(2))


def _extent(entity: Entity, scale: float) -> tuple[float, float]:
    factor = scale * (SMALL if entity.size == "small" else 1.0)
    if entity.kind == "person" and entity.size == "small":
        factor = scale * 0.68  # a child
    return KINDS[entity.kind].width * factor, KINDS[entity.kind].height * factor


def _possible(figure: Entity, other: Entity, setting: str) -> tuple[str, ...]:
    a, b = KINDS[figure.kind], KINDS[other.kind]
    wa, ha = _extent(figure, 1.0)
    wb, hb = _extent(other, 1.0)
    names: list[str] = []
    if a.flies:
        names += ["above"] * 2
    fits = a.small and ha < 1.6 * hb
    if fits and b.top is not None and wa < 0.8 * wb and figure.kind not in ("person", "cone"):
        names += ["on"] * 4
    if a.small and b.holds and wa < 0.62 * wb and 0.75 * hb < ha < 2.6 * hb:
        names += ["in"] * 8
    if fits and b.shelter and ha < 0.92 * b.shelter * hb and wa < 0.6 * wb and not a.flies:
        names += ["under"] * 8
    if not a.flies and not (setting == "water" and figure.kind != "boat"):
        names += ["next to", "in front of", "behind"]
    return tuple(names)


def _place(
    rng: random.Random, entity: Entity, target: Box, predicate: str, scale: float, count: int
) -> tuple[Box, ...]:
    """Return ``count`` boxes side by side that stand to ``target`` as ``predicate`` says."""
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
    """Tell whether a relation is true of the boxes."""
    ax1, ay1, ax2, ay2 = entities[relation.subject].box
    bx1, by1, bx2, by2 = entities[relation.object].box
    middle = bx1 <= (ax1 + ax2) / 2 <= bx2
    across = min(ax2, bx2) - max(ax1, bx1)  # > 0: they share columns
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


def _tidy(scene: Scene) -> bool:
    """Tell whether all is inside the picture and only related things cover each other."""
    width, height = scene.size
    flat = [(row, box) for row, entity in enumerate(scene.entities) for box in entity.boxes]
    for row, (x1, y1, x2, y2) in flat:
        if x1 < 4 or y1 < 4 or x2 > width - 4 or y2 > height - 6:
            return False
        if not KINDS[scene.entities[row].kind].flies and y2 < scene.horizon - 0.2 * height:
            return False
    standing = [r for r in scene.relations if r.predicate in ("next to", "in front of", "behind")]
    for relation in standing:
        if scene.entities[relation.subject].box[3] < scene.horizon + 8:
            return False
    meeting = {
        frozenset((r.subject, r.object)) for r in scene.relations if r.predicate != "next to"
    }
    for i, (row, a) in enumerate(flat):
        for other, b in flat[i + 1 :]:
            cover = min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
            if cover and row != other and frozenset((row, other)) not in meeting:
                return False
            if row == other and cover:
                return False
    return True
