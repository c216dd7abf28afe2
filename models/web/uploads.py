"""Photos that a reader hands in. They stay in memory: on disk they are one temporary file."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.decoding import FORMATS
from features.drawing import with_kinds
from features.errors import UnknownName, UsageError
from features.records import SceneGraph, union_boxes
from features.web import LARGEST, Site, picture, small_jpeg
from models.search import detect_photos

if TYPE_CHECKING:
    from features.format import Photo

__all__ = ["HandedIn", "Uploads"]

KEPT = 8  # photos
SIDE = 1400  # pixels of the longer side of what is shown
LONGEST = 80  # characters of a name that are shown


@dataclass(frozen=True, eq=False)
class HandedIn:
    """A photo that is not in the store.

    Attributes:
        name: of its file, to show only.   site: name of the store whose detector saw it.
        photo: its graph and features.   notes: remarks of the detector.   jpeg: to show.
    """

    name: str
    site: str
    photo: Photo
    notes: tuple[str, ...]
    jpeg: bytes

    def view(self, url: str) -> dict[str, Any]:
        """Return what ``graph.html`` draws, given the address of the photo."""
        found = self.photo.found
        relations = found.relations or ()
        assert found.relation_scores is not None
        drawn = picture(
            with_kinds(
                SceneGraph(
                    image_id=self.name,
                    size=found.size,
                    boxes=found.boxes,
                    labels=found.labels,
                    scores=found.scores,
                    relations=relations,
                    relation_scores=found.relation_scores,
                    union_boxes=union_boxes(found.boxes, [(s, o) for s, _, o in relations]),
                    attributes=found.attributes or (),
                    attribute_scores=found.attribute_scores,
                    shown=found.shown,
                    relations_shown=found.relations_shown,
                )
            )
        )
        return {
            "id": self.name,
            "photo": url,
            "picture": drawn,
            "skipped": "",
            "confidence": drawn.shown,
            "certainty": drawn.links_shown,
        }


class Uploads:
    """The photos that were handed in last, each under a random key."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, HandedIn] = OrderedDict()
        self._lock = threading.Lock()
        self._detecting = threading.Lock()  # one process of a detector at a time

    def add(self, site: Site, name: str, data: bytes) -> str:
        """Detect what is in a photo, as for the images of a store; return its key.

        Args:
            site: whose detector is used.   name: of the file, to show only.   data: its contents.

        Raises: UsageError: no photo, one that is too large or damaged, or the detector failed.
        """
        if not data:
            raise UsageError("No photo was chosen.")
        if len(data) > LARGEST:
            raise UsageError(f"The photo is larger than {LARGEST >> 20} MB. Make it smaller.")
        jpeg = small_jpeg(data, SIDE)
        if not jpeg:
            raise UsageError(f"This is no photo ({', '.join(FORMATS)}), or it is damaged.")
        with self._detecting, tempfile.TemporaryDirectory(prefix="scenestore-") as folder:
            path = Path(folder, "photo")  # only this user may look into the folder
            path.write_bytes(data)
            try:
                (photo,), notes = detect_photos([str(path)], site.store)
            except UsageError as error:
                raise UsageError(str(error).replace(str(path), "the photo")) from error
        name = " ".join(name.split()) or "a photo"
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[key] = HandedIn(name[:LONGEST], site.name, photo, tuple(notes), jpeg)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return key

    def get(self, site: Site, key: str) -> HandedIn:
        """Return a photo by its key. Raises: UnknownName: it is not kept, or any more."""
        with self._lock:
            found = self._kept.get(key)
        if found is None or found.site != site.name:
            raise UnknownName("This photo is not kept any more. Choose it again.")
        return found
