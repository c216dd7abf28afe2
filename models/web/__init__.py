"""Pages about trained runs for the web app of ``features.web``.

Tables and curves, ranking by text and by image, failures, and which regions a word goes with.
"""

from models.web.pages import add_runs
from models.web.served import Runs, Served

__all__ = ["Runs", "Served", "add_runs"]
