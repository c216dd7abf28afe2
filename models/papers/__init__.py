"""The five papers, one file each, in the order of the paper's sections and equations."""

from models.papers.hrem import Hrem

__all__ = ["Hrem"]
