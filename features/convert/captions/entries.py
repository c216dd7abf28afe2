"""Images and captions of data sets that are too large for memory, in a temporary file.

Ten million captions take gigabytes as Python objects. ``EntryWriter`` takes images in any order and
keeps some tens of bytes for each, and eight for a caption with an id of its own; their texts go to
the file.
"""

from __future__ import annotations

import array
import json
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.records import Caption, ImageEntry, LazyImages

Rows = npt.NDArray[np.integer[Any]]
_PART = 1_000  # captions of one image that are kept as one part


class _Spool:
    """A temporary file that is closed, and so deleted, when nothing refers to it any more."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115  (closed by the next)
        weakref.finalize(self, self.file.close)

    def read(self, start: int, end: int) -> bytes:
        """Return some of the bytes that have been written and flushed."""
        return os.pread(self.file.fileno(), end - start, start)


class EntryWriter:
    """Collect parts of images: each has an id, a file, a split and some captions.

    Two parts with one id are one image, whose captions are joined in the order of the parts. A
    caption without an id of its own is called after its image and its number. Parts of one image
    that follow each other are kept as one, so that a table costs memory by image and not by row.
    """

    def __init__(self) -> None:
        self._spool = _Spool()
        self._ends = array.array("q", [0])
        self._images = array.array("q")  # hash of the image id of each part
        self._captions = array.array("q")  # hash of every caption id of its own
        self._part: tuple[str, str, str] | None = None  # that is not in the file yet
        self._texts: list[list[str]] = []

    def add(self, entry: ImageEntry) -> None:
        """Add a part; a caption with the id "" gets one when it is read."""
        part = (entry.id, entry.file, entry.split)
        if part != self._part or len(self._texts) >= _PART:
            self._write()
            self._part = part
        for caption in entry.captions:
            self._texts.append([caption.id, caption.text])
            if caption.id:
                self._captions.append(hash(caption.id))

    def _write(self) -> None:
        if self._part is None:
            return
        record = json.dumps([*self._part, self._texts], ensure_ascii=False)
        raw = record.encode("utf-8", "surrogatepass")
        self._spool.file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))
        self._images.append(hash(self._part[0]))
        self._part, self._texts = None, []

    def finish(self) -> Entries:
        """Return the images in the order of their first parts; nothing can be added any more.

        Ids are compared by 64-bit hashes; ``Entries`` checks the ids themselves.
        """
        self._write()
        self._spool.file.flush()
        ends, keys = (np.frombuffer(one, np.int64) for one in (self._ends, self._images))
        self._images = array.array("q")
        kind: np.dtype[np.integer[Any]] = np.dtype("i4" if len(keys) < 1 << 31 else "i8")
        order: Rows = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]
        del keys
        if first.all():
            return Entries(self._spool, ends, None, None)
        order = order.astype(kind)
        starts: Rows = np.flatnonzero(first).astype(kind)
        by_first = np.argsort(order[starts], kind="stable")  # images in the order of the file
        counts = np.diff(starts, append=len(order))[by_first]
        offsets: Rows = np.concatenate([[0], np.cumsum(counts)]).astype(kind)
        at: Rows = np.repeat(starts[by_first] - offsets[:-1], counts)
        at += np.arange(len(order), dtype=kind)
        return Entries(self._spool, ends, order[at], offsets)

    def repeated_ids(self) -> set[int]:
        """Return the hashes of caption ids that occur twice; ids made from images differ."""
        given = np.frombuffer(self._captions, np.int64)
        given.sort()  # in place
        return set(given[1:][given[1:] == given[:-1]].tolist())


class Entries(LazyImages):
    """Images in row order, decoded when they are asked for.

    Args:
        spool: the records of the parts, one after the other.
        ends: end of each part in the file, with a leading 0.
        order: parts in the order of the images, None where every part is an image.
        offsets: first part of each image in ``order``.
    """

    def __init__(
        self,
        spool: _Spool,
        ends: Rows,
        order: Rows | None,
        offsets: Rows | None,
    ) -> None:
        self._spool, self.ends, self.order, self.offsets = spool, ends, order, offsets

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ends) - 1 if self.offsets is None else len(self.offsets) - 1

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same images."""
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _read(self, row: int) -> ImageEntry:
        if self.order is None or self.offsets is None:
            return _named(self._part(row))
        rows = self.order[self.offsets[row] : self.offsets[row + 1]].tolist()
        image_id, file, split, texts = self._part(rows[0])
        for row in rows[1:]:
            other, _, _, more = self._part(row)
            if other != image_id:  # once in a million data sets of this size
                raise InputError(f"Images {image_id!r} and {other!r} have one hash. Run again.")
            texts += more
        return _named((image_id, file, split, texts))

    def conflicts(self) -> Iterator[tuple[int, ImageEntry, str]]:
        """Yield each image whose parts disagree about its split or file.

        Yields: its row, the image as its first part and those that agree with it have it, and what
            is wrong.
        """
        if self.order is None or self.offsets is None:
            return
        for row in np.flatnonzero(np.diff(self.offsets) > 1).tolist():
            rows = self.order[self.offsets[row] : self.offsets[row + 1]].tolist()
            first, *others = [self._part(part) for part in rows]
            reason = ""
            for other in others:
                at = next((at for at in (2, 1) if other[at] != first[at]), 0)
                if at:
                    reason = f"listed twice, as {first[at]} and as {other[at]}"
                else:
                    first[3].extend(other[3])
            if reason:
                yield row, _named(first), reason

    def _part(self, row: int) -> tuple[str, str, str, list[list[str]]]:
        raw = self._spool.read(*self.ends[row : row + 2].tolist())
        image_id, file, split, texts = json.loads(raw.decode("utf-8", "surrogatepass"))
        return image_id, file, split, texts


def _named(part: tuple[str, str, str, list[list[str]]]) -> ImageEntry:
    image_id, file, split, texts = part
    captions = (
        Caption(own or f"{image_id}#{number}", text) for number, (own, text) in enumerate(texts)
    )
    return ImageEntry(image_id, file, split, tuple(captions))
