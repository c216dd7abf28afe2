"""Draw scene graphs on their images: boxes, labels, arrows for relations, captions beside."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.decoding import DAMAGE, decode, orientation, turned
from features.drawing.choice import (
    Strongest,
    at_rows,
    facts,
    numbered,
    strongest,
    whole_image,
)
from features.drawing.kinds import with_kinds
from features.drawing.lettering import Word, place_words
from features.drawing.routes import end_points
from features.errors import ImageError, MissingDependency, UsageError
from features.format import replacing
from features.inline import COLOURS
from features.names import child
from features.records import Detections, SceneGraph, TextGraph, union_boxes
from features.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = npt.NDArray[np.uint8]

INK = "#1d2433"
PAPER = "#ffffff"
GREY = "#6b7280"
HEIGHT = 6.0  # inches of the image; its width follows
TEXT_WIDTH = 4.4  # inches of the column of captions
DPI = 130
LINE, SMALL = 0.2, 0.18  # inches between lines of a caption and of what is below it
FORMATS = (".png", ".svg", ".pdf")


def draw_image(
    store: Store,
    image_id: str,
    out: Path | str,
    images_dir: Path | str | None = None,
    **options: Any,
) -> Path:
    """Draw an image of a store with its scene graph, its captions and their triplets.

    Args:
        store: an opened store.   image_id: id of the image.
        out: .png, .svg or .pdf file to write.
        images_dir: folder of the image files; if not given, the background is empty.
        options: ``max_objects``, ``max_relations`` and ``unions``, as for ``draw_graph``.

    Raises:
        UnknownName: no such image.
        InputError: the store names an image file outside the folder.
        ImageError: the image file cannot be read.
    """
    graph = store.graph(image_id)
    image = store.images[store.images["id"] == image_id].iloc[0]
    captions = store.captions[store.captions["image"] == image_id]
    texts = [store.text(caption_id) for caption_id in captions["id"]]
    pixels = None
    if images_dir is not None:
        # a store is untrusted input: its files are looked up in this folder only
        pixels = _read(child(Path(images_dir), str(image["file"]) or image_id, store.path))
    return draw_graph(pixels, graph, out, texts, **options)


def draw_graph(
    pixels: Pixels | None,
    graph: SceneGraph | Detections,
    out: Path | str,
    captions: Sequence[TextGraph] = (),
    *,
    max_objects: int = 12,
    max_relations: int = 8,
    unions: bool = True,
) -> Path:
    """Draw a scene graph on its image.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright, or None for an empty background.
        graph: the objects and relations, in pixels of the image.
        out: .png, .svg or .pdf file to write; missing folders are created.
        captions: parsed captions, written beside the image with their triplets.
        max_objects, max_relations: limits, see ``strongest``.
        unions: draw the union box of each drawn relation, dashed.

    Returns: the path of the file.

    Raises:
        MissingDependency: matplotlib is not installed.
        UsageError: the file has another ending.
        WriteError: the file cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: the name of a drawing must end in {', '.join(FORMATS)}.")
    graph = with_kinds(graph)
    figure = _figure(pixels, graph, captions, strongest(graph, max_objects, max_relations), unions)
    from matplotlib import rc_context  # optional

    kind = path.suffix[1:].lower()
    # without a date, so that equal graphs give equal files
    metadata = {"Date": None} if kind == "svg" else None
    with replacing(path) as partial, rc_context({"svg.hashsalt": "scenestore"}):
        figure.savefig(partial, format=kind, facecolor=PAPER, metadata=metadata)
    return path


def _figure(
    pixels: Pixels | None,
    graph: SceneGraph | Detections,
    captions: Sequence[TextGraph],
    chosen: Strongest,
    unions: bool,
) -> Figure:
    try:  # slow to load, and optional
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise MissingDependency.of("matplotlib", "drawing", "pip install matplotlib") from error
    width, height = (max(1, side) for side in graph.size)
    wide = float(np.clip(HEIGHT * width / height, 2.5, 11))
    image_tall = float(np.clip(wide * height / width, 2.0, HEIGHT))
    column = TEXT_WIDTH if captions else 0.0
    said = _said(graph, chosen) if captions else []
    texts = [_Text.of(caption) for caption in captions]
    # below a wide image there is room for more captions
    tall = max(image_tall, min(_needed(said, texts), HEIGHT)) if captions else image_tall
    figure = Figure(figsize=(wide + column, tall), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)  # needed to measure words
    share = image_tall / tall
    axes = figure.add_axes((0, 1 - share, wide / (wide + column), share))
    axes.set_axis_off()
    if pixels is None:
        axes.add_patch(Rectangle((0, 0), width, height, color="#eef0f4"))
    else:
        extent = (0, width, height, 0)
        axes.imshow(pixels, extent=extent, interpolation="bilinear", aspect="auto")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    _draw_objects(axes, graph, chosen, unions)
    if captions:
        _write_captions(figure, said, texts, wide / (wide + column), column, tall)
    return figure


def _draw_objects(
    axes: Axes, graph: SceneGraph | Detections, chosen: Strongest, unions: bool
) -> None:
    """Draw boxes and arrows, then all words, so that no line crosses a word."""
    from matplotlib import patches, patheffects  # optional

    def halo(width: float) -> list[Any]:
        """Return the effect that draws a white line under a coloured one."""
        return [patheffects.withStroke(linewidth=width, foreground=PAPER)]

    colour = {row: COLOURS[at % len(COLOURS)] for at, row in enumerate(chosen.objects)}
    boxes = graph.boxes
    relations = at_rows(graph, chosen.relations)
    count = {fact.row: fact for fact in facts(graph)}
    diagonal = float(np.hypot(*graph.size))
    words: list[Word] = []
    for row in chosen.objects:
        x1, y1, x2, y2 = map(float, boxes[row])
        box = patches.Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour[row], lw=1.9, joinstyle="round"
        )
        box.set_path_effects(halo(3.4))
        axes.add_patch(box)
        corners = [(x1, y1), (x1, y2), (x2, y1), (x2, y2)]
        places = [*corners, ((x1 + x2) / 2, y1), ((x1 + x2) / 2, y2), (x1, (y1 + y2) / 2)]
        name = numbered(graph, row, chosen.objects) + _confidence(graph.scores, row)
        words.append(Word(name, colour[row], places, solid=True))
    routes = end_points(boxes, [(subject, target) for subject, _, target in relations])
    for at, (subject, predicate, target) in enumerate(relations):
        start, end = routes[at]
        row = chosen.relations[at]
        if unions:
            x1, y1, x2, y2 = map(float, union_boxes(boxes, [(subject, target)])[0])
            corner, width, height = (x1 - 2, y1 - 2), x2 - x1 + 4, y2 - y1 + 4
            dashed: dict[str, Any] = {"lw": 1.1, "ls": (0, (4, 3)), "alpha": 0.85}
            axes.add_patch(patches.Rectangle(corner, width, height, fill=False, ec=PAPER, **dashed))
        bend = 0.18 if np.hypot(end[0] - start[0], end[1] - start[1]) > 0.05 * diagonal else 0.6
        arrow = patches.FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=14,
            lw=2.0,
            color=colour[subject],
            shrinkA=4,
            shrinkB=4,
        )
        arrow.set_path_effects(halo(4.0))
        axes.add_patch(arrow)
        axes.plot(*start, "o", ms=6, mfc=colour[subject], mec=PAPER, mew=1.2)
        fact = count.get(row)
        predicate = f"{fact.times if fact else ''}{predicate}"
        predicate += _confidence(graph.relation_scores, row)
        words.append(Word(predicate, colour[subject], _along(start, end, bend), solid=False))
    if everywhere := whole_image(graph, chosen):
        words.append(Word(everywhere, INK, [(0.0, float(graph.size[1]))], solid=True))
    place_words(axes, words, graph.size)


def _along(
    start: tuple[float, float], end: tuple[float, float], bend: float
) -> list[tuple[float, float]]:
    """Return points on the arrow (a quadratic Bezier curve), the middle first."""
    (x0, y0), (x2, y2) = start, end
    x1 = (x0 + x2) / 2 - bend * (y2 - y0)  # the control point, as matplotlib's arc3 puts it
    y1 = (y0 + y2) / 2 + bend * (x2 - x0)
    points = []
    for t in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8):
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        points.append((a * x0 + b * x1 + c * x2, a * y0 + b * y1 + c * y2))
    return points


class _Text(NamedTuple):
    """A caption to write: its lines, and its triplets."""

    lines: list[str]
    triplets: list[str]

    @classmethod
    def of(cls, caption: TextGraph) -> _Text:
        triplets = [f"{s}  →  {p}  →  {o}"
                    for s, p, o in dict.fromkeys(caption.triplets)]  # fmt: skip
        return cls(textwrap.wrap(caption.caption, 46) or [""], triplets)

    def tall(self) -> float:
        """Return its height in inches."""
        return LINE * len(self.lines) + SMALL * len(self.triplets) + 0.12


def _said(graph: SceneGraph | Detections, chosen: Strongest) -> list[tuple[str, str]]:
    """Return the drawn relations as text, and the colour of each."""
    counted = {fact.row: fact for fact in facts(graph)}
    lines = []
    for row, (subject, predicate, target) in zip(
        chosen.relations, at_rows(graph, chosen.relations), strict=True
    ):
        fact = counted.get(row)
        if fact is not None and fact.count > 1:
            text = f"{fact.times}{fact.subject}  {predicate}  {fact.object}"
        else:
            ends = [numbered(graph, end, chosen.objects) for end in (subject, target)]
            text = f"{ends[0]}  {predicate}  {ends[1]}"
        colour = COLOURS[chosen.objects.index(subject) % len(COLOURS)]
        lines.append((text + _confidence(graph.relation_scores, row), colour))
    return lines


def _confidence(scores: npt.NDArray[np.float32] | None, row: int) -> str:
    """Return a score to write behind a word; nothing if the source has no scores."""
    if scores is None or not len(scores) or float(np.min(scores)) == 1.0:
        return ""
    return f" {float(scores[row]):.2f}"


def _needed(said: Sequence[tuple[str, str]], texts: Sequence[_Text]) -> float:
    """Return the inches that all relations and captions take."""
    relations = SMALL * len(said) + 0.2 if said else 0.0
    return 0.16 + relations + sum(text.tall() for text in texts) + 0.1


def _write_captions(
    figure: Figure,
    said: Sequence[tuple[str, str]],
    texts: Sequence[_Text],
    left: float,
    column: float,
    tall: float,
) -> None:
    """Write the drawn relations, then all captions that fit, with triplets while there is room."""
    axes = figure.add_axes((left, 0, 1 - left, 1))
    axes.set_axis_off()
    axes.set_xlim(0, column)
    axes.set_ylim(tall, 0)  # inches from the top
    y = 0.16
    for text, colour in said:
        axes.text(0.25, y, text, size=8.5, color=colour, va="top", weight="bold")
        y += SMALL
    if said:
        axes.plot([0.25, column - 0.25], [y + 0.07] * 2, "-", lw=0.8, color="#d5d9e2")
        y += 0.2
    texts, bare = list(texts), 0
    for at in reversed(range(len(texts))):  # triplets of the last captions go first
        if y + sum(text.tall() for text in texts) > tall - (0.25 if bare else 0):
            bare += bool(texts[at].triplets)
            texts[at] = texts[at]._replace(triplets=[])
    note = f"triplets of {bare} caption{'s' if bare > 1 else ''} not shown" if bare else ""
    for number, written in enumerate(texts):
        rest = len(texts) - number
        if y + written.tall() > tall - (0.25 if rest > 1 or bare else 0) and number:
            note = f"+ {rest} more caption{'s' if rest > 1 else ''}"
            break
        for line in written.lines:
            axes.text(0.25, y, line, size=9.5, color=INK, va="top")
            y += LINE
        for triplet in written.triplets:
            axes.text(0.42, y, triplet, size=8.5, color=GREY, va="top", style="italic")
            y += SMALL
        y += 0.12
    axes.text(0.25, tall - 0.1, note, size=8, color=GREY)


def _read(path: Path) -> Pixels:
    """Read an image file upright."""
    try:
        return decode(
            path, lambda image: turned(np.array(image.convert("RGB")), orientation(image))
        )
    except DAMAGE as error:
        raise ImageError(f"{path}: cannot be read ({error}). Check --images-dir.") from error
