"""What Luigi looks at: a variant folder is there when its manifest says so, under the right key."""

from __future__ import annotations

import json
from pathlib import Path

import luigi

__all__ = ["VariantTarget"]


class VariantTarget(luigi.Target):
    """A finished variant of one column group.

    Reads one small manifest, never the shards: ten thousand of them would take seconds to open.

    Args:
        folder: ``<store>/<group>-<key12>``.
        key: the full content key that the manifest must carry.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def exists(self) -> bool:
        """Return True when the manifest is there and belongs to this key."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(manifest, dict) and manifest.get("key") == self.key

    def __repr__(self) -> str:
        """Show the folder in Luigi's messages."""
        return f"VariantTarget({self.folder})"
