"""Detect objects in photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from features.records import Detections
from pipeline.vision import Detector, LazyImage, create_detector
from pipeline.vision import detector_registry as detectors

__all__ = ["Detector", "create_detector", "detect", "detectors"]


def detect(
    photo_paths: Iterable[Path | str] | Path | str,
    detector: str | Detector = "labelled",
    max_objects: int = 100,
    **options: object,
) -> list[Detections]:
    """Detect objects in photos.

    Args:
        photo_paths: image files (or a single one).
        detector: a registered name, or a detector object.
        max_objects: boxes kept per photo.
        options: options of a detector given by name.

    Returns:
        One ``Detections`` per photo, best first; boxes in pixels of the photo after EXIF rotation.

    Raises: ImageError: a photo cannot be decoded. UnknownName: no detector has this name.
    """
    paths = [photo_paths] if isinstance(photo_paths, (str, Path)) else list(photo_paths)
    chosen = create_detector(detector, **options) if isinstance(detector, str) else detector
    return [
        chosen.detect(LazyImage.open(Path(path).name, path)).first(max_objects) for path in paths
    ]
