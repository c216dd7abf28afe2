"""A page of found images with the boxes and captions that match; it holds everything it shows."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from features.drawing import Thumbnails
from features.finding.matching import Matches
from features.finding.words import same_word
from features.records import SceneGraph

SIDE = 420  # pixels of the longer side of a photo
CAPTIONS = 5  # captions of an image that are shown
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #7778; --subject: #2f7de1;
  --object: #e0731c; --subject-word: light-dark(#1b5fb4, #7db4f5);
  --object-word: light-dark(#a34d06, #f0a25e); }
body { background: light-dark(#fff, #16181c); color: light-dark(#23262d, #e6e4df);
  font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 88rem;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; }
header p, figcaption small { color: light-dark(#555, #aaa); }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
figure { border: 1px solid var(--line); border-radius: .6rem; margin: 0; overflow: hidden; }
svg { display: block; width: 100%; height: auto; background: #8882; }
rect { fill: none; stroke-width: 2.5; vector-effect: non-scaling-stroke; }
.subject { stroke: var(--subject); } .object { stroke: var(--object); }
.likely { stroke-dasharray: 6 4; }
text.subject { fill: var(--subject); } text.object { fill: var(--object); }
text { paint-order: stroke; stroke-linejoin: round; font-weight: 600; }
figcaption { padding: .7rem .9rem; }
figcaption ul { margin: .4rem 0 0; padding-left: 1.1rem; }
b.subject { color: var(--subject-word); } b.object { color: var(--object-word); } """


def contact_sheet(matches: Matches, images_dir: Path | None = None, *, count: int = 50) -> str:
    """Return an HTML page of the first images of some matches.

    Boxes of visual matches are drawn with lines. Where only captions match, the boxes with the same
    labels and the best scores are drawn dashed: captions do not say where objects are.

    Args:
        matches: what ``find`` returned.
        images_dir: folder of the photos; without it only boxes are drawn.
        count: images on the page.
    """
    thumbnails = Thumbnails(images_dir)
    rows = matches.images[:count].tolist()
    of_image: dict[int, list[int]] = {row: [] for row in rows}
    for at, row in enumerate(matches.image.tolist()):
        if row in of_image:
            of_image[row].append(at)
    cards = [_card(matches, row, of_image[row], thumbnails) for row in rows]
    found = len(matches.images)
    shown = f"the first {len(rows)} of {found:,}" if found > len(rows) else f"{found:,}"
    title = html.escape(matches.query.text)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{_STYLE}</style>"
        f"<header><h1>{title}</h1><p>{shown} images, {len(matches):,} matches in "
        f"{html.escape(matches.store.path.parent.name)}</p></header>"
        f"<main>{''.join(cards)}</main></html>\n"
    )


def _card(matches: Matches, row: int, facts: Sequence[int], thumbnails: Thumbnails) -> str:
    """Return one image with its boxes and matching captions."""
    store = matches.store
    index = store.group("index")
    image_id, file = index.text("image_id")[row], index.text("image_file")[row]
    graph = store.graph(image_id) if store.has("labels") else None
    said = [at for at in facts if matches.caption[at] >= 0]
    seen = [at for at in facts if matches.caption[at] < 0]
    lines = [
        f"<li>{html.escape(_caption(matches, at))}<br><small>{_triplet(matches, at)}</small></li>"
        for at in {int(matches.caption[at]): at for at in reversed(said)}.values()
    ][::-1][:CAPTIONS]
    lines += [
        f"<li><small>detected: {_triplet(matches, at)} {matches.score[at]:.2f}</small></li>"
        for at in seen[:CAPTIONS]
    ]
    split = store.coded("split")
    where = html.escape(split.names[int(split.codes[row])])
    picture = _picture(matches, graph, file, said, seen, thumbnails)
    return (
        f"<figure>{picture}<figcaption>{html.escape(image_id)} <small>{where}</small>"
        f"<ul>{''.join(lines)}</ul></figcaption></figure>"
    )


def _caption(matches: Matches, at: int) -> str:
    return matches.store.group("index").text("caption")[int(matches.caption[at])]


def _triplet(matches: Matches, at: int) -> str:
    parts = [f'<b class="subject">{html.escape(matches.subject_name[at])}</b>']
    if matches.predicate[at]:
        parts.append(html.escape(matches.predicate[at]))
        parts.append(f'<b class="object">{html.escape(matches.object_name[at])}</b>')
    return " ".join(parts)


def _picture(
    matches: Matches,
    graph: SceneGraph | None,
    file: str,
    said: Sequence[int],
    seen: Sequence[int],
    thumbnails: Thumbnails,
) -> str:
    """Return the photo with boxes as SVG, whose units are pixels of the photo."""
    photo = thumbnails.data(file, SIDE)
    width, height = graph.size if graph is not None else (0, 0)
    if min(width, height) <= 0:
        name = html.escape(file)
        return f'<img alt="{name}" src="{photo}" style="width:100%">' if photo else ""
    boxes: dict[tuple[int, str], str] = {}
    assert graph is not None
    for at in seen:
        boxes[int(matches.subject[at]), "subject"] = ""
        if matches.object[at] >= 0:
            boxes[int(matches.object[at]), "object"] = ""
    if not seen:
        boxes = _likely(graph, matches, said)
    image = f'<image href="{photo}" width="{width}" height="{height}"/>' if photo else ""
    unit = max(width, height) / 28
    drawn = "".join(
        _box(graph, number, f"{kind} {likely}".strip(), unit)
        for (number, kind), likely in boxes.items()
    )
    label = html.escape(f"{file}, with {', '.join(graph.labels[row] for row, _ in boxes)}")
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{image}{drawn}</svg>'
    )


def _likely(graph: SceneGraph, matches: Matches, said: Iterable[int]) -> dict[tuple[int, str], str]:
    """Return the objects that captions may mean: the best ones with the same labels."""
    names = {("subject", matches.subject_name[at]) for at in said}
    names |= {("object", matches.object_name[at]) for at in said}
    found: dict[tuple[int, str], str] = {}
    for kind, name in sorted(names):
        same = [
            number
            for number, label in enumerate(graph.labels)  # best first
            if name and same_word(label.lower(), name.lower(), with_synonyms=True)
        ]
        if same:
            found.setdefault((same[0], kind), "likely")
    return found


def _box(graph: SceneGraph, number: int, kind: str, unit: float) -> str:
    x1, y1, x2, y2 = np.round(graph.boxes[number], 1).tolist()
    label = html.escape(graph.labels[number])
    return (
        f'<rect class="{kind}" x="{x1:g}" y="{y1:g}" width="{x2 - x1:g}" height="{y2 - y1:g}"/>'
        f'<text class="{kind}" x="{x1 + unit / 4:g}" y="{max(y1 - unit / 4, unit):g}" '
        f'font-size="{unit:g}" style="stroke:#fff;stroke-width:{unit / 7:g}">{label}</text>'
    )
