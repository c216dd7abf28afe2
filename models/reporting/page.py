"""Render pages that need no network and no other file: every photo in them is embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.errors import MissingDependency
from features.format import replacing

_HERE = Path(__file__).parent


class Photos:
    """The small photos of a page, each with the id of the element that holds it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, data: str) -> str:
        """Return the id of a photo, given its data URI."""
        return self._names.setdefault(data, f"p{len(self._names)}")

    def all(self) -> list[tuple[str, str]]:
        """Return id and data URI of each photo that the page has asked for."""
        return [(name, data) for data, name in self._names.items()]


def write_page(out: Path, template: str, **values: Any) -> Path:
    """Render a template of this folder to a file.

    Args:
        out: the HTML file.   template: its name.   values: names in the template.

    Raises: MissingDependency: Jinja2 is not installed. WriteError: the file cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        command = "pip install 'scenestore[viz]'"
        raise MissingDependency.of("jinja2", "the report", command) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(photos=Photos(), **values)
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")
    return out


def write_sheet(out: Path, title: str, lead: str, sections: Sequence[dict[str, Any]]) -> Path:
    """Write a page of found images, captions or failures.

    Args:
        out: the HTML file.   title, lead: heading and first sentence.
        sections: each with some of ``title``, ``note``, ``photo`` (id, thumbnail), ``images``
            (id, thumbnail, score, captions), ``captions`` (text, score) and ``queries`` (as
            ``failures`` returns them).

    Raises: MissingDependency: Jinja2 is not installed. WriteError: the file cannot be written.
    """
    empty = {"title": "", "note": "", "photo": None, "images": (), "captions": (), "queries": ()}
    parts = [{**empty, **section} for section in sections]
    return write_page(out, "sheet.html.j2", title=title, lead=lead, sections=parts)
