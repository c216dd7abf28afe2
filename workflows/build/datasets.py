"""The builds that a user starts: ``BuildDataset``, and one for each of the common data sets.

A build ends with a store manifest that binds the groups of its stages, and prints a summary. It
always runs, even if every stage is complete, so that the second of two equal builds reports that
there was nothing to build, and earlier options make their store the latest again.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import luigi

from features.errors import NewerFormatError, StageError, StoreError
from features.format import (
    bind_store,
    read_group,
    read_store_manifest,
    store_manifest_path,
    sweep,
)
from features.maintenance import verify_store
from workflows.build.options import BuildOptions, option_parameter
from workflows.build.stages import (
    BuildTask,
    DetectGraphs,
    ExtractTriplets,
    IndexImages,
    ParseCaptions,
)
from workflows.build.summary import changed_options, count_store, describe_build
from workflows.cluster import check_scheduler
from workflows.tasks import EntryTask

log = logging.getLogger(__name__)


class BuildDataset(EntryTask, BuildTask):
    """Build a store of the data set --dataset from any captions file."""

    _present: dict[str, bool] | None = None  # which groups existed before

    def needs(self) -> list[luigi.Task]:
        """Return every stage: Luigi checks no requirements of a complete stage."""
        plan = self.plan
        if self._present is None:
            new = not plan.store_dir.exists()
            if self.options.verify:
                _repair(plan.store_dir)
            self._present = {name: group.finished() for name, group in plan.groups().items()}
            if self.options.scheduler_address and not all(self._present.values()):
                try:
                    check_scheduler(self.options.scheduler_address)  # once, not in every stage
                except StageError:
                    if new:
                        plan.leave_no_trace()  # a build that cannot start leaves no folder
                    raise
            if changes := changed_options(plan):
                sys.stderr.write(f"{self.options.dataset}: {changes}\n")
        graphs = [DetectGraphs] if self.options.has_graphs else []
        stages: list[type[luigi.Task]] = [IndexImages, *graphs, ParseCaptions, ExtractTriplets]
        return [self.clone(stage) for stage in stages]

    def work(self) -> None:
        """Bind the groups into a store, make it the latest and print the summary."""
        plan = self.plan
        path = self._latest() or bind_store(
            plan.store_dir,
            self.options.dataset,
            {name: group.folder for name, group in plan.groups().items()},
            count_store(plan),
        )
        plan.keep_captions()
        for folder in (plan.store_dir, *(group.folder for group in plan.groups().values())):
            sweep(folder)
        document = read_store_manifest(path)
        sys.stdout.write(describe_build(plan, path, document, self._present or {}))
        sys.stdout.flush()

    def _latest(self) -> Path | None:
        """Return the latest store manifest if it binds these groups, so that nothing is counted.

        Raises: NewerFormatError: a newer release wrote it.
        """
        plan = self.plan
        try:
            path = store_manifest_path(plan.store_dir)
            document = read_store_manifest(path)
        except NewerFormatError:
            raise
        except StoreError:
            log.debug("no usable latest store in %s", plan.store_dir)
            return None
        bound = {name: (e["key"], e["hash"]) for name, e in document["groups"].items()}
        wanted = {name: (g.key, read_group(g.folder).hash) for name, g in plan.groups().items()}
        return path if (document["dataset"], bound) == (self.options.dataset, wanted) else None


def _repair(store_dir: Path) -> None:
    """Delete damaged files of a store, so that the stages write them again."""
    if not (store_dir / "latest.json").exists():
        return
    for finding in verify_store(store_dir, repair=True):
        sys.stderr.write(f"{finding}\n")


class BuildFlickr30k(BuildDataset):
    """Build the Flickr30k store from its images and Karpathy's dataset_flickr30k.json."""

    dataset = option_parameter(BuildOptions, "dataset", default="flickr30k")


class BuildFlickr8k(BuildDataset):
    """Build the Flickr8k store from its images and ``dataset_flickr8k.json`` of Karpathy.

    The captions can be the official ``Flickr8k.token.txt``, too, with the lists of training,
    development and test images beside it. Both have 6,000, 1,000 and 1,000 images.
    """

    dataset = option_parameter(BuildOptions, "dataset", default="flickr8k")


class BuildCoco(BuildDataset):
    """Build the COCO store from its images, in one folder or under train2014/ and val2014/."""

    dataset = option_parameter(BuildOptions, "dataset", default="coco")
