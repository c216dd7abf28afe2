"""Lists of image names, one file a split, as Flickr8k has them beside its captions.

``Flickr8k.token.txt`` has no splits; ``Flickr_8k.trainImages.txt``, ``Flickr_8k.devImages.txt`` and
``Flickr_8k.testImages.txt`` in its folder name them. Other token files may have such lists, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from features.convert.captions.collection import Collector
from features.convert.safe.inputs import text_lines, visible
from features.errors import InputError, MissingInput

_LIST = re.compile(r"(?P<data>.*?)[._-]?(?P<split>train|dev|val|test)images\.txt", re.I)
_PLACE = {"train": 0, "dev": 1, "val": 1, "test": 2}
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitLists:
    """The split of every image that the lists beside a captions file name.

    Attributes:
        files: the lists: train, val, test; none if there are no lists.
        split_of: image -> split.   where: image -> the list and line that name it first.
        twice: image -> what is wrong with it: it is in the lists of two splits.
    """

    files: tuple[Path, ...] = ()
    split_of: dict[str, str] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    twice: dict[str, str] = field(default_factory=dict)

    def listed_as(self, name: str) -> str | None:
        """Return the name of an image in the lists, which may lack the suffix; None without."""
        stem = name.rpartition(".")[0]
        return next((form for form in (name, stem) if form in self.split_of), None)


def find_split_lists(path: Path) -> tuple[Path, ...]:
    """Return the lists of train, val and test images beside a captions file; () without any.

    Raises:
        MissingInput: one or two of the three are missing.
        InputError: the lists of several data sets are there, or two of one split.
    """
    found: dict[str, dict[int, Path]] = {}
    for file in visible(path.parent, "*.txt"):
        if (match := _LIST.fullmatch(file.name)) is None or file == path:
            continue
        lists = found.setdefault(_plain(match["data"]), {})
        if (place := _PLACE[match["split"].lower()]) in lists:
            raise InputError(
                f"{path.parent}: {lists[place].name} and {file.name} are lists of the same split. "
                "Remove one of them."
            )
        lists[place] = file
    if len(found) > 1:  # of several data sets in one folder
        of_file = {
            data: lists for data, lists in found.items() if _plain(path.name).startswith(data)
        }
        found = {max(of_file, key=len): of_file[max(of_file, key=len)]} if of_file else {}
    for lists in found.values():
        if len(lists) < len(_SPLITS):
            missing = next(split for at, split in enumerate(_SPLITS) if at not in lists)
            there = ", ".join(file.name for _, file in sorted(lists.items()))
            raise MissingInput(
                f"{path.parent}: the list of {missing} images is missing beside {there}. Put it "
                "there, or remove the other lists: images then have no split."
            )
        return tuple(lists[place] for place in range(len(_SPLITS)))
    return ()


def _plain(name: str) -> str:
    """Return the letters and digits of a name.

    >>> _plain("Flickr_8k"), _plain("Flickr8k.token.txt")
    ('flickr8k', 'flickr8ktokentxt')
    """
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def read_split_lists(path: Path, collector: Collector) -> SplitLists:
    """Read the lists beside a captions file: a name of an image on each line.

    Raises:
        MissingInput, InputError: as ``find_split_lists``, or a list has no name in it.
        InputError: a line is no text and the collector's policy is ``fail``.
    """
    found = SplitLists(find_split_lists(path))
    for split, file in zip(_SPLITS, found.files, strict=bool(found.files)):
        before = len(found.where)
        for number, raw in text_lines(file):
            try:
                name = raw.decode("utf-8").strip().replace("\\", "/")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 text at byte {error.start}"
                collector.drop("row", f"line {number}", reason, file)
                continue
            if not name:
                continue
            where = f"{file.name}, line {number}"
            if found.split_of.setdefault(name, split) != split:
                found.twice.setdefault(name, f"in two lists: {found.where[name]} and {where}")
            found.where.setdefault(name, where)
        if len(found.where) == before:
            raise InputError(f"{file}: no image in it that is not in another list. Fetch it again.")
    return found
