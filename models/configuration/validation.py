"""Validate values with pydantic; report a mistake in one line with file, key and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from features.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A table of values that cannot be changed; no type but int to float is converted."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def validated(model: type[M], values: object, where: str, names: Sequence[str]) -> M:
    """Return ``values`` as a pydantic model.

    Args:
        model: the model class.   values: nested dicts, as YAML gives them.
        where: start of the message: a file, for example.
        names: what the keys of each level are called: ``("section", "key")``.

    Raises: ConfigError: names the first unknown key or wrong value and what is expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{where}: {_message(model, first, names)}") from error


def checked_options(options: type, values: Mapping[str, object], where: str) -> dict[str, Any]:
    """Return the values of some fields of an options dataclass.

    Args:
        options: the dataclass.   values: field name -> value; a list stands for a tuple.
        where: start of the message.

    Raises: ConfigError: an unknown field, or a value of the wrong type.
    """
    fields: dict[str, Any] = {}
    for key, hint in get_type_hints(options).items():
        fields[key] = (hint, Field(None, strict=False) if get_origin(hint) is tuple else None)
    model = create_model(options.__name__, __base__=Strict, **fields)
    checked = validated(model, values, where, ("option",))
    return {key: getattr(checked, key) for key in values}


def _message(model: type[BaseModel], mistake: ErrorDetails, names: Sequence[str]) -> str:
    parts, kind = mistake["loc"], mistake["type"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)[1:]
    if kind == "extra_forbidden":
        fields: Any = model.model_fields
        for part in parts[:-1]:
            fields = fields[part].annotation.model_fields
        return f"{key}: {UnknownName.of(names[len(parts) - 1], str(parts[-1]), fields)}"
    expected = mistake["msg"].removeprefix("Input ")
    if kind == "model_type":
        expected = "should hold keys and values"
    return f"{key} is {mistake['input']!r}, but {expected}."
