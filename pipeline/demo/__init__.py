"""Demo data: rendered scenes with captions and detections, and public-domain photos."""

from pipeline.demo.photos import write_photos
from pipeline.demo.scenes import make_folder, make_scenes

__all__ = ["make_folder", "make_scenes", "write_photos"]
