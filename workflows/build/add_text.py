"""``AddText``: parse the captions of an existing store and add their text graphs.

An imported store has features, boxes and captions, but no parses. ``AddText`` runs the text stages
of a build for the captions in its index, and binds the results and the other groups of the store
in a new manifest. The earlier manifest is kept.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import luigi

from features.commands import next_steps
from features.format import bind_store, read_group, store_manifest_path, sweep
from workflows.build.stages import ExtractStoredTriplets, ParseStoredCaptions, TextTask
from workflows.build.summary import count_text
from workflows.build.text_plan import StoredTextPlan, stored_text_plan
from workflows.cluster import check_scheduler
from workflows.tasks import EntryTask


class AddText(EntryTask, TextTask):
    """Parse the captions of a store, such as an imported one, and add their text graphs."""

    _started = 0.0

    @cached_property
    def plan(self) -> StoredTextPlan:
        """The text groups of the store that was the latest at the start."""
        self._started = time.monotonic()
        manifest = store_manifest_path(Path(self.options.store_dir)).resolve()
        return stored_text_plan(replace(self.options, store_dir=str(manifest)))

    def needs(self) -> list[luigi.Task]:
        """Return both stages: Luigi checks no requirements of a complete stage."""
        # an error of a manifest or of the scheduler is raised here, not in the stages
        finished = [group.finished() for group in self.plan.text_groups().values()]
        if self.options.scheduler_address and not all(finished):
            check_scheduler(self.options.scheduler_address)
        stages = (ParseStoredCaptions, ExtractStoredTriplets)
        return [self.clone(stage, store_dir=str(self.plan.manifest)) for stage in stages]

    def work(self) -> None:
        """Bind the text groups into the store, make it the latest and print one line."""
        plan, document = self.plan, self.plan.document
        texts = {name: group.folder for name, group in plan.text_groups().items()}
        kept = {
            name: entry
            for name, entry in document["groups"].items()
            if name not in ("tokens", "tokens@ud", "text")
        }
        groups = {name: read_group(folder) for name, folder in texts.items()}
        found = count_text(groups["text"])
        counts = f"{found['text_objects']:,} objects, {found['attributes']:,} attributes, "
        counts += f"{found['triplets']:,} triplets"
        bound = {name: entry["hash"] for name, entry in document["groups"].items()}
        wanted = {name: entry["hash"] for name, entry in kept.items()}
        if bound == wanted | {name: group.hash for name, group in groups.items()}:
            line = f"nothing to build: the store has these text graphs ({counts}): {plan.manifest}"
        else:
            captions = sum(len(entry.captions) for entry in plan.entries)
            folders = {name: plan.store_dir / entry["folder"] for name, entry in kept.items()}
            summary = _summary(document["summary"], captions, found, groups)
            path = bind_store(plan.store_dir, document["dataset"], folders | texts, summary)
            seconds = time.monotonic() - self._started
            line = f"{captions:,} captions: {counts} in {seconds:,.1f} s; store {path}"
        for folder in (plan.store_dir, *texts.values()):
            sweep(folder)
        sys.stdout.write(f"{document['dataset']}: {line}\n")
        sys.stdout.flush()
        next_steps(["show", plan.store_dir])


def _summary(
    before: dict[str, Any], captions: int, found: dict[str, int], groups: dict[str, Any]
) -> dict[str, Any]:
    """Return the summary of the store, updated with its text groups."""
    sizes = {name: sum(group.sizes) for name, group in groups.items()}
    spent = {n: group.params.get("built", {}).get("seconds", 0.0) for n, group in groups.items()}
    return {
        **before,
        "captions": before.get("captions", captions),
        **found,
        "bytes": {**before.get("bytes", {}), **sizes},
        "seconds": {**before.get("seconds", {}), **spent},
    }
