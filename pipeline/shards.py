"""The work of one shard in each build stage: read the index, compute, write.

Each function is idempotent and atomic (an existing shard is kept), loads its models once per
process and returns None. Jobs hold names and paths only, so they can be sent to any worker that
shares the file system.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from features.errors import InputError, StageError
from features.format.codec import (
    pack_regions,
    pack_text,
    pack_tokens,
    pack_visual,
    unpack_index,
    unpack_tokens,
)
from features.format.group import read_group
from features.format.schema import Columns
from features.format.sidecar import read_columns, read_sidecar, write_shard
from features.records import ImageEntry
from pipeline.language.dependency import to_scheme
from pipeline.language.spice.triplets import extract
from pipeline.parse import load_parser
from pipeline.vision.graph_builder import GraphBuilder, GraphRules

__all__ = ["ParseJob", "TextJob", "VisualJob", "parse_shard", "text_shard", "visual_shard"]

Place = tuple[Path, str]  # folder and content key of a group


@dataclass(frozen=True)
class VisualJob:
    """Build scene graphs and features: names of the plug-ins, and where the results go."""

    index: Path
    visual: Place
    regions: Place
    images_dir: str
    detector: str
    detections: str
    relations: str
    features: str
    rules: GraphRules
    on_error: str


@dataclass(frozen=True)
class ParseJob:
    """Parse captions with one parser."""

    index: Path
    parses: Place
    parser: str


@dataclass(frozen=True)
class TextJob:
    """Extract triplets with the rules of a profile; write tokens too if ``scheme`` is not UD."""

    index: Path
    parses: Path
    text: Place
    tokens: Place | None
    profile: str
    scheme: str


def visual_shard(job: VisualJob, number: int) -> None:
    """Build one shard of scene graphs and of region and union features.

    Raises:
        InputError: an image is damaged and ``on_error`` is ``fail``.
        FeatureOverflow: a feature does not fit float16.
        StageError: the detector returns other boxes than those of the existing shard.
    """
    entries, row0 = _entries(job.index, number)
    graphs = _builder(job).build_all(entries, job.on_error)
    width = graphs.width
    limits = job.rules.max_objects, job.rules.max_relations
    visual = pack_visual(graphs.found, *limits)
    _write(job.visual, "visual", number, visual, row0, len(entries))
    regions = pack_regions(
        graphs.object_features,
        graphs.union_features,
        *limits,
        dim=_width_of_others(job, number) if width is None else width,
        ids=[entry.id for entry in entries],
    )
    _write(job.regions, "regions", number, regions, row0, len(entries))


def _width_of_others(job: VisualJob, number: int) -> int:
    """Return the feature width for a shard whose images are all skipped.

    All shards of a store have the same width: that of the first usable image of the other shards,
    or 0 when all images of the data set are skipped.
    """
    for other in range(len(read_group(job.index).rows)):
        for entry in _entries(job.index, other)[0] if other != number else ():
            with suppress(InputError):
                return int(_builder(job).build(entry).object_features.shape[1])
    return 0


@lru_cache(maxsize=2)
def _builder(job: VisualJob) -> GraphBuilder:
    """Return the plug-ins of a job; a process creates them once."""
    return GraphBuilder.create(
        job.detector, job.detections, job.relations, job.features, job.rules, job.images_dir
    )


def parse_shard(job: ParseJob, number: int) -> None:
    """Tokenise and parse the captions of one shard."""
    entries, row0 = _entries(job.index, number)
    texts = [caption.text for entry in entries for caption in entry.captions]
    graphs = load_parser(job.parser).parse(texts)
    _write(job.parses, "tokens", number, pack_tokens(graphs), row0, len(entries))


def text_shard(job: TextJob, number: int) -> None:
    """Extract the text graphs of one shard from its parses."""
    entries, row0 = _entries(job.index, number)
    texts = [caption.text for entry in entries for caption in entry.captions]
    graphs = unpack_tokens(read_columns(job.parses, number), texts)
    text = pack_text(extract(graphs, job.profile))
    _write(job.text, "text", number, text, row0, len(entries))
    if job.tokens is not None:
        tokens = pack_tokens([to_scheme(graph, job.scheme) for graph in graphs])
        _write(job.tokens, "tokens", number, tokens, row0, len(entries))


def _entries(index: Path, number: int) -> tuple[list[ImageEntry], int]:
    """Return the images of a shard and the row number of the first one."""
    return unpack_index(read_columns(index, number)), read_sidecar(index, number).row0


def _write(place: Place, group: str, number: int, columns: Columns, row0: int, rows: int) -> None:
    """Write a shard; if another process has written it first, check that the graphs are equal."""
    folder, key = place
    record = write_shard(folder, number, columns, group=group, key=key, row0=row0, rows=rows)
    if group == "visual":  # ``record`` may be that of an earlier run or of a faster process
        for name in ("boxes", "relations"):
            data = np.ascontiguousarray(columns[name]).tobytes()
            if hashlib.sha256(data).hexdigest() != record.parts[name].sha256:
                raise StageError(
                    f"{folder}: the detector returned other {name} for shard {number} than are "
                    "stored, so the features would not match the stored boxes. Use a deterministic "
                    "detector, or delete this folder and build both groups again."
                )
