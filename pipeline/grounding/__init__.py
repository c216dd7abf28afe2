"""Grounded scene graphs: gold boxes linked with what the captions of the same image say.

Flickr30k Entities marks the phrases of a caption and draws their boxes; a caption parser finds
objects, attributes and relations among its words. Together they give the boxes of an image labels,
attributes and relations, each with the words that state it.
"""

from pipeline.grounding.detector import Grounded
from pipeline.grounding.export import write_graphs
from pipeline.grounding.training import label_graphs, labelled_regions

__all__ = ["Grounded", "label_graphs", "labelled_regions", "write_graphs"]
