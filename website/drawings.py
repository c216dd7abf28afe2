"""Draw the pictures of the concept pages: ``python -m website.drawings``.

Colours are variables of the site's theme, with fallbacks where an SVG is shown alone.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
INK = "var(--md-default-fg-color, #1f2430)"
FAINT = "var(--md-default-fg-color--light, #5b6170)"
LINE = "var(--md-default-fg-color--lighter, #9aa0ad)"
PAPER = "var(--md-code-bg-color, #f4f5f8)"
CARD = "var(--md-default-bg-color, #ffffff)"
ACCENT = "var(--md-typeset-a-color, #3346a8)"
FONT = "font-family='system-ui, sans-serif'"


class Drawing:
    """An SVG of boxes, arrows and words; units are pixels at full size."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, title: str, *lines: str, accent: bool = False
    ) -> None:
        """Draw a card with a title and lines below it."""
        edge, wide = (ACCENT, 2) if accent else (LINE, 1)
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{CARD}" '
            f'stroke="{edge}" stroke-width="{wide}"/>'
        )
        top = y + h / 2 - 9 * len(lines) + 5
        self.text(x + w / 2, top, title, bold=True)
        for number, line in enumerate(lines, 1):
            self.text(x + w / 2, top + 18 * number, line, small=True)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        bold: bool = False,
        small: bool = False,
        colour: str = "",
        anchor: str = "middle",
        code: bool = False,
    ) -> None:
        """Write words; ``anchor`` is start, middle or end."""
        font = "font-family='ui-monospace, monospace'" if code else FONT
        fill = colour or (FAINT if small else INK)
        weight = " font-weight='600'" if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" {font} font-size="{13 if small else 14}"'
            f'{weight} fill="{fill}">{escape(words)}</text>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, words: str = "") -> None:
        """Draw an arrow, with words above its middle."""
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{FAINT}" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
        if words:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 7, words, small=True)

    def frame(self, x: float, y: float, w: float, h: float, words: str = "") -> None:
        """Draw a dashed frame with its name in the corner."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="10" fill="none" '
            f'stroke="{LINE}" stroke-dasharray="5 4"/>'
        )
        if words:
            self.text(x + 12, y + 20, words, small=True, anchor="start")

    def rect(self, x: float, y: float, w: float, h: float, fill: str, edge: str = "none") -> None:
        """Draw a plain rectangle."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{fill}" stroke="{edge}" '
            'stroke-width="2"/>'
        )

    def save(self, name: str) -> None:
        """Write the file."""
        width, height = self.size
        tip = (
            '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{FAINT}"/></marker>'
        )
        body = "\n".join(self.parts)
        (FOLDER / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n'
            f"<defs>{tip}</defs>\n"
            f'<rect width="{width}" height="{height}" rx="12" fill="{PAPER}"/>\n{body}\n</svg>\n',
            encoding="utf-8",
        )


def flow() -> None:
    """From photos and captions to a report."""
    d = Drawing(880, 300)
    d.box(20, 40, 120, 60, "photos")
    d.box(20, 190, 120, 60, "captions", "CSV, JSON, ...")
    d.box(190, 30, 130, 80, "detector", "boxes, labels,", "attributes")
    d.box(360, 30, 130, 80, "relations", "predicates,", "union boxes")
    d.box(190, 180, 130, 80, "parser", "tokens,", "dependencies")
    d.box(360, 180, 130, 80, "rules", "SPICE-style", "triplets")
    d.box(540, 95, 130, 105, "store", "sharded HDF5,", "graphs and", "features", accent=True)
    d.box(720, 30, 140, 80, "train", "SGM · GSMN · RACG", "HREM · CFSGR")
    d.box(720, 180, 140, 80, "use", "find, search,", "report, export")
    for y in (70, 220):
        d.arrow(140, y, 188, y)
        d.arrow(320, y, 358, y)
    d.arrow(490, 80, 538, 118)
    d.arrow(490, 210, 538, 178)
    d.arrow(670, 118, 718, 80)
    d.arrow(670, 178, 718, 210)
    d.save("flow")


def store() -> None:
    """The folder of a store: groups of shards, and a manifest that binds them."""
    d = Drawing(880, 340)
    d.frame(20, 16, 840, 308, "stores/mine/")
    d.box(330, 46, 220, 64, "mine-7d31....json", "manifest: binds the groups", accent=True)
    groups = [
        ("index-33a5...", "ids, splits,", "captions"),
        ("visual-9135...", "boxes, labels,", "relations"),
        ("regions-68e4...", "float16 features", "of boxes"),
        ("tokens-c2f0...", "words, heads,", "tags"),
        ("text-19b4...", "objects,", "triplets"),
    ]
    for number, (name, *lines) in enumerate(groups):
        x = 40 + 164 * number
        d.box(x, 165, 144, 82, name, *lines)
        d.arrow(440, 110, x + 72, 163)
        for shard in range(3):
            d.rect(x + 12 + 42 * shard, 262, 36, 24, CARD, LINE)
            d.text(x + 30 + 42 * shard, 279, f"0{shard}", small=True)
    d.text(
        440, 310, "shards: HDF5 files of 64 to 4,096 images, never changed once written", small=True
    )
    d.save("store")


def keys() -> None:
    """A content key is a hash of everything that the result depends on."""
    d = Drawing(880, 270)
    parts = [
        ("version of the stage", "triplets: 7"),
        ("options", "profile: extended"),
        ("keys of the inputs", "tokens-c2f0..."),
        ("hashes of files", "captions.csv, weights"),
    ]
    for number, (title, line) in enumerate(parts):
        y = 20 + 60 * number
        d.box(20, y, 240, 50, title, line)
        d.arrow(260, y + 25, 388, 135)
    d.box(390, 100, 120, 70, "SHA-256", "of canonical JSON")
    d.arrow(510, 135, 588, 135)
    d.box(590, 95, 150, 80, "text-19b4...", "the folder's name", "is the key", accent=True)
    d.text(665, 200, "exists: nothing to do", small=True)
    d.text(665, 220, "missing: build it", small=True)
    d.text(450, 245, "not part of it: jobs, addresses, devices, source code", small=True)
    d.save("keys")


def variants() -> None:
    """Two parsers over the same photos share everything but the text."""
    d = Drawing(880, 290)
    d.box(30, 110, 150, 70, "visual-9135...", "graphs of photos")
    d.box(230, 110, 150, 70, "regions-68e4...", "features")
    d.box(430, 30, 180, 70, "text-19b4...", "parser spacy")
    d.box(430, 190, 180, 70, "text-77e0...", "parser stanza")
    d.box(690, 30, 160, 70, "mine-7d31....json", "manifest A", accent=True)
    d.box(690, 190, 160, 70, "mine-a940....json", "manifest B", accent=True)
    d.arrow(688, 65, 612, 65)
    d.arrow(688, 225, 612, 225)
    for y in (80, 210):
        d.arrow(688, y, 382, 145)
    d.arrow(228, 145, 182, 145)
    d.text(200, 215, "photos are processed once,", small=True)
    d.text(200, 233, "both manifests share the shards", small=True)
    d.save("variants")


def splits() -> None:
    """How images get into train, val and test, and what each is read for."""
    d = Drawing(880, 250)
    shares = [("train", 480, "the weights learn from it"), ("val", 150, "selects the epoch")]
    shares.append(("test", 190, "is measured once, at the end"))
    x = 30
    for name, width, use in shares:
        d.rect(x, 60, width - 6, 46, CARD, ACCENT if name == "test" else LINE)
        d.text(x + width / 2 - 3, 88, name, bold=True)
        d.text(x + width / 2 - 3, 130, use, small=True)
        x += width
    d.text(
        30, 40, "images of the index, in the order of the captions file", small=True, anchor="start"
    )
    d.rect(30, 170, 240, 34, "none", LINE)
    d.text(150, 192, "train[:500]", code=True)
    d.rect(408, 170, 96, 34, "none", LINE)
    d.text(456, 192, "train[-100:]", code=True, small=True)
    d.text(
        30,
        230,
        "wherever a split is named, a part of it can be named, too",
        small=True,
        anchor="start",
    )
    d.save("splits")


def graphs() -> None:
    """The graph of a photo beside the graph of its caption."""
    d = Drawing(880, 330)
    d.text(200, 30, "visual graph: what the photo shows", bold=True)
    d.rect(30, 45, 340, 230, CARD, LINE)
    d.rect(110, 150, 190, 105, "none", "#c2410c")
    d.text(116, 246, "table 0.91", small=True, anchor="start", colour="#c2410c")
    d.rect(165, 90, 70, 62, "none", "#0f766e")
    d.text(240, 105, "ball 0.88", small=True, anchor="start", colour="#0f766e")
    d.parts.append(
        f'<rect x="100" y="80" width="212" height="184" rx="4" fill="none" stroke="{LINE}" '
        'stroke-width="1.5" stroke-dasharray="6 4"/>'
    )
    d.text(104, 72, "union box of the relation", small=True, anchor="start")
    d.arrow(200, 125, 205, 195)
    d.text(214, 178, "on", small=True, anchor="start")
    d.text(200, 300, "boxes in pixels, labels, attributes, scores, relations", small=True)
    d.text(645, 30, "text graph: what the caption says", bold=True)
    words = [("A", 440), ("black", 490), ("ball", 548), ("on", 596), ("a", 632), ("blue", 676)]
    words.append(("table", 734))
    for word, x in words:
        d.text(x, 130, word)
    for start, end, rise in ((548, 490, 24), (548, 734, 58), (734, 596, 40), (734, 676, 22)):
        d.parts.append(
            f'<path d="M{start} 114 C{start} {114 - rise} {end} {114 - rise} {end} 112" '
            f'fill="none" stroke="{FAINT}" marker-end="url(#tip)"/>'
        )
    d.text(800, 100, "dependencies", small=True)
    d.box(440, 180, 100, 44, "ball", accent=True)
    d.box(700, 180, 100, 44, "table", accent=True)
    d.arrow(540, 202, 698, 202, "on")
    d.text(490, 250, "black", small=True)
    d.text(750, 250, "blue", small=True)
    d.text(645, 300, "objects, attributes and relations, in lemmas", small=True)
    d.save("graphs")


if __name__ == "__main__":
    for draw in (flow, store, keys, variants, splits, graphs):
        draw()
