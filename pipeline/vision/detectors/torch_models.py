"""Detectors of torchvision and transformers, both optional; loaded at first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError, MissingDependency, UsageError
from features.format.keys import hash_file
from features.records import Detections
from pipeline.detect import detectors
from pipeline.vision.boxes import clip_boxes
from pipeline.vision.images import Picture

__all__ = ["TorchvisionDetector", "TransformersDetector"]

OPEN = ("owlvit", "owlv2")  # networks without classes of their own
PROMPT = "a photo of a {}"


@detectors.register("torchvision")
class TorchvisionDetector:
    """Faster R-CNN, Mask R-CNN and the other detectors of torchvision, COCO's classes.

    Args:
        path: ``NAME`` or ``NAME=WEIGHTS.pth``, for example ``fasterrcnn_resnet50_fpn``. Without
            weights of your own, torchvision downloads its default ones.
        min_score: boxes below are dropped.
    """

    needs_pixels = True
    brings = frozenset({"labels", "scores", "size"})

    def __init__(
        self, path: str | Path = "fasterrcnn_resnet50_fpn", min_score: float = 0.05
    ) -> None:
        self.model, _, weights = str(path).partition("=")
        self.weights = Path(weights) if weights else None
        self.min_score = min_score

    def identity(self) -> dict[str, object]:
        """Return name, version, model, weights and threshold."""
        weights = "default" if self.weights is None else hash_file(self.weights)
        return {
            "name": "torchvision",
            "version": 1,
            "model": self.model,
            "weights": weights,
            "min_score": self.min_score,
        }

    def covers(self, image_id: str) -> bool:
        """Every picture can be looked at."""
        return True

    @cached_property
    def loaded(self) -> tuple[Any, tuple[str, ...]]:
        """The network in evaluation mode and its class names.

        Raises: MissingDependency: torchvision is missing, or does not fit torch.
        """
        try:
            from torchvision.models import detection, get_model, get_model_weights, list_models
        except (ImportError, RuntimeError) as error:
            raise MissingDependency.of(
                "torchvision", "the detector 'torchvision'", "pip install torchvision"
            ) from error
        if self.model not in list_models(detection):
            known = ", ".join(list_models(detection))
            raise UsageError(f"torchvision has no detector {self.model!r}. Known: {known}.")
        default = get_model_weights(self.model).DEFAULT
        names = tuple(default.meta["categories"])
        if self.weights is None:
            return get_model(self.model, weights=default).eval(), names
        import torch

        from features.convert.safe.inputs import need_file

        network = get_model(self.model, weights=None, weights_backbone=None)
        state = torch.load(need_file(self.weights), map_location="cpu", weights_only=True)
        network.load_state_dict(state)
        return network.eval(), names

    def detect(self, picture: Picture) -> Detections:
        """Return the objects of one picture, best first."""
        import torch

        network, names = self.loaded
        image = torch.from_numpy(picture.rgb()).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            found = network([image])[0]
        labels = [names[row] for row in found["labels"].tolist()]
        return _ordered(
            picture, found["boxes"].numpy(), labels, found["scores"].numpy(), self.min_score
        )


@detectors.register("transformers")
class TransformersDetector:
    """Object detectors of transformers: DETR, RT-DETR, YOLOS; OWL-ViT and OWLv2 for any classes.

    OWL-ViT and OWLv2 find what they are told to look for: they need ``queries``, which become the
    labels. A label is asked for as "a photo of a LABEL".

    Args:
        path: a local folder as ``save_pretrained`` writes it, or a name of the hub;
            ``PATH=QUERIES`` gives the queries too.
        min_score: boxes below are dropped.
        queries: labels with commas between them, a text file of one label a line, or a list.
    """

    needs_pixels = True
    brings = frozenset({"labels", "scores", "size"})

    def __init__(
        self,
        path: str | Path | None = None,
        min_score: float = 0.05,
        queries: str | Path | Sequence[str] = (),
    ) -> None:
        if path is None:
            raise UsageError(
                "the detector 'transformers' needs a model: --detections FOLDER or a hub name, for "
                "example facebook/detr-resnet-50."
            )
        self.path, self.min_score = str(path), min_score
        if not queries and not Path(self.path).exists():
            self.path, _, queries = self.path.partition("=")
        self.queries = _queries(queries)

    def identity(self) -> dict[str, object]:
        """Return name, version, threshold, queries and the hashes of a local folder's files."""
        folder = Path(self.path)
        files = sorted(p for p in folder.glob("*") if p.is_file()) if folder.is_dir() else []
        weights = {file.name: hash_file(file) for file in files}
        asked = {"queries": list(self.queries), "prompt": PROMPT} if self.queries else {}
        return {
            "name": "transformers",
            "version": 1,
            "weights": weights or self.path,
            "min_score": self.min_score,
            **asked,
        }

    def covers(self, image_id: str) -> bool:
        """Every picture can be looked at."""
        return True

    @cached_property
    def loaded(self) -> tuple[Any, Any, dict[str, Any]]:
        """The processor, the network, and its inputs that say what to look for.

        Raises:
            MissingDependency: transformers is missing.
            InputError: it cannot be loaded.
            UsageError: queries for a network with classes of its own, none for one without, or
                one that is too long.
        """
        try:
            import transformers
        except ImportError as error:
            raise MissingDependency.of(
                "transformers", "the detector 'transformers'", "pip install transformers"
            ) from error
        config = self._load(transformers.AutoConfig)
        if config.model_type not in OPEN:
            if self.queries:
                raise UsageError(
                    f"{self.path} is {config.model_type!r}, which has classes of its own: drop the "
                    "queries."
                )
            network = self._load(transformers.AutoModelForObjectDetection)
            return self._load(transformers.AutoImageProcessor), network.eval(), {}
        if not self.queries:
            raise UsageError(
                f"{self.path} is {config.model_type!r}, which must be told what to look for: "
                "--detections PATH=person,dog or PATH=labels.txt."
            )
        processor = self._load(transformers.AutoProcessor)
        prompts = [PROMPT.format(label) for label in self.queries]
        tokens = processor.tokenizer(prompts)["input_ids"]
        longest = max(range(len(tokens)), key=lambda row: len(tokens[row]))
        room = config.text_config.max_position_embeddings
        if len(tokens[longest]) > room:
            raise UsageError(
                f"the query {self.queries[longest]!r} has {len(tokens[longest])} tokens as "
                f"{prompts[longest]!r}, {room} are the limit. Shorten it."
            )
        network = self._load(transformers.AutoModelForZeroShotObjectDetection)
        return processor, network.eval(), dict(processor(text=[prompts], return_tensors="pt"))

    def _load(self, kind: Any) -> Any:
        """Load one part.

        Raises: InputError: it is not there, or of another kind.
        """
        try:
            return kind.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: no object detector ({error}).") from error

    def detect(self, picture: Picture) -> Detections:
        """Return the objects of one picture, best first."""
        import torch
        from PIL import Image

        processor, network, asked = self.loaded
        inputs = processor(images=Image.fromarray(picture.rgb()), return_tensors="pt")
        with torch.inference_mode():
            outputs = network(**inputs, **asked)
        size = torch.tensor([[picture.size[1], picture.size[0]]])
        reader = getattr(processor, "image_processor", processor)
        found = reader.post_process_object_detection(
            outputs, threshold=self.min_score, target_sizes=size
        )[0]
        names = self.queries or network.config.id2label
        labels = [str(names[row]) for row in found["labels"].tolist()]
        return _ordered(
            picture, found["boxes"].numpy(), labels, found["scores"].numpy(), self.min_score
        )


def _queries(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Return labels from a file, from words with commas, or from a list.

    Raises: InputError: a file that is no text. UsageError: a label twice.
    """
    if isinstance(given, (str, Path)):
        file = Path(given)
        if isinstance(given, Path) or file.suffix == ".txt":
            from features.convert.safe.inputs import read_names

            given = read_names(file)
        else:
            given = given.split(",")
    labels = tuple(label.strip() for label in given if label.strip())
    if len(set(labels)) < len(labels):
        raise UsageError(f"a query stands twice in {', '.join(labels)}.")
    return labels


def _ordered(
    picture: Picture, boxes: Any, labels: list[str], scores: Any, min_score: float
) -> Detections:
    """Clip, drop what is empty or doubtful, and put the best first."""
    clipped = clip_boxes(np.asarray(boxes, np.float32).reshape(-1, 4), picture.size)
    marks = np.clip(np.asarray(scores, np.float32).reshape(-1), 0, 1)
    good = (marks >= min_score) & (clipped[:, 2:] > clipped[:, :2]).all(1)
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(-marks[rows], kind="stable")]
    return Detections(clipped[rows], tuple(labels[row] for row in rows), marks[rows], picture.size)
