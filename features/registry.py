"""Registry of plug-ins: detectors, relation predictors, feature extractors, parsers and models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import get_annotations, signature
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from features.errors import UnknownName, UsageError
from features.plugins import load_variable, note_plugin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Registry", "lazy_exports"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Named classes or functions of one kind that build a ``T``, for example all detectors.

    A name comes from one of three places:

    - the decorator ``@registry.register(name)``, once its module has been imported, by the program
      or because it is named in ``SCENESTORE_PLUGINS`` (see ``features.plugins``);
    - ``built_in``, a table of modules that are imported when their name is first asked for;
    - an entry point of an installed package, in the group ``group``.

    The latter two have the form of entry points: ``package.module:attribute``, or
    ``package.module`` when importing the module registers the name with the decorator.

    >>> colours: Registry[str] = Registry("colour", "scenestore.colours")
    >>> @colours.register("red")
    ... def red() -> str:
    ...     return "#f00"
    >>> colours.create("red"), colours.names()
    ('#f00', ['red'])

    Args:
        kind: what the entries are, for error messages.
        group: entry point group of other packages, for example ``"scenestore.detectors"``.
        built_in: name -> where the entry is defined; listing names imports none of them.
        interface: protocol of ``T``; ``create`` checks that an entry has all its members.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, str] | None = None,
        interface: type | None = None,
    ) -> None:
        self.kind, self.group = kind, group
        self.members = _members(interface)  # what create checks
        self.built_in = dict(built_in or {})
        self._entries: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that registers a class or function under ``name``.

        Raises: UsageError: the name is taken by something else.
        """

        def add(entry: F) -> F:
            taken = self._entries.get(name)
            if taken is not None and _origin(taken) != _origin(entry):
                raise UsageError(
                    f"{self.kind} {name!r} is already {_place(taken)}; "
                    f"choose another name for {_place(entry)}."
                )
            self._entries[name] = entry
            note_plugin(entry.__module__)
            return entry

        return add

    def names(self) -> list[str]:
        """Return all known names, sorted, including those of installed packages."""
        load_variable()
        return sorted({*self._entries, *(point.name for point in self._points())})

    def get(self, name: str) -> Callable[..., T]:
        """Return the class or function registered under ``name``; import it first if need be.

        Raises: UnknownName: no such entry; the message suggests the nearest names.
        """
        if name not in self._entries:
            named = (point for point in self._points() if point.name == name)
            for loaded in (point.load() for point in named):
                if callable(loaded):
                    self._entries[name] = loaded
                    break
        if name not in self._entries:
            load_variable()
        if name not in self._entries:
            error = UnknownName.of(self.kind, name, self.names())
            raise UnknownName(f"{error} If it is your own, name its module: --plugins MODULE.")
        return self._entries[name]

    def create(self, name: str, **options: object) -> T:
        """Build the entry called ``name`` with its options.

        ``name:argument`` passes the argument first, so that one word on a command line can name a
        file too: ``onnx:backbone.yaml``.

        Raises:
            UnknownName: no such entry.
            UsageError: the entry does not accept these options, or lacks a member of the interface.
        """
        key, colon, argument = name.partition(":")
        entry, given = self.get(key), (argument,) if colon else ()
        try:
            signature(entry).bind(*given, **options)
        except TypeError as error:
            raise UsageError(f"{self.kind} {name!r}: {error}.") from error
        made = entry(*given, **options)
        self.check(name, made, self.members)
        return made

    def check(self, name: str, made: object, members: Iterable[str]) -> None:
        """Check that an object has these attributes and methods. Raises: UsageError."""
        missing = [member for member in members if not hasattr(made, member)]
        if missing:
            raise UsageError(
                f"{self.kind} {name!r} ({type(made).__module__}.{type(made).__qualname__}) has no "
                f"{' and no '.join(map(repr, missing))}. docs/plugins.md lists what it needs."
            )

    def _points(self) -> Iterator[EntryPoint]:
        """Yield our own entries, then those of installed packages, whose search takes longer."""
        from importlib.metadata import EntryPoint, entry_points  # loads email, csv and zipfile

        for name, value in self.built_in.items():
            yield EntryPoint(name, value, self.group)
        yield from entry_points(group=self.group)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the known names."""
        return iter(self.names())


def _place(entry: Callable[..., Any]) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"


def _origin(entry: Callable[..., Any]) -> tuple[str, str]:
    """Return file and name of an entry: a program can be ``__main__`` here, a module elsewhere."""
    module = sys.modules.get(entry.__module__)
    return str(getattr(module, "__file__", None) or entry.__module__), entry.__qualname__


def _members(interface: type | None) -> list[str]:
    """Return the attributes and methods that a protocol declares."""
    if interface is None:
        return []
    methods = [name for name, value in vars(interface).items() if callable(value)]
    names = {*get_annotations(interface), *methods}
    return sorted(name for name in names if not name.startswith("_"))


def lazy_exports(package: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package whose exports load something slow, such as torch.

    Args:
        package: ``__name__`` of the package.
        names: exported name -> module that defines it.
    """

    def load(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(names[name]), name)
        setattr(sys.modules[package], name, value)  # next time without this function
        return value

    return load
