"""The entry points: ``BuildFlickr30k``, ``BuildCoco`` and any data set with a captions file.

A build ends with one store manifest that binds the variants of its stages, and one summary. The
entry task itself always runs, and costs nothing: that is how a second run can say that there was
nothing to do, and how switching back to earlier options makes their store the latest again.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import luigi

from features.errors import NewerFormatError, ScenestoreError, StoreError
from features.format.files import read_sealed
from features.format.group import read_group
from features.format.manifest import bind_store, read_store_manifest
from features.format.sidecar import group_done
from workflows.build.stages import (
    BuildTask,
    DetectGraphs,
    ExtractTriplets,
    IndexImages,
    ParseCaptions,
)
from workflows.build.summary import changed_options, count_store, describe_build

if TYPE_CHECKING:
    from pathlib import Path

    from workflows.build.plan import Plan

__all__ = ["BuildCoco", "BuildDataset", "BuildFlickr30k"]

log = logging.getLogger(__name__)


class BuildDataset(BuildTask):
    """Build a store from any captions file: --dataset names it."""

    _done = False
    _refused: ScenestoreError | None = None
    _present: dict[str, bool] | None = None
    _reason = ""

    def requires(self) -> list[luigi.Task]:
        """Return every stage; an error in the inputs or the folder is kept for ``run``.

        Luigi does not look behind a stage that is complete: a shard may be lost there, too.
        """
        try:
            variants = self.plan.variants()
            if self._present is None:
                self._present = {n: group_done(v.folder, v.key) for n, v in variants.items()}
                self._reason = changed_options(self.plan)
                if self._reason:
                    sys.stderr.write(f"{self.dataset}: {self._reason}\n")
        except ScenestoreError as error:
            # Raised here, Luigi would print a trace and call it a scheduling error.
            self._refused = error
            return []
        graphs = [DetectGraphs] if self.plan.has_graphs else []
        return [self.clone(s) for s in (IndexImages, *graphs, ParseCaptions, ExtractTriplets)]

    def complete(self) -> bool:
        """Return True once this process has said what there is."""
        return self._done

    def run(self) -> None:
        """Bind the variants into a store, make it the latest, print the summary."""
        if self._refused is not None:
            raise self._refused
        plan = self.plan
        folders = {name: variant.folder for name, variant in plan.variants().items()}
        present = self._present or {}
        path = self._bind(plan, folders)
        document = read_store_manifest(path)
        sys.stdout.write(describe_build(plan, path, document, present))
        sys.stdout.flush()
        self._done = True

    def _bind(self, plan: Plan, folders: dict[str, Path]) -> Path:
        """Return the store manifest; write it unless the same one is the latest already."""
        try:
            name = read_sealed(plan.store_dir / "latest.json", "latest")["manifest"]
            path = plan.store_dir / str(name)
            document = read_store_manifest(path)
            bound = {n: entry["key"] for n, entry in document["groups"].items()}
            same = document["dataset"] == self.dataset and bound == {
                n: v.key for n, v in plan.variants().items()
            }
            if same and all(
                entry["hash"] == read_group(folders[n]).hash
                for n, entry in document["groups"].items()
            ):
                return path
        except NewerFormatError:
            raise  # its latest.json is not ours to replace
        except (StoreError, KeyError):
            log.debug("no usable latest store in %s", plan.store_dir)
        summary = {**count_store(plan, folders), "missing": len(plan.missing)}
        return bind_store(plan.store_dir, str(self.dataset), folders, summary)


class BuildFlickr30k(BuildDataset):
    """Build the Flickr30k store from its photos and Karpathy's dataset_flickr30k.json."""

    dataset = luigi.Parameter(default="flickr30k", description="name of the data set")


class BuildCoco(BuildDataset):
    """Build the COCO store: images in one folder, or under train2014/ and val2014/."""

    dataset = luigi.Parameter(default="coco", description="name of the data set")
