"""Make batches of images: features copied into reused memory, boxes scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from features.batches.batch import ImageBatch
from features.batches.buffer_pool import BufferPool
from features.batches.left_out import leave_out, leave_out_features
from features.errors import UsageError
from features.format import Columns, pack_regions, pack_visual
from features.reading import CodedColumn, StoreReader, flat_rows, pad
from features.records import Detections
from features.vocab import Codebook

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
Graphs: TypeAlias = "dict[str, Tensor]"
"""The fields of an ``ImageBatch`` without the features."""

_PLAIN = (
    "image_size",
    "num_objects",
    "boxes",
    "scores",
    "num_relations",
    "relations",
    "relation_scores",
    "union_boxes",
)


class ImageEncoder:
    """Make batches of stored images with the ids of a codebook.

    Args:
        store: the store.
        codebook: ids of labels and predicates, and what to leave out.
        features: False leaves the features out (width 0), for jobs that need only the graphs.
        unions: False leaves the features of union boxes out, for models that do not use them.
        dtype: dtype of the features, ``float32`` or ``float16``.
        halves: True keeps features that are stored as float16 so, whatever ``dtype``; the caller
            casts them.
        variant: variant of the regions group.
        pool: memory for the features.
    """

    def __init__(
        self,
        store: StoreReader,
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
            raise UsageError(f"dtype must be float32 or float16, not {dtype!r}.")
        self.store, self.variant, self.codebook = store, variant, codebook
        wanted = {"object_features": features, "union_features": features and unions}
        self.features = tuple(name for name, want in wanted.items() if want)
        self.pool = pool or BufferPool()
        self.labels, self.predicates = store.coded("labels"), store.coded("predicates")
        self._label_of_code = codebook.labels.ids(self.labels.names)
        self._predicate_of_code = codebook.predicates.ids(self.predicates.names)
        self._attributes = _Attributes.of_store(store, codebook)
        # raises now if a column is missing
        stored = [store.row_dtype(name, variant=variant) for name in self.features]
        kept = halves and all(kind == np.float16 for kind in stored)
        self.dtype = np.dtype(np.float16 if kept else dtype)

    def batch(self, rows: Index) -> ImageBatch:
        """Return the batch of some image rows."""
        return self.with_features(self.graphs(rows, max(len(rows), 1))[0])

    def graphs(self, rows: Index, size: int) -> list[Graphs]:
        """Return batches of ``size`` images without their features.

        A batch takes many small calls of numpy; several batches at once take no more.
        """
        whole = _graphs(
            rows,
            {name: self.store.gather(name, rows) for name in _PLAIN},
            self._label_of_code[self.labels.codes[rows]],
            self._predicate_of_code[self.predicates.codes[rows]],
            self._attributes,
        )
        whole = leave_out(whole, self.codebook)
        starts = range(0, max(len(rows), 1), size)
        return [_tensors(whole, slice(start, start + size)) for start in starts]

    def with_features(self, graphs: Graphs) -> ImageBatch:
        """Return ``graphs`` as a batch, with the features of its images."""
        rows = graphs["rows"].numpy()
        taken = {}
        for name in self.features:
            shape = (len(rows), *self.store.row_shape(name, variant=self.variant))
            out = self.pool.take(shape, self.dtype)
            taken[name] = self.store.gather(name, rows, out=out, variant=self.variant)
        objects, unions = taken.get("object_features"), taken.get("union_features")
        leave_out_features(objects, unions, self.codebook.without)
        return _assemble(graphs, objects, unions)

    def prefetch(self, rows: Index) -> None:
        """Hint that the features of these rows will be read soon."""
        for name in self.features:
            self.store.prefetch(name, rows, variant=self.variant)


def image_batch(
    images: Sequence[tuple[Detections, Array, Array]],
    codebook: Codebook,
    *,
    max_objects: int | None = None,
    max_relations: int | None = None,
) -> ImageBatch:
    """Return the batch of images that are not in a store; their rows are -1, -2 ...

    Args:
        images: (detections with relations, (n, D) region features, (m, D) union features).
        codebook: ids of labels and predicates.
        max_objects: K; the largest number of objects among the images if not given.
        max_relations: R, likewise.
    """
    found = [image[0] for image in images]
    k = max_objects or max([1, *(len(d.labels) for d in found)])
    r = max_relations or max([1, *(len(d.relations or ()) for d in found)])
    visual = pack_visual(found, k, r, scored=True)
    regions = pack_regions(
        [image[1] for image in images],
        [image[2] for image in images],
        k,
        r,
        dtype="float32",
        dim=max([0, *(image[1].shape[-1] for image in images)]),
    )
    ids = {}
    for name, table in (("labels", codebook.labels), ("predicates", codebook.predicates)):
        column = CodedColumn.of_shard(visual, name)
        ids[name] = table.ids(column.names)[column.codes]
    attributes = _Attributes.of_columns(visual, codebook)
    rows = np.arange(len(images))
    whole = _graphs(rows, visual, ids["labels"], ids["predicates"], attributes)
    whole["rows"] = -1 - rows
    graphs = _tensors(leave_out(whole, codebook), slice(None))
    objects, unions = regions["object_features"], regions["union_features"]
    leave_out_features(objects, unions, codebook.without)
    return _assemble(graphs, objects, unions)


class _Attributes(NamedTuple):
    """The attributes of all objects of a store or of some photos."""

    offsets: Array  # (images + 1,)
    words: Index  # (n,) ids
    objects: Array  # (n,) row of the object
    scores: Array  # (n,) probability

    @classmethod
    def of_store(cls, store: StoreReader, codebook: Codebook) -> Self | None:
        """Return the attributes of a store, None if it has none."""
        offsets = store.offsets("object_attribute_offsets")
        if not offsets[-1]:
            return None
        table = store.coded("object_attribute")
        words = codebook.words.ids(table.names)[table.codes]
        scored = store.has("object_attribute_score")
        scores = store.column("object_attribute_score") if scored else np.ones(len(words))
        objects = store.column("object_attribute_object")
        return cls(offsets, words, objects, scores)

    @classmethod
    def of_columns(cls, visual: Columns, codebook: Codebook) -> Self | None:
        """Return the attributes of packed graphs, None if they have none."""
        if not visual["object_attribute_offsets"][-1]:
            return None
        table = CodedColumn.of_shard(visual, "object_attribute")
        return cls(
            visual["object_attribute_offsets"],
            codebook.words.ids(table.names)[table.codes],
            visual["object_attribute_object"],
            visual["object_attribute_score"],
        )

    def padded(self, rows: Index) -> dict[str, Array]:
        """Return the attributes of some images, padded: (B, A) each."""
        at, owner, place = flat_rows(self.offsets, rows)
        shape = len(rows), int(np.diff(self.offsets).max())  # of any image: equal in all batches
        scores = np.zeros(shape, np.float32)
        scores[owner, place] = self.scores[at]
        return {
            "attributes": pad(self.words[at], owner, place, shape),
            "attribute_objects": pad(self.objects[at], owner, place, shape),
            "attribute_scores": scores,
        }


def _graphs(
    rows: Index,
    plain: Mapping[str, Array],
    labels: Index,
    predicates: Index,
    attributes: _Attributes | None,
) -> dict[str, Array]:
    k, r = labels.shape[1], predicates.shape[1]
    sizes = plain["image_size"].astype(np.float32)
    scale = np.maximum(np.concatenate([sizes, sizes], axis=1), 1)[:, None]  # (B, 1, 4)
    # repeated: a division whose inner loop runs over 4 numbers takes four times as long
    of_objects, of_relations = (np.repeat(scale, count, axis=1) for count in (k, r))
    return {
        "rows": np.array(rows),
        "object_mask": np.arange(k) < plain["num_objects"][:, None],
        "boxes": plain["boxes"] / of_objects,
        "labels": labels,
        "scores": plain["scores"],
        "union_boxes": plain["union_boxes"] / of_relations,
        "relations": plain["relations"].astype(np.int64),
        "predicates": predicates,
        "relation_mask": np.arange(r) < plain["num_relations"][:, None],
        "relation_scores": plain["relation_scores"],
        "sizes": sizes,
        **({} if attributes is None else attributes.padded(rows)),
    }


def _tensors(arrays: Mapping[str, Array], rows: slice) -> Graphs:
    import torch  # slow to load

    return {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}


def _assemble(graphs: Graphs, objects: Array | None, unions: Array | None) -> ImageBatch:
    import torch  # slow to load

    tensor = torch.from_numpy
    (count, k), r = graphs["labels"].shape, graphs["predicates"].shape[1]
    return ImageBatch(
        objects=torch.zeros(count, k, 0) if objects is None else tensor(objects),
        unions=torch.zeros(count, r, 0) if unions is None else tensor(unions),
        **graphs,
    )
