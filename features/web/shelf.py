"""The stores that the app shows, each with its photos and what was selected in it last."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import UnknownName
from features.maintenance import store_manifests
from features.store import Store, open_store
from features.web.photos import Photos

__all__ = ["Cache", "Ranked", "Shelf", "Site", "find_photos"]

Rows = npt.NDArray[np.int64]
K = TypeVar("K")
V = TypeVar("V")
PARTS = ("detector", "relations", "features", "parser", "profile")  # of a build
_PLACES = 8  # photos whose place is looked up to find the folder of all


class Cache(Generic[K, V]):
    """The values that were made last; safe to use from several threads.

    Args:
        most: values to keep.
    """

    def __init__(self, most: int) -> None:
        self._most, self._kept = most, OrderedDict[K, V]()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; it is made if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made


@dataclass(frozen=True, eq=False)
class Ranked:
    """Images in the order that a model gives them for a text.

    Attributes:
        rows: image rows, best first.   scores: one per row.   notes: remarks for the reader.
    """

    rows: Rows
    scores: npt.NDArray[np.float32]
    notes: tuple[str, ...] = ()


Ranker = Callable[["Site", str, str], Ranked]
"""Takes a site, a text and the name of a split ("" for the default), and ranks its images."""


@dataclass(eq=False)
class Site:
    """One store in the app.

    Attributes:
        name: in URLs.   title: for readers.   store: the opened store.   photos: its images.
        rankers: what ranks images for a text: name of a run -> function.
        variants: names of the sites that show the same images, without this one.
    """

    name: str
    title: str
    store: Store
    photos: Photos
    rankers: dict[str, Ranker] = field(default_factory=dict)
    variants: list[str] = field(default_factory=list)
    cache: Cache[Any, Any] = field(default_factory=lambda: Cache(24))

    def image_id(self, row: int) -> str:
        """Return the id of an image row."""
        return self.store.group("index").text("image_id")[row]

    def file(self, row: int) -> str:
        """Return the file of an image row, relative to the folder of the photos."""
        index = self.store.group("index")
        return index.text("image_file")[row] or index.text("image_id")[row]

    def caption_rows(self, row: int) -> range:
        """Return the caption rows of an image row."""
        start, stop = self.store.offsets("caption_offsets")[row : row + 2].tolist()
        return range(start, stop)

    def caption(self, row: int) -> str:
        """Return the text of a caption row."""
        return self.store.group("index").text("caption")[row]

    def split_of(self, row: int) -> str:
        """Return the split of an image row."""
        column = self.store.coded("split")
        return column.names[int(column.codes[row])]

    def why_skipped(self, row: int) -> str:
        """Return why an image row was skipped, "" if it was not."""
        if not self.store.has("skipped"):
            return ""
        column = self.store.coded("skipped")
        return column.names[int(column.codes[row])]

    @functools.cached_property
    def shown(self) -> tuple[float, float]:
        """Scores from which objects and relations are shown, 0 where they are not calibrated."""
        if not self.store.has("labels"):
            return 0.0, 0.0
        parameters = self.store.group("visual").manifest.params.get("parameters", {})
        found = []
        for part in ("detector", "relations"):
            value = parameters.get(part)
            score = value.get("shown") if isinstance(value, Mapping) else None
            found.append(float(score) if isinstance(score, int | float) else 0.0)
        return found[0], found[1]

    @functools.cached_property
    def made_with(self) -> dict[str, str]:
        """What made the store: detector, relations, features, parser and profile, as far as known.

        >>> # {'detector': 'labelled', 'parser': 'spacy', 'profile': 'extended'}
        """
        found = dict.fromkeys(PARTS, "")
        for group in self.store.manifest["groups"]:
            parameters = self.store.group(group).manifest.params.get("parameters", {})
            for part in PARTS:
                value = parameters.get(part)
                name = value.get("name") if isinstance(value, Mapping) else value
                if isinstance(name, str) and name and "@" not in group:
                    found[part] = name
        return {part: name for part, name in found.items() if name}


class Shelf:
    """All stores of the app.

    Args:
        paths: folders of stores or store manifests. A folder brings all its stores along, which
            can then be compared; the latest one comes first.
        photos: folder of the photos of each path, or one for all; where there is none, the folder
            that the store was built from is used.

    Raises: as ``open_store``.
    """

    def __init__(self, paths: Sequence[str | Path], photos: Sequence[Path] = ()) -> None:
        self.sites: dict[str, Site] = {}
        for at, path in enumerate(paths):
            given = photos[min(at, len(photos) - 1)] if photos else None
            first = open_store(path)
            for store in [first, *_others(first, path)]:
                self._add(store, given or find_photos(store))
        for site in self.sites.values():
            site.variants = [name for name, one in self.sites.items() if _alike(site, one)]

    def _add(self, store: Store, folder: Path | None) -> None:
        dataset = str(store.manifest["dataset"])
        name = plain = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "store"
        count = 2
        while name in self.sites:
            name, count = f"{plain}-{count}", count + 1
        self.sites[name] = Site(name, dataset, store, Photos(folder))

    def site(self, name: str) -> Site:
        """Return a site by name.

        Raises: UnknownName: there is none.
        """
        if name not in self.sites:
            raise UnknownName.of("store", name, self.sites)
        return self.sites[name]

    @property
    def first(self) -> Site:
        """The first store."""
        return next(iter(self.sites.values()))


def _others(store: Store, path: str | Path) -> list[Store]:
    """Return the other stores in the folder of a store, if the folder was given."""
    if store.mirror is not None or not Path(path).is_dir():
        return []
    return [
        open_store(other)
        for other in store_manifests(store.path.parent)
        if other.name != store.path.name
    ]


def _alike(one: Site, other: Site) -> bool:
    """Return whether two sites show images of the same ids."""
    if one is other:
        return False
    ours, theirs = (site.store.group("index") for site in (one, other))
    if ours.manifest.hash == theirs.manifest.hash:
        return True
    ids = set(ours.text("image_id").tolist())
    return not ids.isdisjoint(theirs.text("image_id").tolist())


def find_photos(store: Store) -> Path | None:
    """Return the folder of the photos that a store was built from, None if it is not here.

    A build keeps the hashes of its input files by their path in ``.hashes.json`` beside the store.
    """
    cache = store.path.parent / ".hashes.json"
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = store.group("index").text("image_file")
    wanted = [files[row] for row in np.linspace(0, len(store) - 1, _PLACES).astype(int).tolist()]
    for folder in _folders(known if isinstance(known, dict) else (), list(filter(None, wanted))):
        if all((folder / name).is_file() for name in wanted):
            return folder
    return None


def _folders(paths: Iterable[str], names: Sequence[str]) -> list[Path]:
    """Return the folders in which paths have one of these names, those of most names first."""
    counts: dict[Path, int] = {}
    endings = tuple(f"/{name}" for name in names)
    for path in paths:
        if path.endswith(endings):
            for ending in endings:
                if path.endswith(ending):
                    folder = Path(path[: -len(ending)] or "/")
                    counts[folder] = counts.get(folder, 0) + 1
    return sorted(counts, key=lambda folder: -counts[folder])
