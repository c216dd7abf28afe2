"""Stored images -> ``ImageBatch``: features gathered into reused memory, boxes normalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from features.batches.batch import ImageBatch
from features.errors import UsageError
from features.format.codec import decode_texts, pack_regions, pack_visual
from features.reading.buffers import BufferPool
from features.records import Detections

if TYPE_CHECKING:
    from torch import Tensor

    from features.store import Store
    from features.vocab.codebook import Codebook

__all__ = ["ImageEncoder", "images_of_records"]

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
Graphs: TypeAlias = "dict[str, Tensor]"
"""The fields of an ``ImageBatch`` but the features."""

_PLAIN = (
    "image_size",
    "num_objects",
    "boxes",
    "scores",
    "num_relations",
    "relations",
    "union_boxes",
)


class ImageEncoder:
    """Makes batches of stored images.

    Args:
        store: the opened store.
        codebook: the ids of labels and predicates.
        features: False leaves the features out (width 0), for jobs that need only the graphs.
        unions: False leaves those of union boxes out, for models that do not look at them.
        dtype: ``float32`` or ``float16``, what the features are cast to.
        halves: True leaves features that are stored as float16 as they are: whoever takes the
            batches widens them.
        variant: variant of the regions group.
        pool: memory for the features.
    """

    def __init__(
        self,
        store: Store,
        codebook: Codebook,
        *,
        features: bool = True,
        unions: bool = True,
        dtype: str = "float32",
        halves: bool = False,
        variant: str = "",
        pool: BufferPool | None = None,
    ):
        if dtype not in ("float32", "float16"):
            raise UsageError(f"features come as float32 or float16, not {dtype!r}.")
        self.store, self.variant = store, variant
        wanted = {"object_features": features, "union_features": features and unions}
        self.features = tuple(name for name, want in wanted.items() if want)
        self.pool = pool or BufferPool()
        self.labels, self.predicates = store.coded("labels"), store.coded("predicates")
        self._label_of_code = codebook.labels.ids(self.labels.names)
        self._predicate_of_code = codebook.predicates.ids(self.predicates.names)
        # a missing column is told now
        stored = [store.row_dtype(name, variant=variant) for name in self.features]
        kept = halves and all(kind == np.float16 for kind in stored)
        self.dtype = np.dtype(np.float16 if kept else dtype)

    def batch(self, rows: Index) -> ImageBatch:
        """Return the batch of some image rows of the store."""
        return self.with_features(self.graphs(rows, max(len(rows), 1))[0])

    def graphs(self, rows: Index, size: int) -> list[Graphs]:
        """Return everything but the features of batches of ``size`` images each.

        A batch is many small calls of numpy; several batches at once are as many.
        """
        whole = _graphs(
            rows,
            {name: self.store.gather(name, rows) for name in _PLAIN},
            self._label_of_code[self.labels.codes[rows]],
            self._predicate_of_code[self.predicates.codes[rows]],
        )
        starts = range(0, max(len(rows), 1), size)
        return [_tensors(whole, slice(start, start + size)) for start in starts]

    def with_features(self, graphs: Graphs) -> ImageBatch:
        """Return the batch of the images of ``graphs``."""
        rows = graphs["rows"].numpy()
        taken = {}
        for name in self.features:
            shape = (len(rows), *self.store.row_shape(name, variant=self.variant))
            out = self.pool.take(shape, self.dtype)
            taken[name] = self.store.gather(name, rows, out=out, variant=self.variant)
        return _assemble(graphs, taken.get("object_features"), taken.get("union_features"))

    def prefetch(self, rows: Index) -> None:
        """Ask for the features of these rows to be read ahead."""
        for name in self.features:
            self.store.prefetch(name, rows, variant=self.variant)


def images_of_records(
    images: Sequence[tuple[Detections, Array, Array]],
    codebook: Codebook,
    max_objects: int | None,
    max_relations: int | None,
) -> ImageBatch:
    """Return the batch of detected images; see ``Codebook.images``."""
    found = [image[0] for image in images]
    most = max_objects or max([1, *(len(d.labels) for d in found)])
    related = max_relations or max([1, *(len(d.relations or ()) for d in found)])
    visual = pack_visual(found, most, related)
    regions = pack_regions(
        [image[1] for image in images],
        [image[2] for image in images],
        most,
        related,
        dtype="float32",
        dim=max([0, *(image[1].shape[-1] for image in images)]),
    )
    ids = {}
    for name, table in (("labels", codebook.labels), ("predicates", codebook.predicates)):
        names = decode_texts(visual[f"{name}/names/bytes"], visual[f"{name}/names/offsets"])
        ids[name] = table.ids(names)[visual[f"{name}/codes"]]
    whole = _graphs(-1 - np.arange(len(images)), visual, ids["labels"], ids["predicates"])
    graphs = _tensors(whole, slice(None))
    return _assemble(graphs, regions["object_features"], regions["union_features"])


def _graphs(
    rows: Index, plain: Mapping[str, Array], labels: Index, predicates: Index
) -> dict[str, Array]:
    most, related = labels.shape[1], predicates.shape[1]
    sizes = plain["image_size"].astype(np.float32)
    scale = np.maximum(np.concatenate([sizes, sizes], axis=1), 1)[:, None]  # (B, 1, 4)
    # spread out: a division whose inner loop runs over 4 numbers takes four times as long
    of_objects, of_relations = (np.repeat(scale, count, axis=1) for count in (most, related))
    return {
        "rows": np.array(rows),
        "object_mask": np.arange(most) < plain["num_objects"][:, None],
        "boxes": plain["boxes"] / of_objects,
        "labels": labels,
        "scores": plain["scores"],
        "union_boxes": plain["union_boxes"] / of_relations,
        "relations": plain["relations"].astype(np.int64),
        "predicates": predicates,
        "relation_mask": np.arange(related) < plain["num_relations"][:, None],
        "sizes": sizes,
    }


def _tensors(arrays: Mapping[str, Array], rows: slice) -> Graphs:
    import torch

    return {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}


def _assemble(graphs: Graphs, objects: Array | None, unions: Array | None) -> ImageBatch:
    import torch

    tensor = torch.from_numpy
    (count, most), related = graphs["labels"].shape, graphs["predicates"].shape[1]
    return ImageBatch(
        objects=torch.zeros(count, most, 0) if objects is None else tensor(objects),
        unions=torch.zeros(count, related, 0) if unions is None else tensor(unions),
        **graphs,
    )
