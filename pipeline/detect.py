"""Object detectors: the protocol, the registry and ``detect`` for a list of photos.

A detector says what it brings and what it needs; the pipeline computes only what is missing. Your
own detector is a class with the members of ``Detector``, registered in two ways: the decorator
below, or the entry point group ``scenestore.detectors`` of an installed package.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from features.errors import UsageError
from features.records import Detections
from features.registry import Registry
from pipeline.vision.images import Picture

__all__ = ["Detector", "create_detector", "detect", "detectors"]


@runtime_checkable
class Detector(Protocol):
    """What every detector offers.

    Attributes:
        needs_pixels: False for detectors that read a file made elsewhere.
        brings: what its Detections have beside boxes: labels scores attributes features relations
            size; ``maps`` says that ``regions(picture, boxes)`` gives features of any box.
    """

    needs_pixels: bool
    brings: frozenset[str]

    def identity(self) -> dict[str, object]:
        """Return what its output depends on, for the content key: name, version, weights, options.

        JSON values only; a precomputed file is named by its hash, not by its path.
        """
        ...

    def covers(self, image_id: str) -> bool:
        """Say whether it can tell anything about this image; True unless it reads a file."""
        ...

    def detect(self, picture: Picture) -> Detections:
        """Return the objects of one picture, best first.

        Boxes are xyxy in pixels of the picture, clipped to it.
        """
        ...


detectors: Registry[Detector] = Registry("detector", "scenestore.detectors")


def create_detector(name: str, **options: object) -> Detector:
    """Build a detector by name; the ones that come with the package are registered first.

    Args:
        name: a registered name.
        options: of the detector; ``path=None`` counts as not given.

    Raises:
        UnknownName: nobody registered this name; the message lists the known ones.
        UsageError: the detector has no such option.
    """
    import pipeline.vision.detectors  # noqa: F401  (registers the packaged detectors)

    given = {key: value for key, value in options.items() if not (key == "path" and value is None)}
    try:
        return detectors.create(name, **given)
    except UsageError as error:
        if "path" in given and "keyword argument 'path'" in str(error):
            raise UsageError(f"the detector {name!r} reads no file: drop --detections.") from error
        raise


def detect(
    photo_paths: Iterable[Path | str] | Path | str,
    detector: str | Detector = "nanodet",
    max_objects: int = 100,
    **options: object,
) -> list[Detections]:
    """Detect objects in photos.

    Args:
        photo_paths: picture files (or a single one).
        detector: a registered name, or a detector object.
        max_objects: boxes kept per photo.
        options: of the detector, when it is given by name.

    Returns:
        one ``Detections`` per photo, best first, boxes in pixels of the photo after EXIF rotation.

    Raises: ImageError: a photo cannot be decoded. UnknownName: no such detector.
    """
    paths = [photo_paths] if isinstance(photo_paths, (str, Path)) else list(photo_paths)
    chosen = create_detector(detector, **options) if isinstance(detector, str) else detector
    return [
        chosen.detect(Picture.opened(Path(path).name, path)).first(max_objects) for path in paths
    ]
