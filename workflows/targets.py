"""What Luigi looks at: a variant folder is there when its manifest says so, under the right key."""

from __future__ import annotations

from pathlib import Path

import luigi

from features.format.sidecar import group_done

__all__ = ["VariantTarget"]


class VariantTarget(luigi.Target):
    """A finished variant of one column group.

    Reads one small manifest and looks whether the files that it lists are there; it opens none of
    them, which would take seconds where they are ten thousand.

    Args:
        folder: ``<store>/<group>-<key12>``.
        key: the full content key that the manifest must carry.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def exists(self) -> bool:
        """Return True when the group is finished under this key and no shard has gone.

        Raises: NewerFormatError: a newer release finished it.
        """
        return group_done(self.folder, self.key)

    def __repr__(self) -> str:
        """Show the folder in Luigi's messages."""
        return f"VariantTarget({self.folder})"
