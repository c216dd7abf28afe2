"""Plug-in registries: a dict, a decorator, and entry points of other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from inspect import signature
from typing import Generic, TypeVar

from features.errors import UnknownName, UsageError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Named factories of one kind, for example all detectors.

    >>> colours: Registry[str] = Registry("colour", "scenestore.colours")
    >>> @colours.register("red")
    ... def red() -> str:
    ...     return "#f00"
    >>> colours.create("red"), colours.names()
    ('#f00', ['red'])

    Args:
        kind: what the entries are, for error messages.
        group: entry point group of other packages (``"scenestore.detectors"``).
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Return a decorator that registers a class or function under ``name``.

        Raises: UsageError: the name is taken by something else.
        """

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            taken = self._factories.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (
                factory.__module__,
                factory.__qualname__,
            ):
                message = f"{self.kind} {name!r} is already {taken.__module__}.{taken.__qualname__}"
                raise UsageError(f"{message}; choose another name for {factory.__module__}.")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """Return all known names, sorted, those of installed plug-in packages included."""
        return sorted({*self._factories, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str) -> Callable[..., T]:
        """Return the factory called ``name``.

        Raises: UnknownName: no such entry; the message lists the known ones.
        """
        if name not in self._factories:
            for point in entry_points(group=self.group):
                if point.name == name:
                    self._factories.setdefault(name, point.load())
        if name not in self._factories:
            raise UnknownName.of(self.kind, name, self.names())
        return self._factories[name]

    def create(self, name: str, **options: object) -> T:
        """Build the entry called ``name`` with its options.

        ``name:argument`` passes the argument first, so that one word on a command line can name a
        file too: ``onnx:backbone.yaml``.

        Raises:
            UnknownName: no such entry.
            UsageError: an option that the entry does not have.
        """
        key, colon, argument = name.partition(":")
        factory, given = self.get(key), (argument,) if colon else ()
        try:
            signature(factory).bind(*given, **options)
        except TypeError as error:
            raise UsageError(f"{self.kind} {name!r}: {error}.") from error
        return factory(*given, **options)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the known names."""
        return iter(self.names())
