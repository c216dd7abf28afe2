"""One value of a configuration: checked against its annotation and range, or refused by name."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, get_args, get_origin

from features.errors import ConfigError

__all__ = ["coerce", "describe"]


def coerce(value: Any, owner: type, item: dataclasses.Field[Any], where: str) -> Any:
    """Return ``value`` as the type of a dataclass field.

    Args:
        value: as YAML gives it. YAML 1.1 reads ``2e-4`` as text, so numbers in text are taken.
        owner: the dataclass.   item: its field; metadata may hold ``low`` and ``high``.
        where: file, section and key for the message.

    Raises: ConfigError: wrong type, choice or range.
    """
    result = _as(value, typing.get_type_hints(owner)[item.name], where)
    low, high = item.metadata.get("low"), item.metadata.get("high")
    if isinstance(result, int | float) and not isinstance(result, bool):
        if low is not None and result < low:
            raise ConfigError(f"{where} is {result}, but must be at least {low:g}.")
        if high is not None and result > high:
            raise ConfigError(f"{where} is {result}, but must be at most {high:g}.")
    return result


def describe(owner: type, item: dataclasses.Field[Any]) -> str:
    """Return type and default of a field for the help: ``float, 0.0002``."""
    hint = typing.get_type_hints(owner)[item.name]
    if item.default is dataclasses.MISSING:
        return _name(hint)
    default = item.default
    if isinstance(default, tuple):
        default = list(default)
    return f"{_name(hint)}, {'none' if default is None else default or repr(default)}"


def _as(value: Any, hint: Any, where: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in parts:
            return value
        raise ConfigError(f"{where} is {value!r}, not one of {', '.join(parts)}.")
    if isinstance(hint, types.UnionType):  # X | None
        if value is None:
            return None
        return _as(value, next(part for part in parts if part is not type(None)), where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_as(one, parts[0], f"{where}[{at}]") for at, one in enumerate(value))
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _as(one, parts[1], f"{where}.{key}") for key, one in value.items()}
    if hint is Any:
        found = _number(value) if isinstance(value, str) else value
        if isinstance(found, float) and not math.isfinite(found):
            raise ConfigError(f"{where} is {value!r}, but must be finite.")
        return found
    if hint is str and isinstance(value, int | float | str) and not isinstance(value, bool):
        return str(value)  # a folder called 2026 is a name
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (int, float) and not isinstance(value, bool):
        number = _number(value)
        if hint is int and isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, int) or (hint is float and isinstance(number, float)):
            if not math.isfinite(number):
                raise ConfigError(f"{where} is {value!r}, but must be finite.")
            return hint(number)
    raise ConfigError(f"{where} is {value!r}, but should be {_name(hint)}.")


def _number(value: Any) -> Any:
    """Return the number that a text such as ``2e-4`` stands for; anything else as it is."""
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _name(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "|".join(parts)
    if isinstance(hint, types.UnionType):
        return " or ".join("null" if part is type(None) else _name(part) for part in parts)
    if origin is tuple:
        return f"list of {_name(parts[0])}"
    if origin is dict:
        return "mapping"
    return str(getattr(hint, "__name__", hint))
