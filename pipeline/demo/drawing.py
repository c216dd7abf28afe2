"""Images of the demo's scenes: flat objects with light and shadow on textured grounds.

Each object is drawn once at three times its largest size and scaled down, which smooths its edges.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipeline.demo.dataset import read_tables
from pipeline.demo.shapes import Pen, draw_object
from pipeline.demo.world import LABELS, Entity, Scene

SHARP = 3  # scale at which objects are first drawn
_TABLES = read_tables("world.json")
_GROUND = _TABLES["ground"]  # setting -> colour near, colour far
_SKY = _TABLES["sky"]  # setting -> colour at the top, colour at the horizon


def draw_scene(scene: Scene, seed: int) -> Image.Image:
    """Return the RGB image of a scene; ``seed`` varies clouds, grain and waves."""
    image = _background(scene, seed)
    inside = {r.subject for r in scene.relations if r.predicate == "in"}
    holders = {r.object for r in scene.relations if r.predicate == "in"}
    raised = {r.subject: r.object for r in scene.relations if r.predicate in ("on", "in")}
    for row, entity in enumerate(scene.entities):
        if not LABELS[entity.label].flies and row not in raised and row not in holders:
            _shadow(image, entity, scene.setting)
    for row in holders:
        _shadow(image, scene.entities[row], scene.setting)
    for row in sorted(range(len(scene.entities)), key=lambda row: _depth(scene, row, raised)):
        if row in inside:
            continue
        entity = scene.entities[row]
        if row in holders:
            _paste(image, entity, "back")
            for guest in inside & {r.subject for r in scene.relations if r.object == row}:
                _paste(image, scene.entities[guest], "whole", clip=entity.box[3])
            _paste(image, entity, "front")
        else:
            _paste(image, entity, "whole")
    return image


def _depth(scene: Scene, row: int, raised: dict[int, int]) -> tuple[float, int]:
    """Return a sort key: far objects first, objects on others after these, flying objects last."""
    entity = scene.entities[row]
    if LABELS[entity.label].flies and row not in raised:
        return (1e6, row)
    if row in raised:
        return (scene.entities[raised[row]].box[3], 1)
    under = any(r.subject == row and r.predicate == "under" for r in scene.relations)
    return (entity.box[3] + 20 * under, 0)


def _paste(image: Image.Image, entity: Entity, part: str, clip: float = 1e6) -> None:
    for number, (x1, y1, x2, y2) in enumerate(entity.boxes):
        size = (max(round(x2 - x1), 1), max(round(y2 - y1), 1))
        style = entity.style if entity.label == "person" else entity.style + 2 * (number % 2)
        sprite = _scaled(entity.label, entity.colour, style, part, size)
        rows = min(size[1], round(clip - y1))
        sprite = sprite.crop((0, 0, size[0], rows)) if rows < size[1] else sprite
        image.paste(sprite, (round(x1), round(y1)), sprite)


@lru_cache(maxsize=256)
def _scaled(label: str, colour: str, style: int, part: str, size: tuple[int, int]) -> Image.Image:
    return _master(label, colour, style, part).resize(size, Image.Resampling.BOX, reducing_gap=None)


@lru_cache(maxsize=512)
def _master(label: str, colour: str, style: int, part: str) -> Image.Image:
    """Return a large RGBA image of an object: flat shapes, dark rim, light from the upper left."""
    width, height = LABELS[label].width * SHARP, LABELS[label].height * SHARP
    pen = Pen(width, height)
    draw_object(pen, label, colour, style % 2, part)
    image = pen.image if style < 2 else pen.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = image.getchannel("A")
    shade = _light(width, height)
    red, green, blue = (ImageChops.multiply(c, shade) for c in image.split()[:3])
    lit = Image.merge("RGBA", (red, green, blue, alpha))
    inner = alpha.filter(ImageFilter.MinFilter(5)).filter(ImageFilter.BoxBlur(1))
    rim = Image.composite(
        Image.new("RGBA", image.size, (0, 0, 0, 0)),
        Image.new("RGBA", image.size, (40, 34, 44, 120)),
        inner,
    )
    rim.putalpha(ImageChops.darker(rim.getchannel("A"), alpha))
    return Image.alpha_composite(lit, rim)


@lru_cache(maxsize=64)
def _light(width: int, height: int) -> Image.Image:
    x = np.linspace(0, 1, width)[None, :]
    y = np.linspace(0, 1, height)[:, None]
    return Image.fromarray(np.uint8(255 * np.clip(1.04 - 0.12 * x - 0.16 * y, 0, 1)))


def _shadow(image: Image.Image, entity: Entity, setting: str) -> None:
    ink = (20, 40, 60) if setting in ("snow", "water") else (40, 34, 20)
    for x1, y1, x2, y2 in entity.boxes:
        wide = round((x2 - x1) * 1.12)
        high = max(round(min((y2 - y1) * 0.16, wide * 0.2)), 4)
        spot = _spot().resize((wide, high))
        place = (round((x1 + x2) / 2 - wide / 2) + 3, round(y2 - high * 0.6))
        image.paste(Image.new("RGB", spot.size, ink), place, spot)


@lru_cache(maxsize=1)
def _spot() -> Image.Image:
    x = np.linspace(-1, 1, 128)
    radius = np.sqrt(x[None, :] ** 2 + x[:, None] ** 2)
    return Image.fromarray(np.uint8(130 * np.clip((1 - radius) / 0.5, 0, 1)))


def _background(scene: Scene, seed: int) -> Image.Image:
    width, height = scene.size
    random = np.random.default_rng(seed)
    canvas = np.empty((height, width, 3), np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    top, bottom = (np.array(c, np.float32) for c in _SKY[scene.setting])
    canvas[:] = (top + (bottom - top) * np.clip(y / scene.horizon, 0, 1))[:, None, :]
    near, far = (np.array(c, np.float32) for c in _GROUND[scene.setting])
    depth = np.clip((y - scene.horizon) / (height - scene.horizon), 0, 1)
    ground = (far + (near - far) * depth)[scene.horizon :, None, :]
    canvas[scene.horizon :] = ground + _texture(scene, random)[..., None]
    if scene.setting == "floor":
        columns = (np.arange(width) // 18) % 2  # striped wallpaper above a skirting board
        canvas[: scene.horizon] -= 7.0 * columns[None, :, None]
        canvas[scene.horizon - 9 : scene.horizon] = (246, 244, 238)
        canvas[scene.horizon : scene.horizon + 2] *= 0.72
    canvas *= 1 + 0.05 * float(random.uniform(-1, 1))  # brighter or darker days
    image = Image.fromarray(np.uint8(np.clip(canvas, 0, 255)))
    if scene.setting != "floor":
        _clouds(image, scene, random)
    return image


def _texture(scene: Scene, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the brightness texture of the ground, (rows, width)."""
    width, height = scene.size
    rows = height - scene.horizon
    grain = _noise(seed=int(random.integers(8)))
    left, up = (int(v) for v in random.integers(0, 500 - 480, 2))
    fine = grain[0][up : up + rows, left : left + width]
    soft = grain[1][up : up + rows, left : left + width]
    y = np.arange(rows, dtype=np.float32)[:, None]
    near = np.sqrt((y + 4) / rows)
    match scene.setting:
        case "grass":
            blades = grain[2][up : up + rows, left : left + width]
            return np.asarray(near * (16 * blades + 9 * soft) + 3 * fine, np.float32)
        case "sand":
            ripples = np.sin((y + 14 * soft) * (0.9 - 0.5 * y / rows))
            return np.asarray(near * (3 * ripples + 7 * soft) + 5 * fine, np.float32)
        case "snow":
            return np.asarray(near * 9 * soft + 2 * fine, np.float32)
        case "water":
            phase = 220 / (y + 12) * 6 + 1.6 * soft
            return np.asarray(near * 12 * np.sin(phase * 3 + 2 * fine * 0.3) + 6 * soft, np.float32)
    plank = np.floor(np.sqrt(y * 18)) // 8
    shade = np.modf(np.sin(plank * 12.9898) * 43758.5453)[0] * 9
    seam = -22.0 * (np.diff(plank, axis=0, prepend=plank[:1]) != 0)
    streaks = grain[3][up : up + rows, left : left + width]
    return np.asarray(shade + seam + 6 * streaks, np.float32)


@lru_cache(maxsize=8)
def _noise(seed: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Return four 500 x 500 noise fields: fine, soft, vertical blades, horizontal streaks."""
    random = np.random.default_rng(1000 + seed)
    white = random.standard_normal((500, 500)).astype(np.float32)

    def smooth(rows: int, columns: int) -> npt.NDArray[np.float32]:
        small = random.standard_normal((500 // rows + 1, 500 // columns + 1)).astype(np.float32)
        return np.asarray(Image.fromarray(small).resize((500, 500), Image.Resampling.BICUBIC))

    return white, smooth(14, 40), smooth(7, 2), smooth(2, 60)


def _clouds(image: Image.Image, scene: Scene, random: np.random.Generator) -> None:
    width, _ = scene.size
    veil = Image.new("L", (width, scene.horizon), 0)
    brush = ImageDraw.Draw(veil)
    for _ in range(int(random.integers(1, 4))):
        x, y = float(random.uniform(0, width)), float(random.uniform(10, 0.55 * scene.horizon))
        for dx, dy, r in ((-26, 4, 11), (-10, -3, 16), (10, -1, 14), (26, 4, 10)):
            brush.ellipse((x + dx - r * 1.4, y + dy - r, x + dx + r * 1.4, y + dy + r), fill=170)
    veil = veil.filter(ImageFilter.BoxBlur(5))
    image.paste(Image.new("RGB", veil.size, (252, 252, 252)), (0, 0), veil)
