"""Hooks of MkDocs: pages that are made from the code, and links to files outside of ``docs``.

Nothing that is made here is committed, so it cannot be out of date. Pages of the repository's root
become pages of the site, source files become pages with numbered lines, and drawings are put into
the page, where they take the colours of the theme.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from website.commands import commands_page
from website.configuration import configuration_page
from website.notebooks import notebook_page

ROOT = Path(__file__).resolve().parents[1]
FROM_ROOT = {name: f"{name.lower()}.md" for name in ("SECURITY", "CONTRIBUTING", "CHANGELOG")}
GENERATED = {
    "reference/commands.md": commands_page,
    "reference/configuration.md": configuration_page,
}
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
_DRAWING = re.compile(r'<img alt="([^"]*)" src="([^"]+\.svg)"\s*/?>')


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, the source files that pages link to, style and search shim."""
    made = {
        f"assets/{name}": (ROOT / "website" / name).read_text(encoding="utf-8")
        for name in ("site.css", "focus.js", "iframe-worker.js")
    }
    for name, page in FROM_ROOT.items():
        made[page] = (ROOT / f"{name}.md").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / f"{name}.md" for name in FROM_ROOT)]
    for source in sorted({target for page in pages for target in _sources(page)}):
        made[_code_address(source)] = _code_page(source)
    for address, content in made.items():
        files.append(File.generated(config, address, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the pages made from code, and point links at pages for files outside of ``docs``."""
    address = page.file.src_uri
    root = f"{address}" if address in FROM_ROOT.values() else f"docs/{address}"

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(root), target))
        if path.startswith("docs/"):
            path = path.removeprefix("docs/")
        elif path.removesuffix(".md") in FROM_ROOT:
            path = FROM_ROOT[path.removesuffix(".md")]
        elif (ROOT / path).exists():
            path = _code_address(path)
            anchor = anchor.replace("#L", "#line-0-")
        return posixpath.relpath(path, posixpath.dirname(address) or ".") + anchor

    made = GENERATED.get(address)
    return _LINK.sub(link, markdown) + (f"\n{made()}" if made else "")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put drawings into the page, and name numbered lines as the links to them do."""

    def drawing(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.dest_uri), found[2]))
        text = (ROOT / "docs" / path).read_text(encoding="utf-8")
        text = text[text.index("<svg") :]
        named = text.replace("<svg", f'<svg role="img" aria-label="{found[1]}"', 1)
        return f'<span class="drawing">{named}</span>'

    return _DRAWING.sub(drawing, html).replace("__codelineno-", "line-")


def on_post_page(output: str, **_: Any) -> str:
    """Name the search dialog of the theme, for screen readers."""
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">')


def _sources(page: Path) -> Iterator[str]:
    """Yield the files and folders outside of ``docs`` that a page links to."""
    for found in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = (page.parent / found[1]).resolve()
        if ":" not in found[1] and target.exists() and target.is_relative_to(ROOT):
            path = target.relative_to(ROOT).as_posix()
            if not path.startswith("docs/") and path.removesuffix(".md") not in FROM_ROOT:
                yield path
                if target.is_dir():
                    yield from (f"{path}/{one.name}" for one in target.iterdir() if one.is_file())


def _code_address(source: str) -> str:
    """Return the page of a file or folder of the repository."""
    if (ROOT / source).is_dir():
        return f"code/{source}/index.md"
    return f"code/{source}" if source.endswith(".md") else f"code/{source}.md"


def _code_page(source: str) -> str:
    path = ROOT / source
    hidden = "---\nsearch:\n  exclude: true\n---\n"
    if path.is_dir():
        files = sorted(one.name for one in path.iterdir() if one.is_file())
        listed = "".join(f"- [{name}]({name}.md)\n" for name in files)
        return f"{hidden}# {source}\n\n{listed}"
    if path.suffix == ".ipynb":
        return notebook_page(path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return hidden + text
    kind = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash"}
    language = kind.get(path.suffix, "text")
    return f'{hidden}# {source}\n\n~~~~~~ {{.{language} linenums="1"}}\n{text}\n~~~~~~\n'
