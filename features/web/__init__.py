"""A web app to look through stores: a grid with filters, images with their graphs.

It needs Flask (the extra ``web``). ``models.web`` adds the pages of trained runs to it.
"""

from features.web.app import create_app
from features.web.filters import Filters
from features.web.selection import Selection
from features.web.server import is_loopback, listen, serve
from features.web.shelf import Ranked, Shelf, Site, find_photos

__all__ = [
    "Filters",
    "Ranked",
    "Selection",
    "Shelf",
    "Site",
    "create_app",
    "find_photos",
    "is_loopback",
    "listen",
    "serve",
]
