"""Images and captions of data sets that are too large for memory, in a temporary file.

Ten million captions take gigabytes as Python objects. ``EntryWriter`` takes images in any order and
keeps some tens of bytes for each; their texts go to the file.
"""

from __future__ import annotations

import array
import json
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.records import Caption, ImageEntry

Rows = npt.NDArray[np.int64]


class _Spool:
    """A temporary file that is closed, and so deleted, when nothing refers to it any more."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by the next line)
        weakref.finalize(self, self.file.close)


class EntryWriter:
    """Collect parts of images: each has an id, a file, a split and some captions.

    Two parts with one id are one image, whose captions are joined in the order of the parts. A
    caption without an id of its own is called after its image and its number.
    """

    def __init__(self) -> None:
        self._spool = _Spool()
        self._ends = array.array("q", [0])
        self._images = array.array("q")  # hash of the image id of each part
        self._captions = array.array("q")  # hash of every caption id of its own

    def add(self, entry: ImageEntry) -> None:
        """Add a part; a caption with the id "" gets one when it is read."""
        texts = [[caption.id, caption.text] for caption in entry.captions]
        record = json.dumps([entry.id, entry.file, entry.split, texts], ensure_ascii=False)
        raw = record.encode("utf-8", "surrogatepass")
        self._spool.file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))
        self._images.append(hash(entry.id))
        for caption in entry.captions:
            if caption.id:
                self._captions.append(hash(caption.id))

    def finish(self) -> Entries:
        """Return the images in the order of their first parts.

        Ids are compared by 64-bit hashes; ``Entries`` checks the ids themselves.
        """
        ends = np.frombuffer(self._ends, np.int64)
        keys = np.frombuffer(self._images, np.int64)
        order = np.argsort(keys, kind="stable")
        first = np.ones(len(keys), bool)
        first[1:] = keys[order[1:]] != keys[order[:-1]]
        if first.all():
            return Entries(self._spool, ends, None, None)
        starts = np.flatnonzero(first)
        by_first = np.argsort(order[starts], kind="stable")  # images in the order of the file
        counts = np.diff(np.append(starts, len(keys)))[by_first]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        at = np.repeat(starts[by_first] - offsets[:-1], counts) + np.arange(len(keys))
        return Entries(self._spool, ends, order[at], offsets)

    def repeated_ids(self) -> set[int]:
        """Return the hashes of caption ids that occur twice; ids made from images differ."""
        given = np.sort(np.frombuffer(self._captions, np.int64))
        return set(given[1:][given[1:] == given[:-1]].tolist())


class Entries(Sequence[ImageEntry]):
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

    @overload
    def __getitem__(self, at: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, at: slice) -> list[ImageEntry]: ...
    def __getitem__(self, at: int | slice) -> ImageEntry | list[ImageEntry]:
        """Return one image, or a list of them."""
        if isinstance(at, slice):
            return [self._read(row) for row in range(*at.indices(len(self)))]
        row = at + len(self) if at < 0 else at
        if not 0 <= row < len(self):
            raise IndexError(at)
        return self._read(row)

    def __iter__(self) -> Iterator[ImageEntry]:
        """Yield the images in row order."""
        for row in range(len(self)):
            yield self._read(row)

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
        start, end = self.ends[row : row + 2].tolist()
        self._spool.file.seek(start)
        found: tuple[str, str, str, list[list[str]]] = tuple(
            json.loads(self._spool.file.read(end - start).decode("utf-8", "surrogatepass"))
        )
        return found


def _named(part: tuple[str, str, str, list[list[str]]]) -> ImageEntry:
    image_id, file, split, texts = part
    captions = (
        Caption(own or f"{image_id}#{number}", text) for number, (own, text) in enumerate(texts)
    )
    return ImageEntry(image_id, file, split, tuple(captions))
