"""A Markdown extension: examples of docstrings (``>>> ...``) become blocks of code."""

from __future__ import annotations

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor


class _Doctests(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        """Put a fence around each example, up to the next empty line."""
        found: list[str] = []
        fenced = inside = False
        for line in lines:
            if line.lstrip().startswith(("```", "~~~")):
                fenced = not fenced
            starts = line.startswith(">>> ") and not fenced
            if starts and not inside:
                found += ["", "```pycon"]
                inside = True
            elif inside and not line.strip():
                found.append("```")
                inside = False
            found.append(line)
        return [*found, "```"] if inside else found


class Doctests(Extension):
    """Register the preprocessor before those of fenced code."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  (Markdown's name)
        """Add it to a converter."""
        md.preprocessors.register(_Doctests(md), "doctests", 28)


def makeExtension(**_: object) -> Doctests:  # noqa: N802  (Markdown's name)
    """Return the extension, as ``markdown_extensions`` asks for it."""
    return Doctests()
