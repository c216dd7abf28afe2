"""Graphs and features of new photos, computed with the plug-ins and rules of a store.

The store's manifests record the detector, relation predictor, feature extractor and rules with
their options. They are created again, and their identities are compared with the recorded ones, so
a photo of the store gets the graph and features that it has there. Differences are errors, or
notes where the user asked for another plug-in.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import MismatchError, UsageError
from features.format import Photo
from features.records import ImageEntry
from features.registry import Registry
from features.store import Store
from pipeline.vision.detection import Detector, create_detector, detector_registry
from pipeline.vision.extraction import create_extractor, extractor_registry, resolve_features
from pipeline.vision.graph_builder import GraphBuilder, GraphRules, rules_for
from pipeline.vision.relations import create_relations, relation_predictors, resolve_relations

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class StoreRecipe:
    """A graph builder for photos that are compared with the images of a store.

    Attributes:
        builder: the plug-ins and rules.
        width, dtype: of the store's features.
        notes: differences from the store's own recipe, one line each.
    """

    builder: GraphBuilder
    width: int
    dtype: str
    notes: tuple[str, ...]

    def photo(self, path: str) -> Photo:
        """Return the graph and the features of a photo.

        Raises:
            ImageError: the file cannot be decoded.
            InputError: the detector reads a file that does not have the photo.
            MismatchError: the features have another width than the store's.
        """
        graph = self.builder.build(ImageEntry(Path(path).name, path, ""))
        width = graph.object_features.shape[1]
        if width != self.width:
            raise MismatchError(
                f"the features have width {width}, those of the store {self.width}, so a model of "
                "the store cannot read them. Choose the store's extractor with --features."
            )
        return Photo(path, *graph)


def recipe_of(
    store: Store,
    *,
    detector: str = "",
    detections: str = "",
    relations: str = "",
    features: str = "",
) -> StoreRecipe:
    """Return the recipe of a store, with other plug-ins where the user names them.

    Args:
        store: a store that the pipeline built.
        detector, relations, features: names that replace the store's own.
        detections: file that the detector reads.

    Raises:
        UsageError: the store has no recorded recipe, or its detector needs a file.
        MismatchError: a plug-in differs from the store's and was not named by the user.
    """
    made = {**_recorded(store, "regions"), **_recorded(store, "visual")}
    if not {"detector", "relations", "rules", "features"} <= made.keys():
        raise UsageError(
            f"{store.path} does not record how its graphs were made: it was imported, not built "
            "from photos. The graph of a new photo would not be comparable."
        )
    notes: list[str] = []
    found = _detector(store, made["detector"], detector, detections)
    named = bool(detector or detections)
    same = _compare(store, "detector", found.identity(), made["detector"], named, notes)

    stored = made["relations"]
    if not relations and not same and stored["name"] == "precomputed":
        relations = "auto"
    name = resolve_relations(relations or str(stored["name"]), found)
    predictor = create_relations(name, **_options(relation_predictors, name, stored))
    _compare(store, "relations", predictor.identity(), stored, bool(relations), notes)

    stored = made["features"]
    if not features and not same and stored["name"] == "detector":
        features = resolve_features("auto", found)
    name = features or str(stored["name"])
    if name == "labelled":  # with the head of the detector
        name = getattr(found, "default_features", name)
    try:
        extractor = create_extractor(name, found, **_options(extractor_registry, name, stored))
    except UsageError as error:
        if features:
            raise
        raise UsageError(f"{store.path} was built with --features {name}. {error}") from error
    _compare(store, "features", extractor.identity(), stored, bool(features), notes)

    rules = GraphRules(**made["rules"])
    if not same:
        limits = {"max_objects": rules.max_objects, "max_relations": rules.max_relations}
        rules = rules_for(found, **limits)
    builder = GraphBuilder(found, predictor, extractor, rules, Path())
    width = store.row_shape("object_features")[-1]
    return StoreRecipe(builder, width, str(made.get("dtype", "float16")), tuple(notes))


def _recorded(store: Store, group: str) -> Parameters:
    """Return the parameters of a group, empty where its manifest has none."""
    found = store.group(group).manifest.params.get("parameters", {})
    return found if isinstance(found, Mapping) else {}


def _detector(store: Store, stored: Parameters, name: str, detections: str) -> Detector:
    """Create the store's detector, or the one that the user named.

    Raises: UsageError: the store's detector needs a file.
    """
    named = bool(name or detections)
    name = name or str(stored["name"])
    options = _options(detector_registry, name, stored)
    try:
        return create_detector(name, path=detections or None, **options)
    except UsageError as error:
        if named:
            raise
        if getattr(detector_registry.get(name), "needs_pixels", False):
            raise UsageError(
                f"{store.path} was built with the detector {name!r}, which needs its file again: "
                f"pass --detections PATH ({error})"
            ) from error
        raise UsageError(
            f"{store.path} has precomputed graphs of the detector {name!r}. Pass a file that has "
            "the photo with --detections, or a detector that reads pixels with --detector nanodet "
            "(its labels and features may differ from the store's)."
        ) from error


def _options(registry: Registry[Any], name: str, stored: Parameters) -> dict[str, float]:
    """Return the recorded numeric options (thresholds and the like) of the plug-in ``name``."""
    if name != stored["name"]:
        return {}
    known = inspect.signature(registry.get(name)).parameters
    return {
        key: value
        for key, value in stored.items()
        if key in known and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _compare(
    store: Store, what: str, identity: Parameters, stored: Parameters, named: bool, notes: list[str]
) -> bool:
    """Return whether an identity equals the recorded one; add a note if not.

    Raises: MismatchError: it differs, and the user did not name the plug-in.
    """
    keys = {*identity, *stored} - {"shown"}  # a score for displays, which changes no graph
    different = sorted(key for key in keys if identity.get(key) != stored.get(key))
    if not different:
        return True
    name, before = identity["name"], stored["name"]
    if name != before:
        difference = f"{what}: {name} instead of the store's {before}"
    else:
        difference = f"{what}: this {name} differs from the store's ({', '.join(different)})"
    if not named:
        advice = f"Build the store again, or pass --{what} {name} to accept it."
        if "head" in different:
            advice = "Pass the label head that the store was built with: --detections HEAD.npz."
        raise MismatchError(f"{store.path}: {difference}. {advice}")
    notes.append(f"{difference}; scores of the photo may be less accurate.")
    return False
