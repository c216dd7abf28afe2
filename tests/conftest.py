"""Fixtures for every package: a tiny synthetic store with features, graphs and captions."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from features import (
    Caption,
    Detections,
    ImageEntry,
    Skipped,
    Store,
    TextGraph,
    build_store,
    open_store,
)

pytest_plugins = ["tests.browser"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector away from modules and tests, which stay until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


NOUNS = ("dog", "man", "ball", "car", "tree", "woman", "horse", "hat")
COLOURS = ("red", "blue", "green", "small", "old")
VERBS = ("ride", "hold", "see", "throw")
PREDICATES = ("on", "next to", "above", "has")


@dataclass(frozen=True)
class TinyRecords:
    """The records that a tiny store was built from, and its path."""

    path: Path
    entries: list[ImageEntry]
    visual: list[Detections | Skipped]
    regions: list[tuple[np.ndarray, np.ndarray]]
    texts: list[TextGraph]

    def open(self, **options: str) -> Store:
        return open_store(self.path, **options)


def tiny_caption(random: np.random.Generator, text: str = "") -> TextGraph:
    """A caption "A red dog rides a car ." with its graph; some end after the first noun."""
    colour, verb = random.choice(COLOURS), random.choice(VERBS)
    first, second = random.choice(NOUNS, 2, replace=False)
    if random.random() < 0.2:
        return TextGraph(
            caption=text or f"A {first}",
            tokens=("A", str(first)),
            lemmas=("a", str(first)),
            upos=("DET", "NOUN"),
            xpos=("DT", "NN"),
            heads=(1, -1),
            deprels=("det", "root"),
            roles=("other", "object"),
            objects=(str(first),),
            object_positions=((1,),),
        )
    return TextGraph(
        caption=text or f"A {colour} {first} {verb}s a {second} .",
        tokens=("A", str(colour), str(first), f"{verb}s", "a", str(second), "."),
        lemmas=("a", str(colour), str(first), str(verb), "a", str(second), "."),
        upos=("DET", "ADJ", "NOUN", "VERB", "DET", "NOUN", "PUNCT"),
        xpos=("DT", "JJ", "NN", "VBZ", "DT", "NN", "."),
        heads=(2, 2, 3, -1, 5, 3, 3),
        deprels=("det", "amod", "nsubj", "root", "det", "obj", "punct"),
        roles=("other", "attribute", "object", "relation", "other", "object", "other"),
        objects=(str(first), str(second)),
        object_positions=((2,), (5,)),
        attributes=((str(first), str(colour)),),
        attribute_objects=(0,),
        attribute_positions=(1,),
        relations=((0, str(verb), 1),),
        relation_positions=((3,),),
    )


def tiny_detections(
    random: np.random.Generator, most: int, related: int
) -> tuple[Detections, np.ndarray]:
    """Between one and ``most`` random objects with up to ``related`` relations."""
    width, height = (int(n) for n in random.integers(80, 200, 2))
    n = int(random.integers(1, most + 1))
    corners = np.sort(random.random((n, 2, 2)).astype(np.float32), axis=1)
    boxes = (corners * np.float32([width, height])).reshape(n, 4)
    pairs = [(s, o) for s, o in itertools.product(range(n), repeat=2) if s != o]
    random.shuffle(pairs)
    relations = tuple((s, str(random.choice(PREDICATES)), o) for s, o in pairs[:related])
    found = Detections(
        boxes=boxes,
        labels=tuple(str(name) for name in random.choice(NOUNS, n)),
        scores=np.sort(random.random(n).astype(np.float32))[::-1],
        size=(width, height),
        attributes=tuple((str(random.choice(COLOURS)),) if at % 2 else () for at in range(n)),
        relations=relations,
        relation_scores=np.sort(random.random(len(relations)).astype(np.float32))[::-1],
    )
    return found, random.random((n, 2), np.float32)


@pytest.fixture
def tiny_records(tmp_path: Path) -> Callable[..., TinyRecords]:
    """A function that builds a tiny store and returns its records; see ``tiny_store``."""
    numbers = itertools.count()

    def build(
        images: int = 12,
        *,
        captions: int = 5,
        seed: int = 0,
        dim: int = 16,
        max_objects: int = 6,
        max_relations: int = 4,
        skipped: tuple[int, ...] = (),
        splits: tuple[str, ...] = ("train", "train", "train", "val", "test", "test"),
        folder: Path | None = None,
        **options: object,
    ) -> TinyRecords:
        random = np.random.default_rng(seed)
        entries, visual, regions, texts = [], [], [], []
        for row in range(images):
            parsed = [tiny_caption(random) for _ in range(captions)]
            texts += parsed
            entries.append(
                ImageEntry(
                    id=f"{1000 + row}.jpg",
                    file=f"{1000 + row}.jpg",
                    split=splits[row % len(splits)],
                    captions=tuple(
                        Caption(f"{1000 + row}.jpg#{at}", graph.caption)
                        for at, graph in enumerate(parsed)
                    ),
                )
            )
            found, _ = tiny_detections(random, max_objects, max_relations)
            visual.append(Skipped("cannot be decoded") if row in skipped else found)
            n, m = (0, 0) if row in skipped else (len(found.labels), len(found.relations or ()))
            regions.append(
                (random.random((n, dim), np.float32), random.random((m, dim), np.float32))
            )
        path = build_store(
            folder or tmp_path / f"store-{next(numbers)}",
            "tiny",
            entries,
            visual=visual,
            regions=regions,
            texts=texts,
            max_objects=max_objects,
            max_relations=max_relations,
            **options,  # type: ignore[arg-type]
        )
        return TinyRecords(path, entries, visual, regions, texts)

    return build


@pytest.fixture
def tiny_store(tiny_records: Callable[..., TinyRecords]) -> Callable[..., Store]:
    """A function that builds and opens a tiny store: ``tiny_store(images=12, seed=0, dim=16)``.

    Splits go round: three train, one val, two test. ``skipped`` names rows of unusable images.
    """
    return lambda *args, **options: tiny_records(*args, **options).open()
