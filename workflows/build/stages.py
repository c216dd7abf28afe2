"""The stages of a build, one Luigi task each; the shards of a stage go to Dask.

``IndexImages`` -> ``DetectGraphs`` (scene graphs, and region features)
                -> ``ParseCaptions`` -> ``ExtractTriplets`` (dependency scheme and rule profile)

``AddText`` runs the two text stages for the captions of an existing store.
"""

from __future__ import annotations

import abc
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import luigi

from features.commands import Progress
from features.errors import UnreadableInput
from features.format import Group, pack_index, read_group
from pipeline.shards import (
    ParseJob,
    TextJob,
    VisualJob,
    parse_shard,
    text_shard,
    visual_shard,
)
from workflows.build.options import (
    BuildOptions,
    TextOptions,
    absolute_plugin,
    takes,
)
from workflows.build.plan import Plan, plan_of
from workflows.build.text_plan import StoredTextPlan, TextPlan, stored_text_plan
from workflows.cluster import Fan, Where
from workflows.targets import GroupTarget
from workflows.tasks import Task


@takes(BuildOptions)
class BuildTask(Task):
    """A task with the options of a build."""

    @cached_property
    def options(self) -> BuildOptions:
        """The values of the parameters. Raises: UsageError: a value is not allowed."""
        return BuildOptions.of(self)

    @property
    def plan(self) -> Plan:
        """What the build makes."""
        return plan_of(self.options)


@takes(TextOptions)
class TextTask(Task):
    """A task with the options of ``AddText``; ``store_dir`` is a store manifest."""

    @cached_property
    def options(self) -> TextOptions:
        """The values of the parameters."""
        return TextOptions.of(self)

    @property
    def plan(self) -> StoredTextPlan:
        """What the text stages make."""
        return stored_text_plan(self.options)


class Stage(Task):
    """A stage: it writes the shards of one or two groups, then their manifests."""

    label = "stage"
    unit = "images"

    @property
    @abc.abstractmethod
    def options(self) -> TextOptions:
        """The options of the task."""

    @property
    @abc.abstractmethod
    def plan(self) -> TextPlan:
        """What is built."""

    @abc.abstractmethod
    def groups(self) -> list[Group]:
        """Return the groups that the stage writes."""

    def output(self) -> list[GroupTarget]:
        """Return one target per group."""
        return [GroupTarget(group) for group in self.groups()]

    function: Callable[[Any, int], Any]  # writes one shard

    @abc.abstractmethod
    def job(self, number: int) -> object:
        """Return the first argument of the function for one shard."""

    def weigh(self, rows: range) -> int:
        """Return how many ``unit`` the shard with these image rows has."""
        return len(rows)

    def run(self) -> None:
        """Write the missing shards, then the manifests."""
        started = time.monotonic()
        ranges = self.plan.ranges
        wanted, todo = self.write()
        seconds = round(time.monotonic() - started, 2)
        built = {"seconds": seconds, "shards": len(todo), "of": len(ranges), **self.counts}
        index = read_group(self.plan.index.folder).image_index
        for group in wanted:
            group.finish(len(ranges), index=index, built=built)

    @cached_property
    def counts(self) -> Counter[str]:
        """Counts of this run, for the manifests."""
        return Counter()

    def write(self) -> tuple[list[Group], list[int]]:
        """Write the missing shards; return the groups to finish and the shards.

        Those that lack a file come first. The sidecars of the others are read when these are
        written, so that a build with thousands of finished shards continues at once.
        """
        ranges = self.plan.ranges
        wanted = [group for group in self.groups() if not group.finished()]
        for group in wanted:
            group.prepare()  # fails before a model is loaded if the folder cannot be written
        todo = sorted({number for group in wanted for number in group.absent(len(ranges))})
        sizes = [self.weigh(rows) for rows in ranges]
        before = sum(sizes) - sum(sizes[number] for number in todo)
        where = Where(
            self.options.jobs, self.options.scheduler_address, self.options.worker_memory << 20
        )
        with (
            Progress(self.label, self.unit, sum(sizes), before, publish=self.publish) as progress,
            Fan(
                self.function,
                lambda number: with_absolute_paths(self.job(number)),
                where,
                describe=self.describe,
                tracking=self.set_tracking_url,
            ) as fan,
        ):

            def run(numbers: Iterable[int]) -> None:
                fan.add(sorted(numbers))
                for number, result in fan:
                    if self.accept(fan, number, result):
                        progress.advance(sizes[number])

            run(todo)
            damaged = {n for group in wanted for n in group.missing(ranges)}.difference(todo)
            progress.take_back(sum(sizes[number] for number in damaged))
            run(damaged)
        return wanted, [*todo, *damaged]

    def accept(self, fan: Fan, number: int, result: Any) -> bool:
        """Take the result of a shard; return False if the shard must run again."""
        return True

    def publish(self, line: str, percent: int) -> None:
        """Show progress in the scheduler's web page."""
        self.set_status_message(line)  # type: ignore[misc]  # not None while the task runs
        self.set_progress_percentage(percent)  # type: ignore[misc]

    def describe(self, number: int) -> str:
        """Return the images of a shard, for error messages."""
        rows = self.plan.ranges[number]
        return f"images {self.plan.entries[rows[0]].id} to {self.plan.entries[rows[-1]].id}"


def with_absolute_paths(job: Any) -> Any:
    """Return a job for workers that were started in another folder, such as those of a cluster."""
    changes: dict[str, Any] = {}
    for name in (one.name for one in fields(job)):
        value = getattr(job, name)
        if isinstance(value, Group):
            changes[name] = _absolute(value)
        elif name == "source" and value is not None:
            changes[name] = tuple(map(_absolute, value))
        elif name == "images_dir" or (name == "detections" and Path(value).exists()):
            changes[name] = str(Path(value).absolute()) if value else ""
        elif name in ("detector", "relations", "features", "parser"):
            changes[name] = absolute_plugin(value)
    return replace(job, **changes)


def _absolute(group: Group) -> Group:
    return replace(group, folder=group.folder.absolute())


class IndexImages(BuildTask):
    """Write the index: image ids, files, splits and captions."""

    def output(self) -> GroupTarget:
        """Return the index group."""
        return GroupTarget(self.plan.index)

    def run(self) -> None:
        """Write the shards in this process; a million captions take seconds."""
        started = time.monotonic()
        plan, index = self.plan, self.plan.index
        index.prepare()
        records = [
            index.write(number, rows, pack_index(plan.entries[rows.start : rows.stop]))
            for number, rows in enumerate(plan.ranges)
        ]
        seconds = round(time.monotonic() - started, 2)
        index.finish(records, built={"seconds": seconds, "shards": len(records)})


class DetectGraphs(BuildTask, Stage):
    """Detect objects, predict relations and extract features, in one pass over the images."""

    label = "scene graphs"

    def requires(self) -> list[luigi.Task]:
        """Return the index stage."""
        return [self.clone(IndexImages)]

    def groups(self) -> list[Group]:
        """Return graphs and features; features have a key of their own."""
        return [self.plan.visual, self.plan.regions]

    function = staticmethod(visual_shard)

    @cached_property
    def _failed(self) -> dict[str, str]:
        """Images that a plug-in has failed on in this run: id -> reason."""
        return {}

    def write(self) -> tuple[list[Group], list[int]]:
        """Write the missing shards.

        With ``--on-error skip``, images that a plug-in failed on are excluded: the groups get
        another key, in which the exclusions stand, and the shards that are finished are copied.
        """
        while True:
            written = super().write()
            if not self._failed:
                return written
            self.plan.exclude(self._failed)
            self._failed.clear()

    def accept(self, fan: Fan, number: int, result: Any) -> bool:
        """Note failures; run the shard again without these images, to find out about the others."""
        self.counts.update(result.counts)
        self._failed.update(result.failed)
        if result.failed:
            fan.add([number])
        return not result.failed

    def run(self) -> None:
        """Write the shards and the manifests; forget hashes of photos that have changed."""
        try:
            super().run()
        except UnreadableInput:
            self.plan.forget_hashes()
            raise

    def job(self, number: int) -> VisualJob:
        """Return the job of one shard."""
        job = self._job
        rows = self.plan.ranges[number]
        digests = self.plan.digests[rows.start : rows.stop] if job.images_dir else []
        if not self._failed:
            return replace(job, digests=tuple(digests))
        return replace(
            job,
            digests=tuple(digests),
            excluded={**job.excluded, **self._failed},
            write=False,
        )

    @property
    def _job(self) -> VisualJob:
        plan, options = self.plan, self.options
        detector, detections = options.detector_file
        excluded = plan.excluded
        return VisualJob(
            index=plan.index,
            visual=plan.visual,
            regions=plan.regions,
            images_dir=options.images_dir if plan.has_files else "",
            detector=detector,
            detections=detections,
            relations=plan.relations,
            features=plan.features,
            rules=plan.rules,
            on_error=options.on_error,
            timeout=options.item_timeout,
            excluded=excluded,
            source=plan.without_exclusions if excluded else None,
        )


class CaptionStage(Stage):
    """A stage whose progress counts captions."""

    unit = "captions"

    def weigh(self, rows: range) -> int:
        """Return the number of captions of these images."""
        return sum(len(entry.captions) for entry in self.plan.entries[rows.start : rows.stop])


class ParseStage(CaptionStage):
    """Tokenise and parse every caption."""

    label = "parsing"

    def groups(self) -> list[Group]:
        """Return the parses."""
        return [self.plan.parses]

    function = staticmethod(parse_shard)

    def job(self, number: int) -> ParseJob:
        """Return the job of every shard."""
        plan, options = self.plan, self.options
        return ParseJob(plan.index, plan.parses, options.parser, options.item_timeout)


class TripletStage(CaptionStage):
    """Apply the rules of a profile and the dependency scheme to the parses."""

    label = "triplets"

    def groups(self) -> list[Group]:
        """Return the text graphs, and the tokens if their scheme is not UD."""
        plan = self.plan
        return [plan.text] if plan.tokens is plan.parses else [plan.text, plan.tokens]

    function = staticmethod(text_shard)

    def job(self, number: int) -> TextJob:
        """Return the job of every shard."""
        plan = self.plan
        return TextJob(
            index=plan.index,
            parses=plan.parses,
            text=plan.text,
            tokens=None if plan.tokens is plan.parses else plan.tokens,
            profile=self.options.profile,
            scheme=self.options.scheme,
        )


class ParseCaptions(BuildTask, ParseStage):
    """Parse the captions of a build."""

    def requires(self) -> list[luigi.Task]:
        """Return the index stage."""
        return [self.clone(IndexImages)]


class ExtractTriplets(BuildTask, TripletStage):
    """Extract the text graphs of a build."""

    def requires(self) -> list[luigi.Task]:
        """Return the parse stage."""
        return [self.clone(ParseCaptions)]


class ParseStoredCaptions(TextTask, ParseStage):
    """Parse the captions of an existing store."""


class ExtractStoredTriplets(TextTask, TripletStage):
    """Extract the text graphs of an existing store."""

    def requires(self) -> list[luigi.Task]:
        """Return the parse stage."""
        return [self.clone(ParseStoredCaptions)]
