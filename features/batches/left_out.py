"""Leave parts of the graphs out of batches, for ablations; see ``features.vocab.PARTS``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import UsageError
from features.vocab import Codebook, feature_slices

Array = npt.NDArray[Any]

SCENE = "scene"  # of the object for the whole image, see pipeline.vision
_UNKNOWN = 1


def leave_out(graphs: dict[str, Array], codebook: Codebook) -> dict[str, Array]:
    """Return the fields of an ``ImageBatch`` without the parts in ``codebook.without``.

    Args:
        graphs: the fields except ``objects`` and ``unions``; unchanged.
        codebook: the parts, and the id of the label ``scene``.
    """
    parts = codebook.without
    if not parts:
        return graphs
    graphs = dict(graphs)
    if "scene" in parts:  # before labels are hidden
        graphs["object_mask"] = _without_scene(graphs, codebook)
    if "labels" in parts:
        graphs["labels"] = np.where(graphs["labels"] > 0, _UNKNOWN, 0)
    if "predicates" in parts:
        graphs["predicates"] = np.where(graphs["predicates"] > 0, _UNKNOWN, 0)
    if "relations" in parts:
        for name in ("relation_mask", "relations", "predicates", "relation_scores", "union_boxes"):
            graphs[name] = np.zeros_like(graphs[name])
    if "attributes" in parts:
        for name in ("attributes", "attribute_objects", "attribute_scores"):
            graphs.pop(name, None)
    return graphs


def leave_out_features(objects: Array | None, unions: Array | None, parts: Sequence[str]) -> None:
    """Set the features that ``parts`` name to zero, in place.

    Args:
        objects: (B, K, D), or None.   unions: (B, R, D), or None.   parts: names.

    Raises: UsageError: a slice of features that the store does not have.
    """
    for columns in feature_slices(parts):
        for features in (objects, unions):
            if features is None:
                continue
            width = features.shape[-1]
            if columns.stop is not None and columns.stop > width:
                raise UsageError(
                    f"features[{columns.start}:{columns.stop}] of data.without: the store's "
                    f"features have {width} numbers."
                )
            features[..., columns] = 0
    if unions is not None and ("unions" in parts or "relations" in parts):
        unions[...] = 0


def _without_scene(graphs: dict[str, Array], codebook: Codebook) -> Array:
    mask = graphs["object_mask"]
    scene = codebook.labels.id(SCENE)
    others = mask & (graphs["labels"] != scene)
    if scene == codebook.labels.unknown:  # no image of the training split has it
        return mask
    return np.where(others.any(1, keepdims=True), others, mask)
