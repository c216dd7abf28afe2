"""Reports: an HTML page about a store and its runs, and the readings of a configuration."""

from models.reporting.disputed import Match, Reading, published_rows, readings
from models.reporting.gallery import failures, read_queries, retrieval_gallery
from models.reporting.page import write_page, write_sheet
from models.reporting.runs import read_run, training_charts

__all__ = [
    "Match",
    "Reading",
    "failures",
    "published_rows",
    "read_queries",
    "read_run",
    "readings",
    "retrieval_gallery",
    "training_charts",
    "write_page",
    "write_sheet",
]
