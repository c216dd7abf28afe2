"""Luigi targets: the finished variant of a group, and the finished run of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luigi

from features.format.files import replacing
from features.format.group import group_done

__all__ = ["RunTarget", "Variant"]


@dataclass(frozen=True, eq=False)
class Variant(luigi.Target):
    """One variant of a group: what a stage writes, and everything that enters its key.

    Attributes:
        group: name of the group, such as ``visual``.   key: its content key.
        folder: ``<store>/<group>-<first 12 digits of key>``.
        params: stage, version, parameters and inputs, as the manifest records them.
    """

    group: str
    key: str
    folder: Path
    params: dict[str, Any]

    def exists(self) -> bool:
        """Return True if the group is finished under this key and has all its shards.

        Only the manifest is read; the shards are not opened.

        Raises: NewerFormatError: a newer release wrote the manifest.
        """
        return group_done(self.folder, self.key)


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
