"""Reports: an HTML page about a store and its runs, and the readings of a configuration."""

from models.reporting.disputed import Match, Reading, published_rows, readings
from models.reporting.gallery import retrieval_gallery
from models.reporting.runs import read_run

__all__ = [
    "Match",
    "Reading",
    "published_rows",
    "read_run",
    "readings",
    "retrieval_gallery",
]
