"""``python -m pipeline photo``: treat new photos as a store's own were, for search and inspection.

The store's manifest says which detector, relation predictor, extractor and rules made it, with
which parameters. They are built again and must say the same about themselves; then a photo of the
store gets the graph and the features it has there. Whoever names another part is told so.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import MismatchError, UsageError
from features.format.photo_file import Photo, write_photos
from features.records import ImageEntry

if TYPE_CHECKING:
    from features.store import Store
    from pipeline.detect import Detector
    from pipeline.vision.extractors.registry import Extractor
    from pipeline.vision.relations import RelationPredictor
    from pipeline.vision.visual import GraphRules

__all__ = ["Recipe", "add_commands", "recipe_of"]


@dataclass(frozen=True)
class Recipe:
    """What makes the graph and the features of a photo.

    Attributes:
        detector, relations, extractor, rules: ready to run.
        width, dtype: of the store's features.
        notes: where the recipe departs from the store's own, one line each.
    """

    detector: Detector
    relations: RelationPredictor
    extractor: Extractor
    rules: GraphRules
    width: int
    dtype: str
    notes: tuple[str, ...]

    def photo(self, path: str) -> Photo:
        """Make graph and features of one photo.

        Raises:
            ImageError: it cannot be read.
            InputError: a detector that reads a file does not have it.
            MismatchError: features of another width than the store's.
        """
        from pipeline.vision.visual import build_one

        entry = ImageEntry(Path(path).name, path, "")
        found, objects, unions = build_one(
            entry, Path(), self.detector, self.relations, self.extractor, self.rules
        )
        if objects.shape[1] != self.width:
            raise MismatchError(
                f"features of {objects.shape[1]} numbers, but the store's have {self.width}: a "
                "model of the one cannot read the other. Choose the store's with --features."
            )
        return Photo(path, found, objects, unions)


def recipe_of(
    store: Store,
    *,
    detector: str = "",
    detections: str = "",
    relations: str = "",
    features: str = "",
) -> Recipe:
    """Return the recipe of a store, or as near to it as the user wants.

    Args:
        store: built by the pipeline.
        detector, relations, features: registered names instead of the store's own.
        detections: file that the detector reads.

    Raises:
        UsageError: the store does not say how it was made, or its detector reads a file.
        MismatchError: a part that is not what the store was made with, and nobody asked for it.
    """
    from pipeline.vision.extractors.registry import create_extractor, extractors, resolve_features
    from pipeline.vision.relations import create_relations, relation_predictors, resolve_relations
    from pipeline.vision.visual import GraphRules, rules_for

    made = {**_parameters(store, "regions"), **_parameters(store, "visual")}
    if not {"detector", "relations", "rules", "features"} <= made.keys():
        raise UsageError(
            f"{store.path} does not say how its graphs were made: it was imported, not built from "
            "pictures. A new photo cannot be treated as its own."
        )
    notes: list[str] = []
    looks = _detector(store, made["detector"], detector, detections)
    chosen = bool(detector or detections)
    same = _compare(store, "detector", looks.identity(), made["detector"], chosen, notes)

    stored = made["relations"]
    if not relations and not same and stored["name"] == "precomputed":
        relations = resolve_relations("auto", looks)
    name = relations or str(stored["name"])
    resolve_relations(name, looks)
    options = _numbers(relation_predictors.get(name.partition(":")[0]), name, stored)
    predictor = create_relations(name, **options)
    _compare(store, "relations", predictor.identity(), stored, bool(relations), notes)

    stored = made["features"]
    if not features and not same and stored["name"] == "detector":
        features = resolve_features("auto", looks)
    name = features or str(stored["name"])
    try:
        extractor = create_extractor(
            name, looks, **_numbers(extractors.get(name.partition(":")[0]), name, stored)
        )
    except UsageError as error:
        if features:
            raise
        raise UsageError(f"{store.path} was built with --features {name}. {error}") from error
    _compare(store, "features", extractor.identity(), stored, bool(features), notes)

    rules = GraphRules(**made["rules"])
    if not same:
        limits = {"max_objects": rules.max_objects, "max_relations": rules.max_relations}
        rules = rules_for(looks, **limits)
    width = store.row_shape("object_features")[-1]
    dtype = str(made.get("dtype", "float16"))
    return Recipe(looks, predictor, extractor, rules, width, dtype, tuple(notes))


def _detector(store: Store, stored: Mapping[str, Any], name: str, detections: str) -> Detector:
    """Build the store's detector, or the one that the user wants.

    Raises: UsageError: the store's own needs a file.
    """
    import pipeline.vision.detectors  # noqa: F401  (registers the packaged detectors)
    from pipeline.detect import create_detector, detectors

    chosen = bool(name or detections)
    name = name or str(stored["name"])
    factory = detectors.get(name)
    given: dict[str, Any] = {"path": detections} if detections else {}
    try:
        return create_detector(name, **given, **_numbers(factory, name, stored))
    except UsageError as error:
        if chosen:
            raise
        if getattr(factory, "needs_pixels", False):
            raise UsageError(
                f"{store.path} was built with the detector {name!r}; give its file again: "
                f"--detections PATH ({error})"
            ) from error
        raise UsageError(
            f"{store.path} has its graphs from {name!r}: a file, which cannot look at a new photo. "
            "Give a file that has the photo with --detections, or take a detector that looks: "
            "--detector nanodet (its labels and features may be unlike those of the store)."
        ) from error


def _parameters(store: Store, group: str) -> Mapping[str, Any]:
    """Return what a group was made with; nothing where its manifest does not say."""
    found = store.group(group).manifest.params.get("parameters", {})
    return found if isinstance(found, Mapping) else {}


def _numbers(factory: Any, name: str, stored: Mapping[str, Any]) -> dict[str, float]:
    """Return the thresholds and the like that the store's own part of this name was made with."""
    if name != stored["name"]:
        return {}
    known = inspect.signature(factory).parameters
    return {key: value for key, value in stored.items() if key in known and _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _compare(
    store: Store,
    what: str,
    identity: Mapping[str, Any],
    stored: Mapping[str, Any],
    chosen: bool,
    notes: list[str],
) -> bool:
    """Return whether a part is the store's own; where not, add a note if it was chosen.

    Raises: MismatchError: nobody chose it.
    """
    different = sorted(key for key in {*identity, *stored} if identity.get(key) != stored.get(key))
    if not different:
        return True
    name, before = identity["name"], stored["name"]
    if name != before:
        said = f"{what}: {name} instead of the store's {before}"
    else:
        said = f"{what}: this {name} is not the one of the store ({', '.join(different)})"
    if not chosen:
        raise MismatchError(
            f"{store.path}: {said}. Build the store again, or say --{what} {name} to go on."
        )
    notes.append(f"{said}; what a run says about the photo may be worse.")
    return False


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this module's command to the parser of ``python -m pipeline``."""
    add = commands.add_parser(
        "photo", help="graph and features of new photos, as in a store", description=_photo.__doc__
    )
    add.add_argument("photos", nargs="+", metavar="PHOTO")
    add.add_argument("--like", required=True, metavar="STORE", help="the store to be like")
    add.add_argument("--out", required=True, metavar="FILE.npz", type=Path)
    add.add_argument("--detector", default="", help="another detector than the store's")
    add.add_argument("--detections", default="", help="file that the detector reads")
    add.add_argument("--relations", default="", help="another relation predictor")
    add.add_argument("--features", default="", help="another feature extractor")
    add.set_defaults(run=_photo)


def _photo(options: argparse.Namespace) -> int:
    """Make graph and features of photos as those of a store were made, and write them as npz."""
    from features.store import open_store

    recipe = recipe_of(
        open_store(options.like),
        detector=options.detector,
        detections=options.detections,
        relations=options.relations,
        features=options.features,
    )
    photos = [recipe.photo(path) for path in options.photos]
    write_photos(options.out, photos, recipe.notes, dtype=recipe.dtype)
    for photo in photos:
        objects, relations = len(photo.found.labels), len(photo.found.relations or ())
        sys.stdout.write(f"{photo.name}: {objects} objects, {relations} relations\n")
    for note in recipe.notes:
        sys.stderr.write(f"note: {note}\n")
    return 0
