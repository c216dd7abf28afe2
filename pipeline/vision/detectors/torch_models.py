"""Detectors of torchvision and transformers, both optional; loaded on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from features.convert import need_file, read_names
from features.errors import InputError, MissingDependency, UsageError
from features.format import hash_file
from features.records import Detections
from pipeline.vision.boxes import clip_boxes
from pipeline.vision.images import LazyImage

OPEN = ("owlvit", "owlv2")  # open-vocabulary networks: labels are given as queries
PROMPT = "a photo of a {}"


class TorchvisionDetector:
    """The detectors of torchvision (Faster R-CNN, Mask R-CNN, ...) with COCO's classes.

    Args:
        path: ``NAME`` or ``NAME=WEIGHTS.pth``, for example ``fasterrcnn_resnet50_fpn``. Without
            a weights file torchvision downloads its default weights.
        min_score: boxes with a lower score are dropped.
    """

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})

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
        """Return True: any image can be processed."""
        return True

    @cached_property
    def loaded(self) -> tuple[Any, tuple[str, ...]]:
        """The network in evaluation mode and its class names.

        Raises: MissingDependency: torchvision is missing, or does not match torch.
        """
        try:
            # optional; loads torch
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
        import torch  # loads torch

        network = get_model(self.model, weights=None, weights_backbone=None)
        state = torch.load(need_file(self.weights), map_location="cpu", weights_only=True)
        network.load_state_dict(state)
        return network.eval(), names

    def detect(self, image: LazyImage) -> Detections:
        """Return the objects of an image, best first."""
        import torch  # loads torch

        network, names = self.loaded
        tensor = torch.from_numpy(image.rgb()).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            found = network([tensor])[0]
        labels = [names[row] for row in found["labels"].tolist()]
        return _ordered(image, found, labels, self.min_score)


class TransformersDetector:
    """Object detectors of transformers: DETR, RT-DETR, YOLOS, and open-vocabulary OWL-ViT, OWLv2.

    OWL-ViT and OWLv2 need ``queries``: the labels to look for. Each is sent to the network as
    "a photo of a LABEL".

    Args:
        path: a folder written by ``save_pretrained`` or a name on the hub; ``PATH=QUERIES`` gives
            the queries too.
        min_score: boxes with a lower score are dropped.
        queries: comma-separated labels, a text file with one label per line, or a list.
    """

    needs_pixels = True
    provides = frozenset({"labels", "scores", "size"})

    def __init__(
        self,
        path: str | Path | None = None,
        min_score: float = 0.05,
        queries: str | Path | Sequence[str] = (),
    ) -> None:
        if path is None:
            raise UsageError(
                "the detector 'transformers' needs a model: pass --detections FOLDER or a name on "
                "the hub, for example facebook/detr-resnet-50."
            )
        self.path, self.min_score = str(path), min_score
        if not queries and not Path(self.path).exists():
            self.path, _, queries = self.path.partition("=")
        self.queries = _queries(queries)

    def identity(self) -> dict[str, object]:
        """Return name, version, threshold, queries and the hashes of a local folder's files."""
        asked = {"queries": list(self.queries), "prompt": PROMPT} if self.queries else {}
        return {
            "name": "transformers",
            "version": 1,
            "weights": hash_pretrained(self.path),
            "min_score": self.min_score,
            **asked,
        }

    def covers(self, image_id: str) -> bool:
        """Return True: any image can be processed."""
        return True

    @cached_property
    def loaded(self) -> tuple[Any, Any, dict[str, Any]]:
        """The processor, the network, and its inputs for the queries.

        Raises:
            MissingDependency: transformers is missing.
            InputError: the model cannot be loaded.
            UsageError: queries for a network with fixed classes, none for an open-vocabulary
                network, or one that is too long.
        """
        try:
            import transformers  # optional; loads torch
        except ImportError as error:
            raise MissingDependency.of(
                "transformers", "the detector 'transformers'", "pip install transformers"
            ) from error
        config = self._load(transformers.AutoConfig)
        if config.model_type not in OPEN:
            if self.queries:
                raise UsageError(
                    f"{self.path} is {config.model_type!r}, which has fixed classes: drop the "
                    "queries."
                )
            network = self._load(transformers.AutoModelForObjectDetection)
            return self._load(transformers.AutoImageProcessor), network.eval(), {}
        if not self.queries:
            raise UsageError(
                f"{self.path} is {config.model_type!r}, which needs the labels to look for: pass "
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
                f"{prompts[longest]!r}; the limit is {room}. Shorten it."
            )
        network = self._load(transformers.AutoModelForZeroShotObjectDetection)
        return processor, network.eval(), dict(processor(text=[prompts], return_tensors="pt"))

    def _load(self, loader: Any) -> Any:
        """Load one part of the model.

        Raises: InputError: the part is missing, or the model is not a detector.
        """
        try:
            return loader.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: not an object detector ({error}).") from error

    def detect(self, image: LazyImage) -> Detections:
        """Return the objects of an image, best first."""
        import torch  # loads torch
        from PIL import Image  # loads Pillow

        processor, network, asked = self.loaded
        inputs = processor(images=Image.fromarray(image.rgb()), return_tensors="pt")
        with torch.inference_mode():
            outputs = network(**inputs, **asked)
        size = torch.tensor([[image.size[1], image.size[0]]])
        reader = getattr(processor, "image_processor", processor)
        found = reader.post_process_object_detection(
            outputs, threshold=self.min_score, target_sizes=size
        )[0]
        names = self.queries or network.config.id2label
        labels = [str(names[row]) for row in found["labels"].tolist()]
        return _ordered(image, found, labels, self.min_score)


def hash_pretrained(path: str) -> object:
    """Return the hashes of a local folder's files by name, or the name on the hub as it is."""
    files = sorted(file for file in Path(path).glob("*") if file.is_file())
    return {file.name: hash_file(file) for file in files} or path


def _queries(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Return the labels of a file, a comma-separated string or a list.

    Raises: InputError: the file is not text. UsageError: a label is listed twice.
    """
    if isinstance(given, (str, Path)):
        file = Path(given)
        if isinstance(given, Path) or file.suffix == ".txt":
            given = read_names(file)
        else:
            given = given.split(",")
    labels = tuple(label.strip() for label in given if label.strip())
    if len(set(labels)) < len(labels):
        raise UsageError(f"a query is listed twice: {', '.join(labels)}.")
    return labels


def _ordered(
    image: LazyImage, found: Mapping[str, Any], labels: list[str], min_score: float
) -> Detections:
    """Clip boxes, drop empty and low-scored ones, and sort them by score."""
    clipped = clip_boxes(found["boxes"].numpy().reshape(-1, 4).astype(np.float32), image.size)
    scores = np.clip(found["scores"].numpy().reshape(-1).astype(np.float32), 0, 1)
    good = (scores >= min_score) & (clipped[:, 2:] > clipped[:, :2]).all(1)
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return Detections(clipped[rows], tuple(labels[row] for row in rows), scores[rows], image.size)
