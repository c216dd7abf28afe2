"""A web app to look through stores: a grid with filters, images with their graphs.

It needs Flask (the extra ``web``). ``models.web`` adds the pages of trained runs to it.
"""

from features.web.app import Extension, Links, create_app, page
from features.web.filters import Filters
from features.web.scene import graph_of, picture
from features.web.selection import Selection
from features.web.server import is_loopback, listen, serve
from features.web.shelf import Cache, Ranked, Shelf, Site, find_photos

__all__ = [
    "Cache",
    "Extension",
    "Filters",
    "Links",
    "Ranked",
    "Selection",
    "Shelf",
    "Site",
    "create_app",
    "find_photos",
    "graph_of",
    "is_loopback",
    "listen",
    "page",
    "picture",
    "serve",
]
