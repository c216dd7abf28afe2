"""Luigi targets: a finished group, and the finished run of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import luigi

from features.format import Group, replacing

__all__ = ["GroupTarget", "RunTarget"]


@dataclass(frozen=True)
class GroupTarget(luigi.Target):
    """A finished group."""

    group: Group

    def exists(self) -> bool:
        """Return True if the group is finished under its key and has all its shards.

        Raises: NewerFormatError: a newer release wrote its manifest.
        """
        return self.group.finished()


@dataclass(frozen=True)
class RunTarget(luigi.Target):
    """A run folder that was trained to the end under one key.

    Attributes:
        folder: the run folder.   key: the key in its marker, ``trained.json``.
    """

    folder: Path
    key: str

    @property
    def marker(self) -> Path:
        """The file that records the key."""
        return self.folder / "trained.json"

    def exists(self) -> bool:
        """Return True if training has finished under this key."""
        try:
            return bool(json.loads(self.marker.read_text())["key"] == self.key)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def finish(self) -> None:
        """Write the marker."""
        with replacing(self.marker) as partial:
            partial.write_text(json.dumps({"key": self.key}) + "\n")
