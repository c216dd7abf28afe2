"""Gold boxes of phrases from Flickr30k Entities (Plummer et al., 2015).

``Annotations/<id>.xml`` has one ``object`` per box with one or more entity ids, or ``nobndbox``;
``Sentences/<id>.txt`` has five captions with ``[/EN#<entity>/<type> phrase]``. Pixels in the XML
count from 1 and include the last one, so a box becomes ``[xmin - 1, ymin - 1, xmax, ymax]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.convert.safe.inputs import (
    damaged,
    need_file,
    need_folder,
    read_bytes,
    read_text,
    split_lines,
    visible,
)
from features.convert.safe.values import integers
from features.convert.source import Source, make_detections
from features.errors import InputError
from features.records import Detections

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MARKED = re.compile(r"\[/EN#(\d+)/([^\s\]]+) ([^\]]*)\]")
"""A marked phrase of a caption: entity id, types separated by slashes, words."""
_STRAY = re.compile(r"\[?/?EN#|[\[\]]")  # of a mark that is cut or damaged
_MAX_BYTES = 8 << 20  # the largest real file has some kilobytes


@dataclass(frozen=True, slots=True)
class Phrase:
    """One marked phrase of a caption.

    Attributes:
        text: the words of the phrase.
        entity: its entity id; "0" is something that is not visible.
        types: people, clothing, bodyparts, animals, vehicles, scene, other ...
        sentence: which caption of the image, from 0.
        first_word: position of its first word in the caption without markup, from 0.
        boxes: rows of its boxes in ``EntitiesFolder.read``; () if it has none.
    """

    text: str
    entity: str
    types: tuple[str, ...]
    sentence: int
    first_word: int
    boxes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sentence:
    """One caption of an image.

    Attributes:
        words: its words without markup.
        phrases: its marked phrases, in order.
    """

    words: tuple[str, ...]
    phrases: tuple[Phrase, ...]


class EntitiesFolder(Source):
    """The annotations of Flickr30k Entities.

    Args:
        annotations_dir: folder of XML files.
        sentences_dir: folder of marked captions; without it every label is ``object``.
    """

    def __init__(
        self, annotations_dir: Path | str, sentences_dir: Path | str | None = None
    ) -> None:
        super().__init__(need_folder(annotations_dir))
        self.sentences = None if sentences_dir is None else need_folder(sentences_dir)
        self.index: dict[str, Path] = {
            f"{path.stem}.jpg": path for path in visible(self.path, "*.xml")
        }
        if not self.index:
            raise InputError(f"{self.path}: no XML file in this folder. Is it Annotations?")
        self.files = list(self.index.values())
        if self.sentences is not None:
            self.files += visible(self.sentences, "*.txt")
        self.provides = frozenset({"size"} if self.sentences is None else {"labels", "size"})

    def _read(self, key: str) -> Detections:
        path = self.index[key]
        size, boxes, entities = _read_annotation(path)
        first: dict[str, str] = {}  # entity -> last word of the first phrase that names it
        if self.sentences is not None:
            for sentence in _read_sentences(self.sentences / f"{path.stem}.txt", {}):
                for phrase in sentence.phrases:
                    first.setdefault(phrase.entity, _head_word(phrase.text))
        labels = [
            next((first[entity] for entity in names if entity in first), "object")
            for names in entities
        ]
        return make_detections(str(path), boxes, labels=labels, size=size)

    def entities(self, image_id: str) -> list[tuple[str, ...]]:
        """Return the entity ids of each box, in the order of ``read``."""
        return _read_annotation(self.index[self.key(image_id)])[2]

    def captions(self, image_id: str) -> list[Sentence]:
        """Return an image's captions; their phrases have the rows of their boxes.

        Raises: InputError: the folder of captions was not given or lacks the image.
        """
        path = self.index[self.key(image_id)]
        if self.sentences is None:
            raise InputError(f"{path}: phrases need the folder Sentences: pass sentences_dir.")
        rows: dict[str, tuple[int, ...]] = {}
        for row, names in enumerate(_read_annotation(path)[2]):
            for name in names:
                rows[name] = (*rows.get(name, ()), row)
        return _read_sentences(self.sentences / f"{path.stem}.txt", rows)

    def phrases(self, image_id: str) -> list[Phrase]:
        """Return all phrases of an image's captions; raises as ``captions`` does."""
        return [phrase for sentence in self.captions(image_id) for phrase in sentence.phrases]


def _read_annotation(path: Path) -> tuple[tuple[int, ...], list[list[int]], list[tuple[str, ...]]]:
    """Return the size, the boxes (xyxy) and the entity ids of each box."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    if need_file(path).stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; not an annotation file.")
    unsafe = (DefusedXmlException, ParseError, ValueError, LookupError, RecursionError)
    with damaged(f"{path}: not a safe XML annotation", *unsafe):
        root = fromstring(read_bytes(path), forbid_dtd=True)
    named = Path(_text(root.find("filename"))).stem
    # Flickr8k's names add a part to those of Flickr30k: 1000268201_693b08cb0e.jpg.
    if named != path.stem and not path.stem.startswith(f"{named}_"):
        raise InputError(f"{path}: its <filename> is {named!r}. Rename one of them.")
    size = integers(str(path), "size", _texts(root.find("size"), "width", "height"), 2)
    if 0 in size:  # which stands for a size that is not known
        raise InputError(f"{path}: an image size of {size[0]} x {size[1]} is not possible.")
    boxes: list[list[int]] = []
    entities: list[tuple[str, ...]] = []
    for item in root.findall("object"):
        names = tuple(_text(name) for name in item.findall("name"))
        for corners in item.findall("bndbox"):
            values = _texts(corners, "xmin", "ymin", "xmax", "ymax")
            x1, y1, x2, y2 = integers(str(path), "a box", values, 4)
            boxes.append([x1 - 1, y1 - 1, x2, y2])
            entities.append(names)
    return size, boxes, entities


def _text(element: Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()


def _texts(parent: Element | None, *names: str) -> list[str]:
    return ["" if parent is None else _text(parent.find(name)) for name in names]


def _read_sentences(path: Path, rows: Mapping[str, tuple[int, ...]]) -> list[Sentence]:
    """Return the captions of a file; ``rows`` are the rows of the boxes of each entity."""
    sentences = []
    for at, raw in enumerate(split_lines(read_text(path))):
        # words become labels, which are printed and drawn
        line = "".join(mark if mark.isprintable() else " " for mark in raw)
        if stray := _STRAY.search(MARKED.sub("", line)):
            raise InputError(
                f"{path}, line {at + 1}: {stray[0]!r} outside of a phrase mark. Marks are "
                "'[/EN#ENTITY/TYPE WORDS]'; correct the line."
            )
        end, words, phrases = 0, list[str](), list[Phrase]()
        for mark in MARKED.finditer(line):
            words += line[end : mark.start()].split()
            entity, types, text = mark[1], tuple(mark[2].split("/")), mark[3]
            phrases.append(Phrase(text, entity, types, at, len(words), rows.get(entity, ())))
            words += text.split()
            end = mark.end()
        words += line[end:].split()
        sentences.append(Sentence(tuple(words), tuple(phrases)))
    return sentences


def _head_word(phrase: str) -> str:
    """Return the last word, the head of a plain English noun phrase.

    >>> _head_word("a white dog")
    'dog'
    """
    words = [word for word in phrase.lower().split() if any(letter.isalnum() for letter in word)]
    return words[-1] if words else "object"
