"""Check the images and captions of a file and collect those that can be stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from features.convert.captions.cleaning import NO_SPLIT, clean_text, no_words, plain_split
from features.convert.captions.entries import EntryWriter
from features.convert.captions.splitting import Shares
from features.errors import InputError, UsageError
from features.names import bad_file, bad_name, bad_split, plain_path
from features.records import Caption, ImageEntry

IN_MEMORY = 64 << 20  # bytes of ids and texts; COCO's captions have 60 MB
_PLAIN = frozenset({"train", "val", "test", NO_SPLIT})
_NAMED = 1_000  # dropped entries that are kept by name; the others are counted


@dataclass(frozen=True)
class CaptionSet:
    """The images and captions of a data set, in the order of their files.

    Attributes:
        entries: images with captions; ids are unique, captions are clean and not empty. Large data
            sets are kept in a temporary file, and an image is decoded when it is asked for.
        dropped: (id, reason) of the captions, images and rows that were skipped, at most the first
            thousand.
        n_dropped: how many were skipped.
        files: the files that were read.
        numbers: image id -> its ``imgid`` in Karpathy's JSON.
        n_captions: number of captions of all images.
    """

    entries: Sequence[ImageEntry]
    dropped: tuple[tuple[str, str], ...] = ()
    n_dropped: int = 0
    files: tuple[Path, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    n_captions: int = 0


def check_entries(
    entries: Iterable[ImageEntry],
    where: object,
    *,
    on_error: str = "fail",
    shares: Shares | None = None,
) -> CaptionSet:
    """Check and clean images and captions of another source as ``read_captions`` does.

    Args:
        entries: images; ``file`` may be empty.
        where: the source, for messages.
        on_error: as for ``read_captions``.
        shares: how images without a split get one.

    Raises: InputError: an entry cannot be stored and ``on_error`` is ``fail``.
    """
    collector = Collector(on_error, shares)
    for entry in entries:
        collector.add(entry, where)
    return collector.result()


class Collector:
    """Collect entries that can be stored; one policy for all that cannot.

    Args:
        on_error: ``fail`` raises at the first bad entry, ``skip`` drops and lists it.
        shares: how images without a split get one.
    """

    def __init__(self, on_error: str, shares: Shares | None = None) -> None:
        if on_error not in ("fail", "skip"):
            raise UsageError(f"--on-error is fail or skip, not {on_error!r}.")
        self.on_error, self.shares = on_error, shares
        self.dropped: list[tuple[str, str]] = []
        self.n_dropped = 0
        self.numbers: dict[str, str] = {}
        self._entries: dict[str, ImageEntry] = {}
        self._caption_ids: set[str] = set()
        self._bytes = 0
        self._writer: EntryWriter | None = None
        self._n_captions = 0
        self._good = ("", "", "")  # id, file and split that were checked last

    def drop(self, what: str, key: str, reason: str, where: object) -> None:
        """Count an image, caption or row that cannot be stored.

        Raises: InputError: ``on_error`` is ``fail``.
        """
        if self.on_error == "fail":
            shown = key if what == "row" else f"{what} {key!r}" if key else what
            raise InputError(f"{where}: {shown}: {reason}. Fix it, or pass --on-error skip.")
        self.leave_out(key or what, reason)

    def leave_out(self, key: str, reason: str) -> None:
        """Count something that is left out whatever the policy is."""
        self.n_dropped += 1
        if len(self.dropped) < _NAMED:
            self.dropped.append((key, reason))

    def add(self, entry: ImageEntry, where: object) -> None:
        """Add an image, or more captions of one; a caption with the id "" gets one.

        Raises: InputError: it cannot be stored and ``on_error`` is ``fail``.
        """
        split = plain_split(entry.split)
        if split == NO_SPLIT and self.shares is not None:
            split = self.shares.split_of(plain_path(entry.id))
        # One file must not be two images, perhaps in two splits.
        entry = ImageEntry(plain_path(entry.id), plain_path(entry.file), split, entry.captions)
        named = (entry.id, entry.file, split)
        if named != self._good:  # the rows of an image mostly follow each other
            reason = _bad_id(entry.id) or ("" if split in _PLAIN else _bad_split(split))
            if reason := reason or (bad_file(entry.file) if entry.file else ""):
                self.drop("image", entry.id or "(no name)", reason, where)
                return
            self._good = named
        if self._writer is not None:
            captions = self._cleaned(entry, where, [])
            self._n_captions += len(captions)
            self._writer.add(ImageEntry(entry.id, entry.file, split, tuple(captions)))
            return
        before = self._entries.get(entry.id)
        if before is not None and (before.split, before.file) != (entry.split, entry.file):
            differ = "split" if before.split != entry.split else "file"
            one, other = getattr(before, differ), getattr(entry, differ)
            self.drop("image", entry.id, f"listed twice, as {one} and as {other}", where)
            return
        captions = self._cleaned(entry, where, list(before.captions) if before else [])
        self._n_captions += len(captions) - (len(before.captions) if before else 0)
        self._entries[entry.id] = replace(entry, captions=tuple(captions))
        self._bytes += len(entry.id) + sum(len(caption.text) for caption in entry.captions)
        if self._bytes > IN_MEMORY:
            self._writer = EntryWriter()
            for kept in self._entries.values():
                self._writer.add(kept)
            self._entries, self._caption_ids = {}, set()

    def _cleaned(self, entry: ImageEntry, where: object, captions: list[Caption]) -> list[Caption]:
        """Add the captions of an entry that can be stored to a list; return it."""
        for caption in entry.captions:
            text = clean_text(caption.text)
            key = caption.id
            if not key and self._writer is None:
                key = f"{entry.id}#{len(captions)}"
            if not text:
                self.drop("caption", key, f"empty caption of image {entry.id}", where)
            elif reason := no_words(text):
                end = f" caption of image {entry.id}" if reason.endswith("missing") else ""
                reason += end or f" (image {entry.id})"
                self.drop("caption", key, reason, where)
            elif key in self._caption_ids:
                self.drop("caption", key, f"caption id used twice (image {entry.id})", where)
            elif reason := _bad_id(key) if key else "":
                self.drop("caption", key, f"{reason} (image {entry.id})", where)
            else:
                if self._writer is None:
                    self._caption_ids.add(key)
                captions.append(Caption(key, text))
        return captions

    def result(self) -> CaptionSet:
        """Return what was collected."""
        entries: Sequence[ImageEntry] = tuple(self._entries.values())
        if self._writer is not None:
            entries = self._large(self._writer)
        return CaptionSet(
            entries,
            tuple(self.dropped),
            self.n_dropped,
            numbers=self.numbers,
            n_captions=self._n_captions,
        )

    def _large(self, writer: EntryWriter) -> Sequence[ImageEntry]:
        """Return the images of a large data set after the checks that need all of them."""
        entries = writer.finish()
        agreed: dict[int, ImageEntry] = {}
        for row, entry, reason in entries.conflicts():
            self.drop("image", entry.id, reason, "captions")
            agreed[row] = entry
        repeated = writer.repeated_ids()
        if not agreed and not repeated:
            return entries
        again, seen = EntryWriter(), set[str]()
        self._n_captions = 0
        for row, whole in enumerate(entries):
            entry = agreed.get(row, whole)
            captions = []
            for caption in entry.captions:
                if hash(caption.id) in repeated:
                    if caption.id in seen:
                        reason = f"caption id used twice (image {entry.id})"
                        self.drop("caption", caption.id, reason, "captions")
                        continue
                    seen.add(caption.id)
                captions.append(caption)
            self._n_captions += len(captions)
            again.add(replace(entry, captions=tuple(captions)))
        return again.finish()


def _bad_id(name: str) -> str:
    """Return why a text is no id of an image or a caption, "" if it may be one."""
    reason = no_words(name)
    return bad_name(name) or (f"{reason} name" if reason.endswith("missing") else reason)


def _bad_split(name: str) -> str:
    return no_words(name) or bad_split(name)
