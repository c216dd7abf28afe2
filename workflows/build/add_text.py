"""``AddText``: parses and text graphs for the captions of a store that has none, or has others.

An importer brings features, boxes and captions, but parses nothing. ``AddText`` runs the text
stages of a build over the captions in the store's index and binds what they make beside the groups
that are there; nothing else is read or written, and the manifest that was the latest stays.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import luigi

from features.errors import ScenestoreError
from features.format.group import read_group
from features.format.manifest import bind_store, store_manifest_path
from features.format.sidecar import group_done
from workflows.build.stages import ParseStage, ShardTask, TripletStage
from workflows.build.summary import count_text
from workflows.build.text_plan import StoredTextPlan, stored_text_plan

__all__ = ["AddText"]

_TEXT = ("tokens", "tokens@ud", "text")  # what is bound anew


class TextTask(ShardTask):
    """Parameters that decide the text of a store."""

    store_dir = luigi.Parameter(description="folder of the store, or one store manifest")
    parser = luigi.Parameter(default="spacy", description="caption parser: spacy or stanza")
    profile = luigi.Parameter(default="extended", description="triplet rules: spice or extended")
    scheme = luigi.Parameter(
        default="ud", description="dependency scheme that is stored: ud, clear or ud1-basic"
    )

    @property
    def plan(self) -> StoredTextPlan:
        """Keys and folders of the text; ``store_dir`` is a manifest here."""
        return stored_text_plan(Path(self.store_dir), self.parser, self.profile, self.scheme)


class ParseStoredCaptions(TextTask, ParseStage):
    """Parse the captions of a store."""


class ExtractStoredTriplets(TextTask, TripletStage):
    """Make the text graphs of a store."""

    def requires(self) -> luigi.Task:
        """Need the parses."""
        return self.clone(ParseStoredCaptions)


class AddText(TextTask):
    """Parse the captions of a store, for example an imported one, and bind their graphs to it."""

    _done = False
    _refused: ScenestoreError | None = None
    _manifest: Path | None = None
    _began = 0.0

    @property
    def plan(self) -> StoredTextPlan:
        """Keys and folders of the text of the store that was the latest when this began."""
        if self._manifest is None:
            self._began = time.monotonic()
            self._manifest = store_manifest_path(Path(self.store_dir)).resolve()
        return stored_text_plan(self._manifest, self.parser, self.profile, self.scheme)

    def requires(self) -> list[luigi.Task]:
        """Return both stages; an error in the options or the store is kept for ``run``.

        Luigi does not look behind a stage that is complete: a parse may be lost there, too.
        """
        try:
            plan = self.plan
            for variant in plan.text_variants().values():
                group_done(variant.folder, variant.key)  # raises where Luigi would print a trace
        except ScenestoreError as error:
            # raised here, Luigi would print a trace and call it a scheduling error
            self._refused = error
            return []
        stages = (ParseStoredCaptions, ExtractStoredTriplets)
        return [self.clone(stage, store_dir=str(plan.manifest)) for stage in stages]

    def complete(self) -> bool:
        """Return True once this process has said what there is."""
        return self._done

    def run(self) -> None:
        """Bind the text into the store, make it the latest and say so in one line."""
        if self._refused is not None:
            raise self._refused
        plan = self.plan
        document = plan.document
        bound = {name: entry["hash"] for name, entry in document["groups"].items()}
        others = {name: digest for name, digest in bound.items() if name not in _TEXT}
        folders = {name: plan.store_dir / document["groups"][name]["folder"] for name in others}
        folders |= {name: variant.folder for name, variant in plan.text_variants().items()}
        groups = {name: read_group(folders[name]) for name in plan.text_variants()}
        found = count_text(groups["text"])
        counts = f"{found['text_objects']:,} objects, {found['attributes']:,} attributes, "
        counts += f"{found['triplets']:,} triplets"
        if bound == others | {name: group.hash for name, group in groups.items()}:
            line = f"nothing to build: the store has this text already ({counts}): {plan.manifest}"
        else:
            captions = sum(len(entry.captions) for entry in plan.entries)
            summary = _summary(document["summary"], captions, found, groups)
            path = bind_store(plan.store_dir, document["dataset"], folders, summary)
            seconds = time.monotonic() - self._began
            line = f"{captions:,} captions: {counts} in {seconds:,.1f} s; store {path}"
        sys.stdout.write(f"{document['dataset']}: {line}\n")
        sys.stdout.flush()
        self._done = True


def _summary(
    before: dict[str, Any], captions: int, found: dict[str, int], groups: dict[str, Any]
) -> dict[str, Any]:
    """Return the summary of the store with what is known of its text now."""
    size = {name: sum(group.sizes) for name, group in groups.items()}
    spent = {n: group.params.get("built", {}).get("seconds", 0.0) for n, group in groups.items()}
    return {
        **before,
        "captions": before.get("captions", captions),
        **found,
        "bytes": {**before.get("bytes", {}), **size},
        "seconds": {**before.get("seconds", {}), **spent},
    }
