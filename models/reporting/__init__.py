"""The report: sections, figures and retrieval examples of a self-contained HTML page."""

from models.reporting.gallery import Thumbnails, retrieval_gallery
from models.reporting.runs import read_run

__all__ = ["Thumbnails", "read_run", "retrieval_gallery"]
