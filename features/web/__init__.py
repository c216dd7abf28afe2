"""A web app to look through stores: a grid with filters, images with their graphs.

It needs Flask (the extra ``web``). ``models.web`` adds the pages of trained runs to it.
"""

from features.web.app import Extension, Links, create_app, page
from features.web.filters import Filters
from features.web.photos import small_jpeg
from features.web.scene import graph_of, picture
from features.web.security import LARGEST, same_text
from features.web.selection import Selection
from features.web.server import is_loopback, listen, serve
from features.web.shelf import Cache, Ranked, Shelf, Site, find_photos

__all__ = [
    "LARGEST",
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
    "same_text",
    "serve",
    "small_jpeg",
]
