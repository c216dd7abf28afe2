"""A store with hostile texts and photos, a second parse of it, and the app that shows both."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

import features
from features.records import Caption, Detections, ImageEntry, Skipped, TextGraph
from features.web import Shelf, create_app, listen

TOKEN = "a token & signs +"
SCRIPT = "<script>alert(1)</script>"
QUOTES = 'tom\'s "dog" & <b>co</b>'
BOXES = np.float32([[2, 2, 30, 40], [25, 10, 58, 38], [0, 0, 60, 45]])


def parsed(text, objects=(), relations=(), attributes=()):
    """Return a parse in which each object of a caption is the token that equals it."""
    tokens = tuple(text.split())
    places = tuple((tokens.index(name),) if name in tokens else () for name in objects)
    return TextGraph(
        text,
        tokens=tokens,
        lemmas=tokens,
        upos=("X",) * len(tokens),
        xpos=("NN",) * len(tokens),
        heads=tuple(at - 1 for at in range(len(tokens))),
        deprels=("root", *("dep",) * (len(tokens) - 1)),
        roles=tuple("object" if token in objects else "other" for token in tokens),
        objects=tuple(objects),
        object_positions=places,
        attributes=tuple((objects[row], name) for row, name in attributes),
        attribute_objects=tuple(row for row, _ in attributes),
        attribute_positions=(-1,) * len(attributes),
        relations=tuple(relations),
        relation_positions=((),) * len(relations),
    )


TEXTS = {
    "a.jpg": [
        parsed("A man rides a bike", ["man", "bike"], [(0, "ride", 1)], [(1, "red")]),
        parsed(f"A dog {SCRIPT} runs", ["dog"]),
    ],
    "b.jpg": [parsed("A dog sits on a bench", ["dog", "bench"], [(0, "sit on", 1)])],
    "c.jpg": [parsed("Nothing to see", [])],
    "d.jpg": [parsed("A broken photo", ["photo"])],
}
SEEN = {
    "a.jpg": Detections(
        BOXES, ("person", "bicycle", QUOTES), np.float32([0.9, 0.8, 0.3]), (60, 45),
        attributes=((), ("red",), (SCRIPT,)), relations=((0, "riding", 1), (2, SCRIPT, 1)),
        relation_scores=np.float32([0.7, 0.2]),
    ),
    "b.jpg": Detections(
        BOXES[:2], ("dog", "bench"), np.float32([0.95, 0.4]), (60, 45),
        attributes=((), ()), relations=((0, "sitting on", 1),), relation_scores=np.float32([0.5]),
    ),
    "c.jpg": Detections(
        BOXES[:0], (), np.float32([]), (45, 60),
        attributes=(), relations=(), relation_scores=np.float32([]),
    ),
    "d.jpg": Skipped(f"cannot be decoded {SCRIPT}"),
}  # fmt: skip


def build(folder: Path, texts=TEXTS, seen=SEEN) -> Path:
    entries = [
        ImageEntry(
            name,
            name,
            "val" if name == "b.jpg" else "train",
            tuple(Caption(f"{name}#{k}", one.caption) for k, one in enumerate(texts[name])),
        )
        for name in texts
    ]
    flat = [one for several in texts.values() for one in several]
    return features.build_store(folder, "tiny-set", entries, visual=[*seen.values()], texts=flat)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        size = (45, 60) if name == "c.jpg" else (60, 45)
        Image.new("RGB", size, (90, 140, 160)).save(folder / name)
    (folder / "d.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory, photos) -> Shelf:
    """The store, and the same images with another parse of the caption of b."""
    other = {**TEXTS, "b.jpg": [parsed("A dog sits on a bench", ["dog", "bench"], [(0, "on", 1)])]}
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    paths = [build(folders[0]), build(folders[1], other)]
    return Shelf(paths, [photos])


@pytest.fixture(scope="session")
def client(shelf):
    app = create_app(shelf)
    return app.test_client()


@dataclass(frozen=True)
class Running:
    """The app on a port of this machine."""

    url: str


@pytest.fixture(scope="session")
def running(shelf) -> Running:
    server = listen(create_app(shelf, token=TOKEN), port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Running(f"http://127.0.0.1:{server.port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_page(open_page):
    """A function that opens a URL of the app as its user does first: with the token."""

    def visit(url: str, **options):
        return open_page(
            f"{url}{'&' if '?' in url else '?'}{urlencode({'token': TOKEN})}", **options
        )

    return visit
