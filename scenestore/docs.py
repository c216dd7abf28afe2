"""``scenestore docs``: print a page of the documentation, which is part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from features.commands import Program, fitted, next_steps
from features.errors import UnknownName

app = Program("scenestore docs")
_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "pages", _HERE.parent / "docs")  # an installed package, a checkout


@app.command("docs")
def docs(
    page: Annotated[str, typer.Argument(metavar="[PAGE]", help="Name of a page.")] = "",
) -> None:
    """Print a page of the documentation, or the names of all pages."""
    pages = {
        path.relative_to(place).with_suffix("").as_posix(): path
        for place in _PLACES
        for path in sorted(place.rglob("*.md"))
    }
    if not page:
        width = max(map(len, pages), default=0)
        for name, path in pages.items():
            title = path.read_text(encoding="utf-8").splitlines()[0]
            typer.echo(fitted(f"{name:{width}}  {title.lstrip('# ')}"))
        next_steps(["docs", next(iter(pages))])
        return
    if page not in pages:
        named = [name for name in pages if name.rpartition("/")[2] == page]  # without its folder
        if len(named) != 1:
            raise UnknownName.of("page", page, pages)
        (page,) = named
    typer.echo(pages[page].read_text(encoding="utf-8"))
