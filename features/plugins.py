"""Modules that register plug-ins: import them here, and name them for other processes.

Shards run in Dask workers, and trainings and parsers in processes of their own. A decorator such as
``@detectors.register("mine")`` has an effect only in a process that imports its module, so the
modules are named in two ways:

- ``load_plugins``, which ``--plugins`` calls, puts them into the environment variable
  ``SCENESTORE_PLUGINS``, which processes started from here inherit;
- ``plugins_in_use`` returns them for a worker that may run on another machine.

A registry imports the modules of the variable when a name is asked for. Plug-ins of installed
packages that declare entry points need none of this.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from features.errors import MissingInput, ScenestoreError, UsageError

__all__ = [
    "VARIABLE",
    "inherited",
    "load_plugins",
    "load_variable",
    "note_plugin",
    "plugins_in_use",
]

VARIABLE = "SCENESTORE_PLUGINS"
_OURS = ("features", "models", "pipeline", "workflows")

_modules: dict[str, None] = {}  # modules that registered something
_loaded: set[str] = set()  # what load_plugins has imported, as it was named


def load_plugins(names: str | Iterable[str]) -> None:
    """Import modules that register plug-ins, here and in the processes started from here.

    Args:
        names: modules such as ``lab.detectors``, or Python files; a text separates them by commas.

    Raises:
        MissingInput: no such module or file.
        UsageError: importing it failed, or a file has the name of another module.
    """
    listed = names.split(",") if isinstance(names, str) else list(names)
    wanted = [name.strip() for name in listed if name.strip()]
    for name in wanted:
        if name not in _loaded:
            _load(name)
            _loaded.add(name)
    offer_plugins(map(_portable, wanted))


def offer_plugins(names: Iterable[str]) -> None:
    """Add modules to the environment variable: imported when a registry lacks a name."""
    known = _variable()
    new = [name for name in names if name not in known]
    if new:
        os.environ[VARIABLE] = ",".join([*known, *new])


def load_variable() -> bool:
    """Import the modules of the environment variable; return whether there were new ones."""
    new = [name for name in _variable() if name not in _loaded]
    for name in new:
        _load(name)
        _loaded.add(name)
    return bool(new)


def note_plugin(module: str) -> None:
    """Remember that a module has registered something; Scenestore's own modules do not count."""
    if module.partition(".")[0] not in _OURS:
        _modules[module] = None


def plugins_in_use() -> tuple[str, ...]:
    """Return the modules to import in another process, as ``load_plugins`` takes them.

    These are the modules that registered a plug-in in this process. A module outside of
    site-packages is named by its file, which a worker that shares the file system can read.

    Raises: UsageError: a plug-in was defined in an interactive session.
    """
    return tuple(dict.fromkeys(_place(name) for name in _modules if name in sys.modules))


def inherited() -> dict[str, str]:
    """Return the environment of a process that shall find the plug-ins of this one."""
    names = dict.fromkeys([*_variable(), *plugins_in_use()])
    return {VARIABLE: ",".join(names)} if names else {}


def _variable() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def _portable(name: str) -> str:
    """Return a file's absolute path, since another process may have another working directory."""
    return str(Path(name).resolve()) if _is_file(name) else name


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _load(name: str) -> None:
    if not _is_file(name):
        _import(name)
        return
    path = Path(name).resolve()
    if not path.is_file():
        raise MissingInput(f"{name}: there is no such plug-in file. Check --plugins.")
    if _same_file(sys.modules.get("__main__"), path) or _same_file(
        sys.modules.get("__mp_main__"),
        path,  # the main module in a process of multiprocessing
    ):
        return
    folder, module = _dotted(path)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found = _import(module)
    if not _same_file(found, path):
        raise UsageError(
            f"{name}: the module name {module!r} belongs to {found.__file__}. Rename the file."
        )


def _import(module: str) -> ModuleType:
    """Import a module. Raises: MissingInput, UsageError: the message names the line at fault."""
    try:
        return importlib.import_module(module)
    except ScenestoreError:
        raise
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise MissingInput(
                f"plug-in module {module!r}: no module named {missing!r}. Install it, set "
                "PYTHONPATH to its folder, or name its file: --plugins FOLDER/FILE.py."
            ) from error
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        if isinstance(error, SyntaxError):
            where = ""  # its own message names file and line
        raise UsageError(
            f"plug-in module {module!r} cannot be imported: {where}{type(error).__name__}: "
            f"{error}. Correct it and run again."
        ) from error


def _place(name: str) -> str:
    """Return a loaded module as ``load_plugins`` takes it in another process."""
    file = getattr(sys.modules[name], "__file__", None)
    if name in ("__main__", "__mp_main__"):
        if not file or not Path(file).is_file():
            raise UsageError(
                "a plug-in was defined in an interactive session, where other processes cannot "
                "import it. Move it to a file and pass --plugins FILE.py."
            )
        return str(Path(file).resolve())
    if not file or Path(file).suffix != ".py":
        return name
    path = Path(file).resolve()
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    if any(path.is_relative_to(folder) for folder in installed) or _dotted(path)[1] != name:
        return name
    return str(path)


def _dotted(path: Path) -> tuple[Path, str]:
    """Return the folder from which a file is imported, and its module name.

    Folders with an ``__init__.py`` are packages.
    """
    parts, folder = [] if path.stem == "__init__" else [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _same_file(module: ModuleType | None, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and Path(str(file)).resolve() == path
