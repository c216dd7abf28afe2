"""Luigi tasks that build stores: options, content keys, stages and summaries."""

from workflows.build.add_text import AddText
from workflows.build.datasets import BuildCoco, BuildDataset, BuildFlickr8k, BuildFlickr30k
from workflows.build.options import BuildOptions, option_parameter
from workflows.build.stages import BuildTask

__all__ = [
    "AddText",
    "BuildCoco",
    "BuildDataset",
    "BuildFlickr8k",
    "BuildFlickr30k",
    "BuildOptions",
    "BuildTask",
    "option_parameter",
]
