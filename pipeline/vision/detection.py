"""Object detectors: their protocol and registry.

A detector states what it provides and what it needs; the pipeline computes only what is missing. To
add one, write a class with the members of ``Detector`` and register it with the decorator
``detector_registry.register(name)`` or as an entry point of the group ``scenestore.detectors``.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from features.errors import UsageError
from features.records import Detections
from features.registry import Registry
from pipeline.vision.images import LazyImage


@runtime_checkable
class Detector(Protocol):
    """Interface of a detector.

    Attributes:
        needs_pixels: False for detectors that read precomputed files.
        provides: fields of its Detections beside boxes: labels, scores, attributes, features,
            relations, size; and ``maps`` if it has a method ``regions(image, boxes)`` that returns
            features of any boxes.

    A detector may also have

    - ``rules``: defaults of the graph rules that suit it;
    - ``default_relations``, ``default_features``: names of the relation predictor and the feature
      extractor that ``auto`` stands for;
    - ``shown``: score from which displays show an object;
    - ``feature_width``: width of its features if it reads them from a file.
    """

    needs_pixels: bool
    provides: frozenset[str]

    def identity(self) -> dict[str, object]:
        """Return all that its output depends on, for content keys: name, version, weights, options.

        JSON values only; a precomputed file counts by the hash of its content, not by its path.
        """
        ...

    def covers(self, image_id: str) -> bool:
        """Return whether it can process this image; always True unless it reads a file."""
        ...

    def detect(self, image: LazyImage) -> Detections:
        """Return the objects of an image, best first; boxes are xyxy pixels within the image."""
        ...


_NETWORKS = "pipeline.vision.detectors."
_FILES = "pipeline.vision.detectors.precomputed:"
detector_registry: Registry[Detector] = Registry(
    "detector",
    "scenestore.detectors",
    {
        "nanodet": _NETWORKS + "nanodet:Nanodet",
        "regions": _NETWORKS + "regions:Regions",
        "labelled": _NETWORKS + "labelled:Labelled",
        "onnx": _NETWORKS + "onnx_model:OnnxDetector",
        "torchvision": _NETWORKS + "torch_models:TorchvisionDetector",
        "transformers": _NETWORKS + "torch_models:TransformersDetector",
        "bottom-up": _FILES + "bottom_up",
        "coco": _FILES + "coco",
        "entities": _FILES + "entities",
        "grounded": "pipeline.grounding.detector:Grounded",
        "psg": _FILES + "psg",
        "scene-graph-benchmark": _FILES + "scene_graph_benchmark",
        "scene-graphs": _FILES + "scene_graphs",
        "visual-genome": _FILES + "visual_genome",
    },
    Detector,
)


def create_detector(name: str, **options: object) -> Detector:
    """Create the detector called ``name``.

    Args:
        name: a registered name.
        options: options of the detector; ``path=None`` counts as not given.

    Raises:
        UnknownName: no detector has this name; the message lists the known ones.
        UsageError: the detector has no such option.
    """
    given = {key: value for key, value in options.items() if (key, value) != ("path", None)}
    try:
        return detector_registry.create(name, **given)
    except UsageError as error:
        if "path" in given and "keyword argument 'path'" in str(error):
            raise UsageError(f"the detector {name!r} reads no file: drop --detections.") from error
        raise
