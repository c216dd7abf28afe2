"""What a worker does with one shard of each stage: read, compute, write.

Every function is idempotent and atomic (a shard that is there is adopted), loads its models once
per process, and returns nothing large. Jobs hold names and paths only, so that they travel to any
worker that sees the same file system.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

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
from features.format.sidecar import read_columns, read_sidecar, write_shard

if TYPE_CHECKING:
    from features.format.schema import Columns
    from features.records import Detections, ImageEntry, Skipped, TextGraph
    from pipeline.detect import Detector
    from pipeline.vision.extractors.registry import Extractor, Float
    from pipeline.vision.relations import RelationPredictor
    from pipeline.vision.visual import GraphRules

__all__ = ["ParseJob", "TextJob", "VisualJob", "parse_shard", "text_shard", "visual_shard"]

Place = tuple[Path, str]  # folder and key of a variant


@dataclass(frozen=True)
class VisualJob:
    """Scene graphs and features: names of what to run, and where the results go."""

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
    """Extract triplets under one profile; write tokens too where another scheme is wanted."""

    index: Path
    parses: Path
    text: Place
    tokens: Place | None
    profile: str
    scheme: str


def visual_shard(job: VisualJob, number: int) -> None:
    """Build one shard of scene graphs and of region and union features.

    Raises:
        InputError: a picture is broken and ``on_error`` is ``fail``.
        FeatureOverflow: a feature that float16 cannot hold.
        StageError: a detector that gives other boxes the second time.
    """
    from pipeline.vision.visual import build

    entries, row0 = _entries(job.index, number)
    graphs, of_objects, of_unions = build(entries, *_tools(job), job.on_error)
    columns = pack_visual(graphs, job.rules.max_objects, job.rules.max_relations)
    _write(job.visual, "visual", number, columns, row0, len(entries))
    features = pack_regions(
        of_objects,
        of_unions,
        job.rules.max_objects,
        job.rules.max_relations,
        dim=_width(job, number, graphs, of_objects),
        ids=[entry.id for entry in entries],
    )
    _write(job.regions, "regions", number, features, row0, len(entries))


def _width(
    job: VisualJob, number: int, graphs: list[Detections | Skipped], of_objects: list[Float]
) -> int:
    """Return how many numbers a feature has; all shards of a store must agree.

    Where no image of this shard could be used, the first usable one of another shard tells; 0 when
    there is none in the whole data set.
    """
    from pipeline.vision.visual import build_one, graph_ok

    for graph, part in zip(graphs, of_objects, strict=True):
        if graph_ok(graph):
            return len(part[0])  # there is at least the whole image
    for other in range(len(read_group(job.index).rows)):
        for entry in _entries(job.index, other)[0] if other != number else ():
            with suppress(InputError):
                return len(build_one(entry, *_tools(job))[1][0])
    return 0


def parse_shard(job: ParseJob, number: int) -> None:
    """Tokenise and parse the captions of one shard."""
    from pipeline.parse import load_parser

    entries, row0 = _entries(job.index, number)
    texts = [caption.text for entry in entries for caption in entry.captions]
    graphs = load_parser(job.parser).parse(texts)
    _write(job.parses, "tokens", number, pack_tokens(graphs), row0, len(entries))


def text_shard(job: TextJob, number: int) -> None:
    """Apply the rules to the parses of one shard."""
    from pipeline.language.spice.triplets import extract

    entries, row0 = _entries(job.index, number)
    texts = [caption.text for entry in entries for caption in entry.captions]
    graphs = unpack_tokens(read_columns(job.parses, number), texts)
    text = pack_text(extract(graphs, job.profile))
    _write(job.text, "text", number, text, row0, len(entries))
    if job.tokens is not None:
        tokens = pack_tokens([_converted(graph, job.scheme) for graph in graphs])
        _write(job.tokens, "tokens", number, tokens, row0, len(entries))


def _converted(graph: TextGraph, scheme: str) -> TextGraph:
    from pipeline.language.dependency import convert

    heads, deprels = convert(graph, scheme)
    return replace(graph, heads=tuple(heads), deprels=tuple(deprels), scheme=scheme)


def _entries(index: Path, number: int) -> tuple[list[ImageEntry], int]:
    """Return the images of a shard and the row of the first one."""
    return unpack_index(read_columns(index, number)), read_sidecar(index, number).row0


def _write(place: Place, group: str, number: int, columns: Columns, row0: int, rows: int) -> None:
    """Write a shard; where another one is adopted, check that it holds the same graphs."""
    folder, key = place
    record = write_shard(folder, number, columns, group=group, key=key, row0=row0, rows=rows)
    if group == "visual":  # ours, or adopted: from an earlier run or from a faster builder
        import hashlib

        import numpy as np

        for name in ("boxes", "relations"):
            data = np.ascontiguousarray(columns[name]).tobytes()
            if hashlib.sha256(data).hexdigest() != record.parts[name].sha256:
                raise StageError(
                    f"{folder}: the detector gives other {name} for shard {number} than are "
                    "stored; features would not belong to the stored boxes. Use a deterministic "
                    "detector, or remove this folder and build both again."
                )


def _tools(
    job: VisualJob,
) -> tuple[Path | None, Detector, RelationPredictor, Extractor, GraphRules]:
    """Return the folder of the pictures and everything that is run on them."""
    detector, relations, extractor = _loaded(job)
    images_dir = Path(job.images_dir) if job.images_dir else None
    return images_dir, detector, relations, extractor, job.rules


@lru_cache(maxsize=2)
def _loaded(job: VisualJob) -> tuple[Detector, RelationPredictor, Extractor]:
    """Return detector, relation predictor and extractor; a process loads them once."""
    from pipeline.detect import create_detector
    from pipeline.vision.extractors.registry import create_extractor
    from pipeline.vision.relations import create_relations

    given = {"path": job.detections} if job.detections else {}
    detector = create_detector(job.detector, **given)
    return detector, create_relations(job.relations), create_extractor(job.features, detector)
