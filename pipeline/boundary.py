"""Check what plug-ins return, before anything else uses it.

Detectors, relation predictors, feature extractors and parsers may be anybody's code. A call of one
goes through ``Call.guarded``, and its result through the ``checked_*`` function of its kind: what
passes can be stored, and everything else is a ``PluginError`` that names the plug-in, the image or
caption, and the value. Detections from a file are an input instead: their boxes are clipped to the
image and counted, and other faults are an ``InputError``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import FeatureOverflow, InputError, PluginError, ScenestoreError
from features.records import Detections, TextGraph

__all__ = [
    "Call",
    "checked_detections",
    "checked_features",
    "checked_parses",
    "checked_relations",
]

Float = npt.NDArray[np.float32]
Relations = tuple[tuple[int, str, int], ...]

SLACK = 1.0  # pixels by which a box may leave the image: rounding of networks
TOO_LARGE = 65_520.0  # rounds to infinity in float16, in which features are stored


@dataclass(frozen=True)
class Call:
    """One call of a plug-in.

    Attributes:
        kind: ``detector``, ``relation predictor``, ``feature extractor`` or ``parser``.
        plugin: its name.   item: the image or caption, for messages.
        file: True for detections from a file.
        counts: counts of boxes that were clipped or dropped.
    """

    kind: str
    plugin: str
    item: str
    file: bool = False
    counts: Counter[str] = field(default_factory=Counter, compare=False)

    @classmethod
    def of(cls, kind: str, plugin: object, item: str, **more: Any) -> Call:
        """Return the call of a plug-in object."""
        identity = getattr(plugin, "identity", None)
        name = getattr(plugin, "name", "")
        if not name and callable(identity):
            with contextlib.suppress(Exception):  # the name is for a message only
                name = identity()["name"]
        return cls(kind, str(name or type(plugin).__qualname__), item, **more)

    def error(self, problem: str) -> ScenestoreError:
        """Return the error for a fault of the result."""
        if self.file:
            return InputError(f"{self.item}: the detections file has {problem}. Correct the file.")
        return PluginError(
            f"{self.item}: the {self.kind} {self.plugin!r} returned {problem}. Correct the plug-in."
        )

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn an error of the plug-in into a ``PluginError`` that names the image.

        Errors of inputs, of the operating system and of memory pass: the plug-in is not to blame.

        Raises: PluginError: any other error.
        """
        try:
            yield
        except (ScenestoreError, OSError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            where = _place(error)
            raise PluginError(
                f"{self.item}: the {self.kind} {self.plugin!r} failed: {type(error).__name__}: "
                f"{error}{where}. Correct the plug-in."
            ) from error


def _place(error: BaseException) -> str:
    """Return where an error was raised, as `` (file.py, line 3)``."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def checked_detections(call: Call, found: object, size: tuple[int, int]) -> Detections:
    """Return the detections of an image, checked and with boxes within the image.

    Boxes of a plug-in may leave the image by a rounding error; those of a file are clipped,
    and dropped where nothing is left.

    Args:
        call: the call.   found: what the detector returned.
        size: (width, height) of the image, (0, 0) where unknown.

    Raises: PluginError, InputError: see ``Call.error``.
    """
    if not isinstance(found, Detections):
        raise call.error(f"{_brief(found)} instead of Detections")
    boxes = _numbers(call, "boxes", found.boxes, (None, 4))
    n = len(boxes)
    labels = _names(call, "labels", found.labels, n)
    scores = _scores(call, "scores", found.scores, n)
    size = _size(call, found.size, size)
    features = found.features
    if features is not None:
        features = _numbers(call, "features", features, (n, None))
    attributes = found.attributes
    if attributes is not None:
        if len(attributes) != n:
            raise call.error(f"{len(attributes)} lists of attributes for {n} boxes")
        attributes = tuple(_names(call, "attributes", names, len(names)) for names in attributes)
    relations, relation_scores = found.relations, found.relation_scores
    if relations is not None:
        relations, relation_scores = _relations(call, relations, relation_scores, n)
    boxes, solid = _inside(call, boxes, size)
    made = dataclasses.replace(
        found,
        boxes=boxes,
        labels=labels,
        scores=scores,
        size=size,
        features=features,
        attributes=attributes,
        relations=relations,
        relation_scores=relation_scores,
    )
    return made if solid.all() else made.select(np.flatnonzero(solid).tolist())


def checked_relations(
    call: Call, result: object, objects: int, limit: int
) -> tuple[Relations, Float]:
    """Return relations and scores of a predictor.

    Args:
        call: the call.   result: what the predictor returned.
        objects: number of objects of the image.   limit: relations that were asked for.

    Raises: PluginError: see ``Call.error``.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise call.error(f"{_brief(result)} instead of (relations, scores)")
    relations, scores = _relations(call, result[0], result[1], objects)
    if len(relations) > limit:
        raise call.error(f"{len(relations)} relations, at most {limit} were asked for")
    if scores is None:
        raise call.error("no scores")
    return relations, scores


def checked_features(
    call: Call, result: object, objects: int, relations: int
) -> tuple[Float, Float]:
    """Return the features of the objects (n, D) and of the union boxes (m, D).

    Args:
        call: the call.   result: what the extractor returned.
        objects, relations: n and m.

    Raises: PluginError: see ``Call.error``. FeatureOverflow: a value does not fit float16.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise call.error(f"{_brief(result)} instead of (object features, union features)")
    of_objects = _numbers(call, "object features", result[0], (objects, None))
    of_unions = _numbers(call, "union features", result[1], (relations, None))
    if objects and relations and of_objects.shape[1] != of_unions.shape[1]:
        raise call.error(
            f"object features of width {of_objects.shape[1]} and union features of width "
            f"{of_unions.shape[1]}"
        )
    for name, values in (("object features", of_objects), ("union features", of_unions)):
        if values.size and (worst := float(np.abs(values).max())) >= TOO_LARGE:
            raise FeatureOverflow(
                f"image {call.item}, {name} of {call.plugin!r}: a value is too large for float16 "
                f"(largest magnitude {worst:g}). Scale the features."
            )
    return of_objects, of_unions


def checked_parses(call: Call, result: object, captions: Sequence[str]) -> list[TextGraph]:
    """Return the graphs of captions.

    Args:
        call: the call; its ``item`` stands for all captions.   result: what the parser returned.
        captions: the captions that it was given.

    Raises: PluginError: the message names the caption.
    """
    if not isinstance(result, list | tuple) or len(result) != len(captions):
        what = f"{len(result)} graphs" if isinstance(result, list | tuple) else _brief(result)
        raise call.error(f"{what} instead of a list of one TextGraph a caption")
    for graph, caption in zip(result, captions, strict=True):
        _check_parse(dataclasses.replace(call, item=f"caption {caption[:80]!r}"), graph, caption)
    return list(result)


def _check_parse(call: Call, graph: object, caption: str) -> None:
    if not isinstance(graph, TextGraph):
        raise call.error(f"{_brief(graph)} instead of a TextGraph")
    if graph.caption != caption:
        raise call.error(f"the graph of another caption, {str(graph.caption)[:80]!r}")
    n = len(graph.tokens)
    for name in ("tokens", "lemmas", "upos", "xpos", "deprels"):
        _names(call, name, getattr(graph, name), n)
    for name in ("problem", "scheme"):
        _names(call, name, (getattr(graph, name),), 1)
    heads = graph.heads
    if len(heads) != n:
        raise call.error(f"{len(heads)} heads for {n} tokens")
    for token, head in enumerate(heads):
        if not _is_row(head, n, first=-1) or head == token:
            raise call.error(f"head {head!r} for token {token} of {n}")
    loose = set(range(n))
    for start in range(n):  # follow the heads to a root or a token that is known to reach one
        path, token = [], start
        while token >= 0 and token in loose:
            if token in path:
                raise call.error(f"heads that form a circle at token {token}")
            path.append(token)
            token = heads[token]
        loose.difference_update(path)


def _numbers(call: Call, name: str, values: object, shape: tuple[int | None, ...]) -> Float:
    """Return finite numbers as float32 of a shape; None stands for any length."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"dtype {array.dtype}")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise call.error(f"{name} that are not an array of numbers ({error})") from error
    if array.size == 0 and array.ndim < len(shape) and shape[0] in (0, None):
        array = array.reshape([wanted or 0 for wanted in shape])
    fits = len(shape) == array.ndim and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise call.error(f"{name} of shape {array.shape} instead of ({wanted})")
    if not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise call.error(f"{name}{at} = {array[tuple(at)]}")
    return np.ascontiguousarray(array)


def _scores(call: Call, name: str, values: object, count: int) -> Float:
    scores = _numbers(call, name, values, (count,))
    wrong = np.flatnonzero((scores < -1e-6) | (scores > 1 + 1e-6))
    if len(wrong):
        raise call.error(f"{name}[{wrong[0]}] = {scores[wrong[0]]:g}, outside [0, 1]")
    return np.clip(scores, 0, 1)


def _names(call: Call, name: str, values: Any, count: int) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        raise call.error(f"{name} = {_brief(values)} instead of a tuple of strings")
    if len(values) != count:
        raise call.error(f"{len(values)} {name} for {count}")
    for value in values:
        if not isinstance(value, str):
            raise call.error(f"{name} with {_brief(value)}, which is not a string")
        if any(ord(sign) < 32 for sign in value):
            raise call.error(f"{name} with the control character in {value[:40]!r}")
    return tuple(str(value) for value in values)


def _size(call: Call, given: object, known: tuple[int, int]) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise call.error(f"size = {_brief(given)} instead of (width, height)") from error
    if min(width, height) < 0:
        raise call.error(f"size = ({width}, {height})")
    if min(width, height) == 0:
        return known
    if not call.file and min(known) > 0 and (width, height) != known:
        raise call.error(
            f"size = ({width}, {height}) for an image of {known[0]} x {known[1]} pixels"
        )
    return width, height


def _relations(
    call: Call, relations: Any, scores: object, objects: int
) -> tuple[Relations, Float | None]:
    if isinstance(relations, str) or not isinstance(relations, Sequence):
        raise call.error(f"relations = {_brief(relations)} instead of a tuple")
    made = []
    for relation in relations:
        if not isinstance(relation, Sequence) or isinstance(relation, str) or len(relation) != 3:
            raise call.error(f"the relation {_brief(relation)}, not (subject, predicate, object)")
        subject, predicate, target = relation
        if not (_is_row(subject, objects) and _is_row(target, objects)):
            raise call.error(f"the relation {_brief(relation)}, but there are {objects} objects")
        if subject == target and not call.file:
            raise call.error(f"the relation {_brief(relation)} of an object with itself")
        (word,) = _names(call, "predicates", (predicate,), 1)
        made.append((int(subject), word, int(target)))
    if scores is not None:
        scores = _scores(call, "relation scores", scores, len(made))
    return tuple(made), scores


def _inside(call: Call, boxes: Float, size: tuple[int, int]) -> tuple[Float, npt.NDArray[np.bool_]]:
    """Return boxes clipped to the image, and which of them have an area."""
    limits = np.array([*size, *size], np.float32)
    if min(size) <= 0:  # unknown: only what lies left of or above the image is outside
        limits = np.tile(boxes[:, 2:].max(0, initial=1), 2)
    clipped: Float = np.clip(boxes, 0, limits)
    solid: npt.NDArray[np.bool_] = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
    if call.file:
        call.counts["boxes clipped to the image"] += int((clipped != boxes).any(1).sum())
        call.counts["boxes dropped: no area within the image"] += int((~solid).sum())
        return clipped, solid
    far = np.flatnonzero((np.abs(clipped - boxes) > SLACK).any(1) | ~solid)
    if len(far):
        at = int(far[0])
        x1, y1, x2, y2 = boxes[at].tolist()
        what = "inverted or empty" if x2 <= x1 or y2 <= y1 else "outside the image"
        raise call.error(
            f"boxes[{at}] = [{x1:g}, {y1:g}, {x2:g}, {y2:g}], {what} of {limits[0]:g} x "
            f"{limits[1]:g} pixels"
        )
    return clipped, solid


def _is_row(value: object, count: int, first: int = 0) -> bool:
    return (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and first <= int(value) < count
    )


def _brief(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | tuple | None) else ""
    return text if text and len(text) <= 60 else type(value).__name__
