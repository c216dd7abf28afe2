"""The work of one shard in each build stage: read the index, compute, write.

Each function is idempotent and atomic (an existing shard is kept) and loads its models once per
process. Jobs hold names and paths only, so they can be sent to any worker that shares the file
system. A worker checks first that it sees the same files and has the same versions as the plan:
otherwise it would write other contents under the same key.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from features.errors import PluginError, StageError, UnreadableInput
from features.format import (
    Group,
    Shard,
    canonical_json,
    pack_regions,
    pack_text,
    pack_tokens,
    pack_visual,
    unpack_index,
    unpack_tokens,
)
from features.records import ImageEntry, TextGraph
from pipeline.attempts import Attempt
from pipeline.language import RULES_VERSION, extract, from_ud, to_ud
from pipeline.parse import PARSE_VERSION, load_parser, run_parser
from pipeline.vision import REGIONS_VERSION, VISUAL_VERSION, GraphBuilder, GraphRules

__all__ = [
    "ParseJob",
    "Report",
    "TextJob",
    "VisualJob",
    "parse_shard",
    "text_shard",
    "visual_shard",
]

CAPTIONS = 100  # captions that may take as long as one image
_ALL = "all captions"


@dataclass(frozen=True)
class Report:
    """What happened to the images of one shard.

    Attributes:
        failed: images that a plug-in failed on: id -> reason. The shard was not written.
        counts: boxes of a detections file that were clipped or dropped.
    """

    failed: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class VisualJob:
    """Build scene graphs and features.

    Attributes:
        index: the images.   visual, regions: where graphs and features go.
        images_dir, detector, detections, relations, features, rules: see ``GraphBuilder.create``.
        on_error: ``fail`` or ``skip``.
        timeout: seconds for one image, 0 for no limit.
        digests: first digits of the sha256 of each image file of the shard; empty: not checked.
        excluded: images that are skipped unseen: id -> reason.
        source: visual and regions groups of the same images without exclusions, whose finished
            shards are copied.
        write: False to compute the shard without writing it.
    """

    index: Group
    visual: Group
    regions: Group
    images_dir: str
    detector: str
    detections: str
    relations: str
    features: str
    rules: GraphRules
    on_error: str
    timeout: float = 0
    digests: tuple[str, ...] = field(default=(), compare=False, repr=False)
    excluded: Mapping[str, str] = field(default_factory=dict, compare=False)
    source: tuple[Group, Group] | None = field(default=None, compare=False)
    write: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class ParseJob:
    """Parse the captions of ``index`` with one parser, 100 captions within ``timeout`` seconds."""

    index: Group
    parses: Group
    parser: str
    timeout: float = 0


@dataclass(frozen=True)
class TextJob:
    """Extract the text graphs of ``parses`` with the rules of a profile.

    ``tokens`` gets the parses in another dependency scheme; None if UD v2 is wanted.
    """

    index: Group
    parses: Group
    text: Group
    tokens: Group | None
    profile: str
    scheme: str


def visual_shard(job: VisualJob, number: int) -> Report:
    """Build one shard of scene graphs and of region and union features.

    Raises:
        InputError: an image is damaged and ``on_error`` is ``fail``.
        PluginError: a plug-in failed, or an image ended its process, and ``on_error`` is ``fail``.
        UnreadableInput: the photos or the store cannot be read from here.
        FeatureOverflow: a feature does not fit float16.
        StageError: the versions here differ from those of the plan; or the detector returns other
            boxes than those of the existing shard.
    """
    _check_visible(job.index.folder, job.images_dir, job.detections)
    index = job.index.shard(number)
    entries = unpack_index(index.columns())
    if job.source is not None and _copied(job, number, index.image_rows):
        return Report()
    builder = _builder(job)
    with Attempt(job.visual.shard(number).path, job.timeout) as attempt:
        suspects = {
            name: f"{name}: processing this image {what}"
            for name, what in attempt.suspects.items()
            if name not in job.excluded
        }
        if suspects and job.on_error == "skip":
            return Report(failed=suspects)
        if suspects:
            raise PluginError(
                f"{next(iter(suspects.values()))}. Check the image, the plug-ins and the memory, "
                "or pass --on-error skip."
            )
        failed: dict[str, str] = {}
        before = builder.counts.copy()
        graphs = builder.build_all(
            entries,
            job.on_error,
            digests=_digests(job, entries),
            excluded=job.excluded,
            failed=failed,
            watch=lambda entry: attempt.item(entry.id),
        )
        report = Report(failed, dict(builder.counts - before))
        if failed or not job.write:
            return report
    width = graphs.width
    limits = job.rules.max_objects, job.rules.max_relations
    scored = "attribute_scores" in builder.detector.provides
    visual = pack_visual(graphs.found, *limits, scored=scored)
    record = job.visual.write(number, index.image_rows, visual)
    for name in ("boxes", "relations"):  # the record may be of a shard that existed before
        data = np.ascontiguousarray(visual[name]).tobytes()
        if hashlib.sha256(data).hexdigest() != record.parts[name].sha256:
            raise StageError(
                f"{job.visual.folder}: the detector returned other {name} for shard {number} than "
                "are stored, so the features would not match the stored boxes. Use a deterministic "
                "detector, or delete this folder and build both groups again."
            )
    regions = pack_regions(
        graphs.object_features,
        graphs.union_features,
        *limits,
        dim=builder.feature_width if width is None else width,
        ids=[entry.id for entry in entries],
    )
    job.regions.write(number, index.image_rows, regions)
    return report


def _digests(job: VisualJob, entries: list[ImageEntry]) -> dict[str, str]:
    if not job.digests:
        return {}
    return dict(zip((entry.id for entry in entries), job.digests, strict=True))


def _copied(job: VisualJob, number: int, rows: range) -> bool:
    """Write a shard from the source groups under the key of the job, if it is finished there."""
    assert job.source is not None
    pairs = tuple(zip(job.source, (job.visual, job.regions), strict=True))
    if not all(source.shard(number).finished(source.key, rows) for source, _ in pairs):
        return False
    for source, target in pairs:
        target.write(number, rows, source.shard(number).columns())
    return True


@lru_cache(maxsize=2)
def _builder(job: VisualJob) -> GraphBuilder:
    """Return the plug-ins of a job; a process creates and checks them once.

    Raises: StageError: they are not those of the plan.
    """
    builder = GraphBuilder.create(
        job.detector, job.detections, job.relations, job.features, job.rules, job.images_dir
    )
    parameters = {
        "detector": builder.detector.identity(),
        "relations": builder.relations.identity(),
        "rules": job.rules.identity(),
    }
    _check_planned(job.visual, VISUAL_VERSION, parameters)
    features = {"features": builder.extractor.identity(), "dtype": "float16"}
    _check_planned(job.regions, REGIONS_VERSION, features)
    return builder


def parse_shard(job: ParseJob, number: int) -> None:
    """Tokenise and parse the captions of one shard, with UD v2 dependencies.

    Raises:
        PluginError: the parser failed; the message names the caption.
        UnreadableInput, StageError: as ``visual_shard``.
    """
    _check_visible(job.index.folder)
    parser = load_parser(job.parser)
    parameters = {"parser": parser.name, "version": parser.version}
    _check_planned(job.parses, PARSE_VERSION, parameters)
    index = job.index.shard(number)
    captions = [c for entry in unpack_index(index.columns()) for c in entry.captions]
    limit = job.timeout * max(1, len(captions) / CAPTIONS)
    with Attempt(job.parses.shard(number).path, limit) as attempt:
        for name, what in attempt.suspects.items():
            if name != _ALL:
                raise PluginError(
                    f"caption {name}: parsing it {what}. Correct the parser or the caption."
                )
        graphs: list[TextGraph] = []
        if attempt.suspects:  # find the caption: one at a time
            attempt.limit = job.timeout
            for caption in captions:
                with attempt.item(caption.id):
                    graphs += run_parser(parser, [caption.text])
        else:
            with attempt.item(_ALL):
                graphs = run_parser(parser, [caption.text for caption in captions])
    job.parses.write(number, index.image_rows, pack_tokens([to_ud(graph) for graph in graphs]))


def text_shard(job: TextJob, number: int) -> None:
    """Extract the text graphs of one shard from its parses.

    Raises: UnreadableInput, StageError: as ``visual_shard``.
    """
    _check_visible(job.index.folder)
    _check_planned(job.text, RULES_VERSION, {"profile": job.profile})
    index = job.index.shard(number)
    graphs = unpack_tokens(job.parses.shard(number).columns(), _captions(index))
    job.text.write(number, index.image_rows, pack_text(extract(graphs, job.profile)))
    if job.tokens is not None:
        _check_planned(job.tokens, PARSE_VERSION, {"scheme": job.scheme})
        tokens = pack_tokens([from_ud(graph, job.scheme) for graph in graphs])
        job.tokens.write(number, index.image_rows, tokens)


def _check_visible(*paths: Path | str) -> None:
    """Check that this machine sees the files of a job.

    Raises: UnreadableInput: one is not there; it may be a mount that is missing.
    """
    for path in paths:
        if Path(path).is_absolute() and not Path(path).exists():
            raise UnreadableInput(
                f"{path}: {socket.gethostname()} does not see this path. Mount it there under the "
                "same name as where the build was started."
            )


def _check_planned(group: Group, version: str, parameters: Mapping[str, object]) -> None:
    """Check that a group was planned with the versions and plug-ins of this process.

    Raises: StageError: it was not, so this process would write other contents under its key.
    """
    planned = {name: group.params.get(name) for name in ("version", "parameters")}
    if planned["parameters"] is None:
        return  # a key without recorded parameters
    known = {k: v for k, v in dict(planned["parameters"]).items() if k != "excluded"}
    here = {"version": version, "parameters": dict(parameters)}
    if canonical_json({**planned, "parameters": known}) != canonical_json(here):
        differing = [
            name
            for name in sorted({*known, *parameters})
            if canonical_json(known.get(name)) != canonical_json(parameters.get(name))
        ]
        what = ", ".join(differing) or f"version {planned['version']}, here {version}"
        raise StageError(
            f"{group.folder.name}: {socket.gethostname()} has another version than the build was "
            f"planned with ({what}). Install the same release, plug-ins and files everywhere."
        )


def _captions(index: Shard) -> list[str]:
    """Return the captions of a shard of the index, image by image."""
    return [caption.text for entry in unpack_index(index.columns()) for caption in entry.captions]
