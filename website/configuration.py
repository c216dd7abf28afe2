"""Write the reference of training configurations from their classes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator

from models.configuration.config import SECTIONS, _type
from models.registry import list_models, options_class


def configuration_page() -> str:
    """Return the page: a table for each section, and one for the options of each model."""
    parts: list[str] = []
    for section, kind in SECTIONS.items():
        parts.append(f"## {section}\n\n{kind.__doc__}\n")
        parts.append("| key | meaning | type | default |\n|---|---|---|---|")
        for name, field in kind.model_fields.items():
            shown = "see below" if name == "options" else _value(field.default)
            kind_of = _type(field.annotation).replace("|", r"\|")
            parts.append(
                f"| `{section}.{name}` | {_cell(field.description)} | {kind_of} | {shown} |"
            )
        parts.append("")
    parts.append("## Options of the models\n")
    for name in list_models():
        kind = options_class(name)
        parts += [f"### {name}\n", f"{(inspect.getdoc(kind) or '').partition(chr(10))[0]}\n"]
        parts.append("| option | meaning | type | default |\n|---|---|---|---|")
        said = dict(_comments(kind))
        for field in dataclasses.fields(kind):
            default = "" if field.default is dataclasses.MISSING else _value(field.default)
            hint = str(field.type).replace("|", r"\|")
            parts.append(
                f"| `{field.name}` | {_cell(said.get(field.name, ''))} | {hint} | {default} |"
            )
        parts.append("")
    return "\n".join(parts)


def _comments(kind: type) -> Iterator[tuple[str, str]]:
    """Yield (field, the text below its definition) of a class and its bases."""
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            (body,) = ast.parse(inspect.getsource(base)).body
            assert isinstance(body, ast.ClassDef)
            for one, after in zip(body.body, body.body[1:], strict=False):
                match one, after:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(text)):
                        yield name, str(text)


def _value(value: object) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, tuple):
        value = list(value)
    return "`true`" if value is True else "`false`" if value is False else f"`{value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", r"\|").replace("*", r"\*")
