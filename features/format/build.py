"""Build a store from records in memory, for examples, tests and small data sets.

``workflows`` builds whole data sets shard by shard instead.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from features.errors import UsageError
from features.format.codec import pack_index, pack_regions, pack_text, pack_tokens, pack_visual
from features.format.group import Group
from features.format.keys import content_key, folder_name
from features.format.manifest import bind_store
from features.format.schema import Columns, shard_ranges
from features.records import Detections, ImageEntry, Skipped, TextGraph

Array = npt.NDArray[Any]


def build_store(
    store_dir: str | Path,
    dataset: str,
    images: Sequence[ImageEntry],
    *,
    visual: Sequence[Detections | Skipped] | None = None,
    regions: Sequence[tuple[Array, Array]] | None = None,
    texts: Sequence[TextGraph] | None = None,
    max_objects: int = 36,
    max_relations: int = 25,
    dtype: str = "float16",
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Write a store from records in memory and return the path of its manifest.

    Args:
        store_dir: folder of the store; made when missing.
        dataset: name of the data set.
        images: ids, files, splits and captions.
        visual: per image its detections with relations, or ``Skipped`` and the reason.
        regions: per image (n, D) region features and (m, D) union features.
        texts: one parsed caption per caption, image by image.
        max_objects: K.
        max_relations: R.
        dtype: stored dtype of the features.
        provenance: where the data come from; part of every key.

    Returns:
        Path of the store manifest.

    Raises: UsageError: the sequences differ in length, or an id is given twice.
    """
    ends = [0, *itertools.accumulate(len(entry.captions) for entry in images)]
    for name, given, wanted in (
        ("visual", visual, len(images)),
        ("regions", regions, len(images)),
        ("texts", texts, ends[-1]),
    ):
        if given is not None and len(given) != wanted:
            raise UsageError(f"{name}: {len(given)} entries, expected {wanted}.")
    _check_unique("image", (entry.id for entry in images))
    _check_unique("caption", (caption.id for entry in images for caption in entry.captions))

    packers: dict[str, Callable[[range], Columns]] = {
        "index": lambda rows: pack_index(images[rows.start : rows.stop])
    }
    if visual is not None:
        packers["visual"] = lambda rows: pack_visual(
            visual[rows.start : rows.stop], max_objects, max_relations
        )
    if regions is not None:
        width = {a.shape[-1] for pair in regions for a in pair if a.ndim == 2}
        packers["regions"] = lambda rows: pack_regions(
            [objects for objects, _ in regions[rows.start : rows.stop]],
            [unions for _, unions in regions[rows.start : rows.stop]],
            max_objects,
            max_relations,
            dtype=dtype,
            dim=max(width, default=None),
            ids=[images[row].id for row in rows],
        )
    if texts is not None:
        packers["tokens"] = lambda rows: pack_tokens(texts[ends[rows.start] : ends[rows.stop]])
        packers["text"] = lambda rows: pack_text(texts[ends[rows.start] : ends[rows.stop]])
    return _write(Path(store_dir), dataset, len(images), packers, dict(provenance or {}))


def _check_unique(what: str, ids: Iterable[str]) -> None:
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        raise UsageError(
            f"{what} id {twice[0]!r} is given more than once ({len(twice)} such ids). "
            f"Give every {what} a unique id."
        )


def _write(
    store_dir: Path,
    dataset: str,
    images: int,
    packers: Mapping[str, Callable[[range], Columns]],
    provenance: Mapping[str, object],
) -> Path:
    ranges = shard_ranges(images)
    bound: dict[str, Path] = {}
    index = ""
    for name, pack in packers.items():
        packed = [pack(rows) for rows in ranges]
        digest = hashlib.sha256()
        for columns in packed:
            for path, data in sorted(columns.items()):
                digest.update(f"{path}{data.shape}{data.dtype.str}".encode())
                digest.update(data.reshape(-1).data.cast("B") if data.size else b"")
        # Equal columns of other images are another variant. The rows of each shard are part of
        # both hashes, which go shard by shard.
        inputs = {"columns": digest.hexdigest(), **({"index": index} if index else {})}
        key = content_key(name, "built", provenance, inputs)
        group = Group(name, key, store_dir / folder_name(name, key), provenance)
        for number, (rows, columns) in enumerate(zip(ranges, packed, strict=True)):
            group.write(number, rows, columns)
        manifest = group.finish(len(ranges), index=index)
        index = index or manifest.image_index
        bound[name] = group.folder
    return bind_store(store_dir, dataset, bound, {"images": images})
