"""Find and read configuration files, and apply command-line overrides to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.errors import ConfigError, MissingInput, UnknownName
from features.yaml_text import parse_yaml
from models.configuration.config import SECTIONS, Config, from_dict

_MODELS = Path(__file__).resolve().parents[1]
_PLACES = (_MODELS / "configs", _MODELS.parent / "configs")  # an installed package, a checkout


def shipped() -> dict[str, Path]:
    """Return the shipped configurations: name -> file."""
    files = (path for place in _PLACES for path in sorted(place.glob("*/*.yaml")))
    return {path.stem: path for path in files if path.parent.name != "compare"}


def find(name: str | Path) -> Path:
    """Return the file of a configuration: a path, or the name of a shipped one.

    ``configs/NAME.yaml``, without the folder of the family, also names a shipped one.

    Raises: MissingInput: neither a file nor a shipped configuration.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped()
    if path.stem in known and path in (Path(path.stem), Path("configs", path.stem + ".yaml")):
        return known[path.stem]
    if path.suffix or len(path.parts) > 1 or path.exists():
        raise MissingInput(f"{path}: there is no such configuration file. Check the path.")
    raise MissingInput(str(UnknownName.of("configuration", str(name), known)))


def load(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply command-line overrides.

    Args:
        name: YAML file, or the name of a shipped configuration.
        overrides: ``["--optim.lr", "1e-4", "--run.seed=3", "--run.deterministic"]``.

    Raises:
        MissingInput: no such file.
        ConfigError: unknown or duplicate key, wrong type or range, or no model name.
    """
    path = find(name)
    tree = _read_yaml(path)
    for key, value in _parse_overrides(overrides):
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            below = branch[parent] if branch.get(parent) is not None else {}
            if not isinstance(below, dict):
                raise ConfigError(f"{path}: {parent} is {below!r}, so --{key} cannot be set.")
            branch[parent] = branch = below
        branch[leaf] = value
    config = from_dict(tree, str(path))
    if not config.model.name:
        raise ConfigError(f"{path}: model.name is missing; name a model, for example sgm.")
    if not config.run.folder:
        folder = str(Path("runs") / path.stem)
        config = config.model_copy(update={"run": config.run.model_copy(update={"folder": folder})})
    return config


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; expected a YAML file.") from error
    tree = parse_yaml(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: contains {tree!r}, but should contain sections of keys.")
    return tree


def _parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Return (``section.key``, value) for each override."""
    pairs: list[tuple[str, Any]] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r}: expected --section.key value.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            bare = not left or left[0].startswith("--")  # such as --run.deterministic
            text = "true" if bare else left.pop(0)
        section, _, name = key.partition(".")
        if not name:
            known = [
                f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.model_fields
            ]
            raise ConfigError(f"--{key}: {UnknownName.of('option', key, known)}")
        try:
            pairs.append(
                (key, text if _is_text(section, name, text) else parse_yaml(text, f"--{key}"))
            )
        except ConfigError as error:
            raise ConfigError(f"--{key}: {text[:200]!r} is not a YAML value.") from error
    return pairs


def _is_text(section: str, name: str, text: str) -> bool:
    """Whether an override is text as it is written: YAML would read 123_45 as a number."""
    field = SECTIONS[section].model_fields.get(name) if section in SECTIONS else None
    hint = None if field is None else field.annotation
    if hint == str | None and parse_yaml(text or "''", f"--{section}.{name}") is None:
        return False  # null
    return not text or (hint in (str, str | None) and text[0] not in "'\"")
