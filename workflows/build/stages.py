"""The stages of a build, one Luigi task each; the shards inside a stage go to Dask.

``IndexImages`` -> ``DetectGraphs`` (scene graphs, then region and union features)
                -> ``ParseCaptions`` -> ``ExtractTriplets`` (dependency scheme and rule profile)

The two text stages are also run for the captions of a store that has none: ``workflows.build.add_text``.
"""

from __future__ import annotations

import abc
import time
from typing import TYPE_CHECKING, Any

import luigi

from features.format.codec import pack_index
from features.format.files import sweep, write_errors
from features.format.sidecar import finish_group, group_done, image_index, shard_done, write_shard
from workflows.build.plan import BuildOptions, Plan, plan_of
from workflows.build.progress import Progress
from workflows.cluster import Where, fan_out, usable_cores
from workflows.targets import VariantTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from features.format.record import ShardRecord
    from workflows.build.text_plan import TextPlan, Variant

__all__ = [
    "BuildTask",
    "DetectGraphs",
    "ExtractTriplets",
    "IndexImages",
    "ParseCaptions",
    "ParseStage",
    "ShardTask",
    "TripletStage",
]


class ShardTask(luigi.Task):
    """What every task has that gives shards to workers."""

    jobs = luigi.IntParameter(
        default=usable_cores(), significant=False, description="local worker processes"
    )
    scheduler_address = luigi.Parameter(
        default="", significant=False, description="address of a running Dask scheduler"
    )

    @property
    def where(self) -> Where:
        """Where the shards are computed."""
        return Where(self.jobs, self.scheduler_address)

    def on_failure(self, exception: BaseException) -> str:
        """Tell the scheduler the error's message; Luigi would send a stack trace."""
        return f"{type(exception).__name__}: {exception}"

    def publish(self, line: str, percent: int) -> None:
        """Show progress in the scheduler's web page."""
        self.set_status_message(line)
        self.set_progress_percentage(percent)


class BuildTask(ShardTask):
    """Parameters that all stages of a build share; only the plan decides what is stale."""

    dataset = luigi.Parameter(default="dataset", description="name of the data set")
    images_dir = luigi.Parameter(default="", description="folder of the pictures")
    captions = luigi.Parameter(
        default="", description="captions file, several with commas, or a folder of them"
    )
    store_dir = luigi.Parameter(default="", description="folder of the store")
    detector = luigi.Parameter(
        default="nanodet", description="object detector; none: captions only, no pictures"
    )
    detections = luigi.Parameter(
        default="", description="file or folder of precomputed detections or gold boxes"
    )
    relations = luigi.Parameter(
        default="auto",
        description="relation predictor; auto takes the detector's own if it has any",
    )
    features = luigi.Parameter(
        default="auto", description="region features; auto takes the detector's own if it has any"
    )
    parser = luigi.Parameter(default="spacy", description="caption parser: spacy or stanza")
    profile = luigi.Parameter(default="extended", description="triplet rules: spice or extended")
    scheme = luigi.Parameter(
        default="ud", description="dependency scheme that is stored: ud, clear or ud1-basic"
    )
    max_objects = luigi.IntParameter(default=36, description="most objects per image")
    max_relations = luigi.IntParameter(default=25, description="most relations per image")
    min_score = luigi.OptionalFloatParameter(
        default=None, description="objects below are dropped; default: what suits the detector"
    )
    cross_class_iou = luigi.OptionalFloatParameter(
        default=None,
        description="of two boxes that overlap more the weaker goes, whatever their classes; "
        "1 keeps all; default: what suits the detector",
    )
    whole_image = luigi.ChoiceParameter(
        default="auto",
        choices=["auto", "always", "empty"],
        description="the whole picture as an object: always, or only where nothing was found",
    )
    on_error = luigi.ChoiceParameter(
        default="fail",
        choices=["fail", "skip"],
        description="stop at the first bad item, or count it, name it and go on",
    )

    def options(self) -> BuildOptions:
        """Return the parameters that decide the content."""
        names = BuildOptions.__dataclass_fields__
        return BuildOptions(**{name: getattr(self, name) for name in names})

    @property
    def plan(self) -> Plan:
        """Keys and folders of this build."""
        return plan_of(self.options())


class Stage(ShardTask):
    """A stage writes the shards of one or two variants, then their manifests."""

    label = "stage"
    unit = "images"

    @property
    @abc.abstractmethod
    def plan(self) -> TextPlan:
        """Keys and folders of what is built."""

    @abc.abstractmethod
    def variants(self) -> list[Variant]:
        """Return what the stage makes."""

    def output(self) -> list[VariantTarget]:
        """Return one target per variant."""
        return [VariantTarget(variant.folder, variant.key) for variant in self.variants()]

    @abc.abstractmethod
    def shard(self) -> tuple[Callable[[Any, int], Any], object]:
        """Return the shard function and its job."""

    def weigh(self, rows: range) -> int:
        """Return how many units a shard has; images unless the stage counts captions."""
        return len(rows)

    def run(self) -> None:
        """Build the shards that are missing and finish the manifests."""
        started = time.monotonic()
        plan, ranges = self.plan, self.plan.ranges
        wanted = [v for v in self.variants() if not group_done(v.folder, v.key)]
        for variant in wanted:
            with write_errors(variant.folder):  # told before a model is loaded
                variant.folder.mkdir(parents=True, exist_ok=True)
            sweep(variant.folder)
        todo = [
            number
            for number, rows in enumerate(ranges)
            if any(shard_done(v.folder, number, v.key, rows) is None for v in wanted)
        ]
        sizes = [self.weigh(rows) for rows in ranges]
        before = sum(sizes) - sum(sizes[number] for number in todo)
        function, job = self.shard()
        with Progress(self.label, self.unit, sum(sizes), before, self.publish) as progress:
            for number, _ in fan_out(
                function,
                job,
                todo,
                self.where,
                describe=self._describe,
                tracking=self.set_tracking_url,
            ):
                progress.advance(sizes[number])
        seconds = round(time.monotonic() - started, 2)
        self._finish(plan, wanted, {"seconds": seconds, "shards": len(todo), "of": len(ranges)})

    def _finish(self, plan: TextPlan, wanted: Iterable[Variant], built: dict[str, object]) -> None:
        index = image_index(plan.index.folder)
        for variant in wanted:
            params = {**variant.params, "built": built}
            finish_group(
                variant.folder, variant.group, variant.key, params, len(plan.ranges), index=index
            )

    def _describe(self, number: int) -> str:
        entries = self.plan.entries
        rows = self.plan.ranges[number]
        return f"images {entries[rows[0]].id} to {entries[rows[-1]].id}"


class IndexImages(BuildTask):
    """Write image ids, files, splits and captions: the rows that every other group follows."""

    def output(self) -> VariantTarget:
        """Return the index."""
        return VariantTarget(self.plan.index.folder, self.plan.index.key)

    def run(self) -> None:
        """Write the shards here; this is seconds for a million captions."""
        started = time.monotonic()
        plan, index = self.plan, self.plan.index
        sweep(index.folder)
        records: list[ShardRecord] = []
        for number, rows in enumerate(plan.ranges):
            columns = pack_index(plan.entries[rows.start : rows.stop])
            records.append(
                write_shard(
                    index.folder,
                    number,
                    columns,
                    group="index",
                    key=index.key,
                    row0=rows.start,
                    rows=len(rows),
                )
            )
        built = {"seconds": round(time.monotonic() - started, 2), "shards": len(records)}
        finish_group(index.folder, "index", index.key, {**index.params, "built": built}, records)


class DetectGraphs(BuildTask, Stage):
    """Detect objects, predict relations, pool features: one pass over each picture."""

    label = "scene graphs"

    def requires(self) -> luigi.Task:
        """Need the list of images."""
        return self.clone(IndexImages)

    def variants(self) -> list[Variant]:
        """Return graphs and features; they have keys of their own, so features alone can change."""
        return [self.plan.visual, self.plan.regions]

    def shard(self) -> tuple[Callable[[Any, int], Any], object]:
        """Return the shard function and its job."""
        from pipeline.shards import VisualJob, visual_shard

        plan, options = self.plan, self.plan.options
        job = VisualJob(
            index=plan.index.folder,
            visual=(plan.visual.folder, plan.visual.key),
            regions=(plan.regions.folder, plan.regions.key),
            images_dir=options.images_dir if plan.has_pictures else "",
            detector=options.detector,
            detections=options.detections,
            relations=plan.relations,
            features=plan.features,
            rules=plan.rules,
            on_error=options.on_error,
        )
        return visual_shard, job


class TextStage(Stage):
    """A stage that counts captions."""

    unit = "captions"

    def weigh(self, rows: range) -> int:
        """Return the captions of a shard."""
        return sum(len(entry.captions) for entry in self.plan.entries[rows.start : rows.stop])


class ParseStage(TextStage):
    """Tokenise and parse every caption once; a change of rules or profile never comes here."""

    label = "parsing"

    def variants(self) -> list[Variant]:
        """Return the parse cache."""
        return [self.plan.parses]

    def shard(self) -> tuple[Callable[[Any, int], Any], object]:
        """Return the shard function and its job."""
        from pipeline.shards import ParseJob, parse_shard

        plan, parses = self.plan, self.plan.parses
        return parse_shard, ParseJob(plan.index.folder, (parses.folder, parses.key), plan.parser)


class TripletStage(TextStage):
    """Apply the rules of a profile and the dependency scheme to the parses."""

    label = "triplets"

    def variants(self) -> list[Variant]:
        """Return the text graphs, and the tokens where another scheme than UD is wanted."""
        plan = self.plan
        return [plan.text] if plan.tokens is plan.parses else [plan.text, plan.tokens]

    def shard(self) -> tuple[Callable[[Any, int], Any], object]:
        """Return the shard function and its job."""
        from pipeline.shards import TextJob, text_shard

        plan = self.plan
        return text_shard, TextJob(
            index=plan.index.folder,
            parses=plan.parses.folder,
            text=(plan.text.folder, plan.text.key),
            tokens=None if plan.tokens is plan.parses else (plan.tokens.folder, plan.tokens.key),
            profile=plan.profile,
            scheme=plan.scheme,
        )


class ParseCaptions(BuildTask, ParseStage):
    """Parse the captions of a build."""

    def requires(self) -> luigi.Task:
        """Need the captions."""
        return self.clone(IndexImages)


class ExtractTriplets(BuildTask, TripletStage):
    """Make the text graphs of a build."""

    def requires(self) -> luigi.Task:
        """Need the parses."""
        return self.clone(ParseCaptions)
