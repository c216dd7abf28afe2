"""Captions that a build has read before, kept beside its store.

Reading and checking the captions of Flickr30k takes seconds, which a build with nothing to do would
spend again. What was read is kept under a key over everything that it depends on: the bytes of the
captions files, their names, the options, this code and Python.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.convert.captions.collection import CaptionSet
from features.convert.captions.reading import caption_files, read_captions
from features.errors import WriteError
from features.format import hash_file, hash_json, replacing
from features.records import Caption, ImageEntry

# Files whose bytes and name say all. Token files have lists of images beside them, and hashing tars
# takes longer than reading their captions.
_WHOLE = (
    *(".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson"),
    *(".csv", ".tsv", ".parquet", ".pq"),
)


class KeptCaptions:
    """The captions of a build, read from its files or from what an earlier build kept.

    Args:
        path: the file that keeps them; deleting it costs time only.
        captions, on_error, split_by: as for ``read_captions``.
    """

    def __init__(
        self, path: Path, captions: str | Path | Sequence[str | Path], on_error: str, split_by: str
    ) -> None:
        self.path = path
        self.captions, self.on_error, self.split_by = captions, on_error, split_by
        self._key = ""

    def read(self) -> CaptionSet:
        """Return the images and captions. Raises: as ``read_captions``."""
        key = self._current_key()
        found = self._load(key) if key else None
        if found is None:
            self._key = key  # to be kept
            found = read_captions(self.captions, on_error=self.on_error, split_by=self.split_by)
        return found

    def keep(self, found: CaptionSet) -> None:
        """Write what ``read`` returned, unless the files have changed since or it is too large.

        A store that cannot be written is left as it is.
        """
        entries = found.entries
        if not self._key or not isinstance(entries, tuple) or self._key != self._current_key():
            return
        captions = [caption for entry in entries for caption in entry.captions]
        body = json.dumps(
            {
                "images": [[e.id, e.file, e.split, len(e.captions)] for e in entries],
                "ids": [caption.id for caption in captions],
                "texts": [caption.text for caption in captions],
                "dropped": found.dropped,
                "n_dropped": found.n_dropped,
                "files": list(map(str, found.files)),
                "numbers": dict(found.numbers),
            }
        ).encode()
        head = json.dumps({"key": self._key, "sha256": hashlib.sha256(body).hexdigest()}).encode()
        with contextlib.suppress(WriteError), replacing(self.path) as partial:
            partial.write_bytes(head + b"\n" + body)
        self._key = ""

    def _current_key(self) -> str:
        """Return the key of the captions as the files are now, "" if they are not kept."""
        files = caption_files(self.captions)
        if not all(path.is_file() and path.name.lower().endswith(_WHOLE) for path in files):
            return ""
        given = [self.captions] if isinstance(self.captions, (str, Path)) else self.captions
        return hash_json(
            {
                "code": _code(),
                "python": sys.version,
                "captions": list(map(str, given)),
                "files": [[str(path), hash_file(path)] for path in files],
                "on_error": self.on_error,
                "split_by": self.split_by,
            }
        )

    def _load(self, key: str) -> CaptionSet | None:
        """Return what was kept under a key, None if there is nothing or it is damaged."""
        try:
            head, _, body = self.path.read_bytes().partition(b"\n")
            wanted = {"key": key, "sha256": hashlib.sha256(body).hexdigest()}
            if json.loads(head) != wanted:
                return None
        except (OSError, ValueError):
            return None
        kept: dict[str, Any] = json.loads(body)
        captions = map(Caption, kept["ids"], kept["texts"])
        entries = tuple(
            ImageEntry(name, file, split, tuple(itertools.islice(captions, count)))
            for name, file, split, count in kept["images"]
        )
        return CaptionSet(
            entries,
            tuple((key, reason) for key, reason in kept["dropped"]),
            kept["n_dropped"],
            tuple(map(Path, kept["files"])),
            kept["numbers"],
            len(kept["ids"]),
        )


@functools.cache
def _code() -> str:
    """Return the hash of the code of this package that can read captions."""
    root = Path(__file__).parents[2]  # the package features
    places = ("*.py", "convert/captions/*.py", "convert/safe/*.py")
    files = sorted(file for place in places for file in root.glob(place))
    return hash_json([[file.name, hash_file(file)] for file in files])
