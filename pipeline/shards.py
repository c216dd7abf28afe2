"""The work of one shard in each build stage: read the index, compute, write.

Each function is idempotent and atomic (an existing shard is kept), loads its models once per
process and returns None. Jobs hold names and paths only, so they can be sent to any worker that
shares the file system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from features.errors import StageError
from features.format import (
    Group,
    Shard,
    pack_regions,
    pack_text,
    pack_tokens,
    pack_visual,
    unpack_index,
    unpack_tokens,
)
from pipeline.language import extract, from_ud, to_ud
from pipeline.parse import load_parser, run_parser
from pipeline.vision import GraphBuilder, GraphRules

__all__ = ["ParseJob", "TextJob", "VisualJob", "parse_shard", "text_shard", "visual_shard"]


@dataclass(frozen=True)
class VisualJob:
    """Build scene graphs and features.

    Attributes:
        index: the images.   visual, regions: where graphs and features go.
        images_dir, detector, detections, relations, features, rules: see ``GraphBuilder.create``.
        on_error: ``fail`` or ``skip``.
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


@dataclass(frozen=True)
class ParseJob:
    """Parse the captions of ``index`` with one parser."""

    index: Group
    parses: Group
    parser: str


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


def visual_shard(job: VisualJob, number: int) -> None:
    """Build one shard of scene graphs and of region and union features.

    Raises:
        InputError: an image is damaged and ``on_error`` is ``fail``.
        FeatureOverflow: a feature does not fit float16.
        StageError: the detector returns other boxes than those of the existing shard.
    """
    index = job.index.shard(number)
    entries = unpack_index(index.columns())
    builder = _builder(job)
    graphs = builder.build_all(entries, job.on_error)
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


@lru_cache(maxsize=2)
def _builder(job: VisualJob) -> GraphBuilder:
    """Return the plug-ins of a job; a process creates them once."""
    return GraphBuilder.create(
        job.detector, job.detections, job.relations, job.features, job.rules, job.images_dir
    )


def parse_shard(job: ParseJob, number: int) -> None:
    """Tokenise and parse the captions of one shard, with UD v2 dependencies."""
    index = job.index.shard(number)
    graphs = [to_ud(graph) for graph in run_parser(load_parser(job.parser), _captions(index))]
    job.parses.write(number, index.image_rows, pack_tokens(graphs))


def text_shard(job: TextJob, number: int) -> None:
    """Extract the text graphs of one shard from its parses."""
    index = job.index.shard(number)
    graphs = unpack_tokens(job.parses.shard(number).columns(), _captions(index))
    job.text.write(number, index.image_rows, pack_text(extract(graphs, job.profile)))
    if job.tokens is not None:
        tokens = pack_tokens([from_ud(graph, job.scheme) for graph in graphs])
        job.tokens.write(number, index.image_rows, tokens)


def _captions(index: Shard) -> list[str]:
    """Return the captions of a shard of the index, image by image."""
    return [caption.text for entry in unpack_index(index.columns()) for caption in entry.captions]
