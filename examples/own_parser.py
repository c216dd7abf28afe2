"""A caption parser plug-in: ``python -m pipeline parse --plugins FILE --parser plain TEXT``."""

from __future__ import annotations

import workflows  # noqa: F401  (for: luigi --module own_parser BuildDataset)
from features.records import TextGraph
from pipeline.parse import parsers


@parsers.register("plain")
class PlainParser:
    """Split captions at spaces and attach every word to the first one."""

    name = "plain"
    version = "1"  # part of the content key: change it whenever parses can change

    def parse(self, captions: list[str]) -> list[TextGraph]:
        return [self._one(caption) for caption in captions]

    def _one(self, caption: str) -> TextGraph:
        words = tuple(caption.rstrip(".").split())
        if not words:
            return TextGraph(caption=caption, problem="empty")
        lemmas, rest = tuple(word.lower() for word in words), len(words) - 1
        return TextGraph(
            caption, words, lemmas, ("NOUN",) * len(words), ("NN",) * len(words),
            heads=(-1, *(0,) * rest), deprels=("root", *("dep",) * rest),
        )  # fmt: skip
