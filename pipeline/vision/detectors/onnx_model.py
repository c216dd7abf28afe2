"""Detectors exported to ONNX (YOLO, SSD, DETR and others), described by a small YAML file.

Keys of the YAML beside ``model`` and ``input`` (see ``pipeline.vision.onnx_spec``)::

    labels: [person, dog]           # or a text file beside the YAML, one label per line
    decode: dense                   # dense: one tensor, one row per candidate: box, scores
                                    # split: one tensor of boxes, one of class scores
                                    # final: boxes, scores and class numbers after NMS
    tensor: output0                 # dense: name of the tensor, (N, 4 + C) or (4 + C, N)
    objectness: false               # dense: column 5 multiplies the class scores
    boxes: boxes                    # split, final: names of the tensors
    scores: scores
    classes: labels                 # final
    box: cxcywh                     # cxcywh, xyxy, xywh or yxyx
    unit: input                     # input pixels, fraction (0..1 of the input)
    activation: none                # of class scores: none, sigmoid, softmax
    background: none                # score column of no object: none, first, last
    first_class: 0                  # final: number of the first class
    min_score: 0.05
    nms_iou: 0.6                    # per class; 1 for models that need no NMS
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.convert import need_file
from features.errors import ConfigError, UsageError
from features.records import Detections
from pipeline.vision.boxes import clip_boxes, nms
from pipeline.vision.images import LazyImage
from pipeline.vision.onnx_spec import choice, read_spec

Float = npt.NDArray[np.float32]

KEYS: tuple[str, ...] = ("labels", "decode", "tensor", "objectness", "boxes", "scores", "classes")
KEYS += ("box", "unit", "activation", "background", "first_class", "min_score", "nms_iou")
NEEDED = {"dense": (), "split": ("boxes", "scores"), "final": ("boxes", "scores", "classes")}
CANDIDATES = 3000  # best boxes that enter NMS


class OnnxDetector:
    """A detector from an ONNX file.

    Args:
        path: the YAML file that describes it.

    Raises: ConfigError: an unknown key or an invalid value.
    """

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})

    def __init__(self, path: Path | str | None = None) -> None:
        if path is None:
            raise UsageError("the detector 'onnx' needs a YAML file: pass --detections PATH.")
        self.spec = spec = read_spec(path)
        spec.check_keys(*KEYS)
        keys, where = spec.keys, spec.path
        self.decode = choice(where, keys, "decode", "dense", "split", "final")
        self.box = choice(where, keys, "box", "cxcywh", "xyxy", "xywh", "yxyx")
        self.unit = choice(where, keys, "unit", "input", "fraction")
        self.activation = choice(where, keys, "activation", "none", "sigmoid", "softmax")
        self.background = choice(where, keys, "background", "none", "first", "last")
        for name in NEEDED[self.decode]:
            if not isinstance(keys.get(name), str):
                raise ConfigError(f"{where}: decode {self.decode!r} needs {name!r}, a tensor name.")
        self.labels = self._read_labels()
        try:
            self.min_score = float(keys.get("min_score", 0.05))
            self.nms_iou = float(keys.get("nms_iou", 0.6))
            self.first_class = int(keys.get("first_class", 0))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: a threshold is not a number ({error}).") from error

    def identity(self) -> dict[str, object]:
        """Return name, version and the hashes of description, weights and labels."""
        return {"name": "onnx", "version": 2, "labels": list(self.labels), **self.spec.identity()}

    def covers(self, image_id: str) -> bool:
        """Return True: any image can be processed."""
        return True

    def detect(self, image: LazyImage) -> Detections:
        """Return the objects of an image, best first."""
        tensor, fit = self.spec.input.prepare(image)
        boxes, scores, classes = self._candidates(self._run(tensor))
        boxes = to_xyxy(boxes, self.box)
        if self.unit == "fraction":
            boxes = boxes * np.array([*self.spec.input.size] * 2, np.float32)
        boxes = clip_boxes(fit.to_image(boxes), image.size)
        good = (scores >= self.min_score) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(-scores[rows], kind="stable")[:CANDIDATES]]
        boxes, scores, classes = boxes[rows], scores[rows], classes[rows]
        kept = nms(boxes, scores, self.nms_iou, classes=classes)
        return Detections(
            boxes[kept],
            tuple(self.labels[row] for row in classes[kept]),
            np.clip(scores[kept], 0, 1),
            image.size,
        )

    def _run(self, tensor: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        keys = self.spec.keys
        names = [keys[key] for key in ("boxes", "scores", "classes") if key in keys]
        if self.decode == "dense":
            names.insert(0, keys.get("tensor") or self.spec.session.get_outputs()[0].name)
        return dict(zip(names, self.spec.run(names, tensor), strict=True))

    def _candidates(
        self, outputs: dict[str, npt.NDArray[Any]]
    ) -> tuple[Float, Float, npt.NDArray[np.int64]]:
        """Return raw boxes (n, 4), scores (n,) and rows in ``labels`` (n,)."""
        count, keys = len(self.labels), self.spec.keys
        if self.decode == "final":
            boxes = outputs[keys["boxes"]].reshape(-1, 4).astype(np.float32)
            scores = outputs[keys["scores"]].reshape(-1).astype(np.float32)
            classes = outputs[keys["classes"]].reshape(-1).astype(np.int64) - self.first_class
            known = (classes >= 0) & (classes < count)
            return boxes[known], scores[known], classes[known]
        if self.decode == "dense":
            table = next(iter(outputs.values())).astype(np.float32)
            table = table.reshape(-1, table.shape[-1]) if table.ndim != 3 else table[0]
            extra = bool(keys.get("objectness", False))
            width = 4 + extra + count + (self.background != "none")
            if table.shape[1] != width and table.shape[0] == width:
                table = table.T
            self._check(table.shape[1], width)
            boxes, scores = table[:, :4], self._scores(table[:, 4 + extra :])
            if extra:
                scores = scores * table[:, 4:5]
        else:
            boxes = outputs[keys["boxes"]].reshape(-1, 4).astype(np.float32)
            table = outputs[keys["scores"]].astype(np.float32)
            table = table.reshape(-1, table.shape[-1])
            self._check(table.shape[1], count + (self.background != "none"))
            scores = self._scores(table)
        rows, classes = np.nonzero(scores >= self.min_score)
        return boxes[rows], scores[rows, classes], classes

    def _scores(self, table: Float) -> Float:
        """Apply the activation and drop the background column."""
        if self.activation == "sigmoid":
            table = np.asarray(1 / (1 + np.exp(-np.clip(table, -60, 60))), np.float32)
        elif self.activation == "softmax":
            table = np.exp(table - table.max(1, keepdims=True))
            table /= table.sum(1, keepdims=True)
        columns = {"none": slice(None), "first": slice(1, None), "last": slice(-1)}
        real: Float = table[:, columns[self.background]]
        return real

    def _check(self, found: int, wanted: int) -> None:
        if found != wanted:
            raise ConfigError(
                f"{self.spec.path}: the output has {found} columns, expected {wanted} for "
                f"{len(self.labels)} labels. Check 'labels', 'objectness' and 'background'."
            )

    def _read_labels(self) -> tuple[str, ...]:
        given = self.spec.keys.get("labels")
        if isinstance(given, str):
            lines = need_file(self.spec.path.parent / given).read_text(encoding="utf-8")
            given = [line.strip() for line in lines.splitlines() if line.strip()]
        if not isinstance(given, list) or not given:
            raise ConfigError(f"{self.spec.path}: 'labels' must be a list of names or a text file.")
        return tuple(map(str, given))


def to_xyxy(boxes: Float, form: str) -> Float:
    """Convert (n, 4) boxes of another form to xyxy.

    >>> to_xyxy(np.array([[5, 6, 4, 2]], np.float32), "cxcywh").tolist()
    [[3.0, 5.0, 7.0, 7.0]]
    """
    if form == "xyxy":
        return boxes
    if form == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    low, size = boxes[:, :2], boxes[:, 2:]
    if form == "cxcywh":
        low = (low - size / 2).astype(np.float32)
    return np.concatenate([low, low + size], axis=1)
